//! `switchboard health`: the exit status that a container's health check goes by.

use crate::support::ports::free_port;
use crate::support::terminal::{line, run};
use crate::support::{NodeBuilder, RedisServer};

#[tokio::test]
async fn a_node_that_is_alive_is_0_wherever_its_address_comes_from_and_whatever_redis_does() {
    let redis = RedisServer::stopped();
    for builder in [NodeBuilder::local("node-a"), NodeBuilder::redis("node-a", &redis)] {
        let node = builder.start_listening().await;
        let port = node.worker_url.rsplit(':').next().unwrap();
        let mut by_url = line(&["health"]);
        by_url.env.push(("WORKER_SOCKET_URL".to_owned(), node.worker_url.clone()));
        // Asked only where nobody is at the port here, which must not be left to the machine.
        by_url.env.push(("WORKER_SOCKET_PORT".to_owned(), free_port().to_string()));
        let mut by_port = line(&["health"]);
        by_port.env.push(("WORKER_SOCKET_PORT".to_owned(), port.to_owned()));
        for asking in [
            line(&["health", "--worker-port", port]),
            line(&["health", "--worker-url", &node.worker_url]),
            line(&["health", "--worker-url", &node.worker_url, "--token", "needless"]),
            line(&["health", "--worker-url", &node.worker_http("/")]),
            by_port,
            by_url,
        ] {
            let ran = run(&asking, "").await;
            assert_eq!(ran.code, Some(0), "{:?} {:?}: {ran:?}", asking.args, asking.env);
            assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""), "{:?}", asking.args);
        }
    }
}

#[tokio::test]
async fn nobody_there_is_1() {
    let port = free_port().to_string();
    let url = format!("ws://127.0.0.1:{port}");
    for args in [["health", "--worker-port", &port], ["health", "--worker-url", &url]] {
        let ran = run(&line(&args), "").await;
        assert_eq!(ran.code, Some(1), "{args:?}: {ran:?}");
        assert!(ran.err.starts_with("switchboard: not healthy: "), "{args:?}: {ran:?}");
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_asked_is_2() {
    for args in [["health", "--worker-url", "relay:4001"], ["health", "--worker-port", "0"]] {
        let ran = run(&line(&args), "").await;
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        assert!(ran.err.contains(args[1]), "{args:?}: {ran:?}");
    }
}
