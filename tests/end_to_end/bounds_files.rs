//! Sockets and files: each port has its own share, and what will not fit is said at the start.

use crate::support::process::Launch;
use crate::support::raw::handshake;
use crate::support::{
    BOUND, Beside, Client, Node, NodeBuilder, RawClient, RedisServer, Worker, eventually, http, within,
};

/// Of these 128 are for Redis and the like, 3 times 32 for connections between requests and for bodies, 64 for workers.
const FILES: u32 = 512;
const CLIENTS: usize = 512 - 128 - 3 * 32 - 64;
const WORKERS: usize = 64;

/// Upgrades at this port until one is refused; gives those that were not, and the refusal's head.
async fn fill(address: &str, query: impl Fn(usize) -> String) -> (Vec<RawClient>, String) {
    let mut open = Vec::new();
    loop {
        let mut peer = RawClient::connect(address).await;
        peer.write(handshake(&query(open.len()), &[]).as_bytes()).await;
        let head = peer.head("the answer to one of many upgrades").await.expect("an answer");
        if !head.starts_with("HTTP/1.1 101 ") {
            return (open, head.to_lowercase());
        }
        open.push(peer);
        assert!(open.len() <= FILES as usize, "nothing is refused");
    }
}

fn assert_told_when_to_come_back(head: &str) {
    assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nretry-after: "), "{head}");
}

#[tokio::test]
async fn a_full_port_leaves_the_other_its_share() {
    let redis = RedisServer::start().await;
    let node = NodeBuilder::redis("node-a", &redis).open_files(FILES).start().await;
    let mut beside = Beside::open(&node).await;
    let (mut clients, head) = fill(node.client_address(), |number| format!("userId=u-{number}")).await;
    assert_told_when_to_come_back(&head);
    assert_eq!(clients.len(), CLIENTS - 1, "one place is the healthy client's");
    beside.served().await;
    let (mut workers, head) = fill(node.worker_address(), |number| format!("workerId=w-{number}")).await;
    assert_told_when_to_come_back(&head);
    assert_eq!(workers.len(), WORKERS - 1, "one place is the healthy worker's");
    // Both ports are full, and go on answering; so does Redis.
    for url in [node.client_http("/healthz"), node.worker_http("/readyz"), node.worker_http("/users/healthy")]
    {
        assert_eq!(http::get(&url).await.status, 200, "{url}");
    }
    let frame = r#"{"userId":"42","event":"e"}"#;
    assert_eq!(http::post(&node.worker_http("/publish"), frame).await.status, 200);
    beside.served().await;
    // Whoever leaves makes room.
    drop((clients.pop(), workers.pop()));
    Client::open_soon(&node, "userId=late").await;
    eventually(BOUND, "a place for another worker", async || {
        Worker::open_with(&node.worker_url, None).await.map_err(|error| error.to_string())
    })
    .await;
    let complaints = node.lines().into_iter().filter(|line| line.contains("cannot be accepted"));
    assert_eq!(complaints.collect::<Vec<_>>(), Vec::<String>::new(), "it ran out of files");
}

#[tokio::test]
async fn one_worker_too_many_is_told_when_to_come_back_and_may_publish_by_http() {
    let node = NodeBuilder::local("solo").set("--max-workers", "2").start().await;
    let mut beside = Beside::open(&node).await;
    let second = Worker::open(&node).await;
    let answer = http::upgrade(&format!("{}/", node.worker_url), &[]).await;
    assert_eq!(answer.refused(503), "unavailable");
    assert!(answer.body.contains("--max-workers") && !answer.header("retry-after").is_empty(), "{answer:?}");
    let frame = r#"{"userId":"42","event":"e"}"#;
    assert_eq!(http::post(&node.worker_http("/publish"), frame).await.status, 200);
    beside.served().await;
    drop(second);
    eventually(BOUND, "a place for another worker", async || {
        Worker::open_with(&node.worker_url, None).await.map_err(|error| error.to_string())
    })
    .await;
}

fn warnings(node: &Node) -> Vec<String> {
    let warns = |line: &String| line.contains(r#""level":"WARN""#) && line.contains("--max-connections");
    node.lines().into_iter().filter(warns).collect()
}

#[tokio::test]
async fn more_connections_than_files_are_warned_of_in_one_line() {
    let builder = NodeBuilder::local("solo").open_files(FILES);
    assert_eq!(warnings(&builder.start().await), Vec::<String>::new(), "the default fits");
    for (flag, count) in [("--max-connections", CLIENTS + 1), ("--max-workers", 10_000)] {
        let node = builder.clone().set(flag, &count.to_string()).start().await;
        let warnings = warnings(&node);
        // The default for clients becomes less where workers take more; it fits until nothing is left.
        assert_eq!(warnings.len(), 1, "{flag} {count}: {warnings:?}");
        assert!(
            warnings[0].contains(&format!("{flag} {count}")) && warnings[0].contains("512"),
            "{warnings:?}"
        );
    }
    let exact = builder.set("--max-connections", &CLIENTS.to_string()).start().await;
    assert_eq!(warnings(&exact), Vec::<String>::new(), "that fits exactly");
}

#[tokio::test]
async fn a_node_that_runs_out_of_files_says_so_once_serves_on_and_recovers() {
    let mut node =
        NodeBuilder::local("solo").open_files(FILES).set("--max-connections", "2000").start().await;
    let mut beside = Beside::open(&node).await;
    let mut crowd = Vec::new();
    for number in 0..FILES {
        let mut peer = RawClient::connect(node.client_address()).await;
        peer.write(handshake(&format!("userId=u-{number}"), &[]).as_bytes()).await;
        crowd.push(peer);
    }
    node.log_line(BOUND, "that it is out of files", |line| line.contains("cannot be accepted")).await;
    for _ in 0..5 {
        beside.served().await;
    }
    drop(crowd);
    for url in [node.client_http("/healthz"), node.worker_http("/readyz")] {
        http::answers(&url, 200, BOUND).await;
    }
    beside.served().await;
    assert!(node.try_exit().is_none());
    // Once for each time that they ran out, not once for each try.
    let told = node.lines().into_iter().filter(|line| line.contains("cannot be accepted")).count();
    assert!(told <= 10, "{told} lines");
}

#[tokio::test]
async fn check_warns_of_it_too() {
    let args = ["check", "--mode=local", "--max-connections=100000"];
    let launch = Launch { open_files: Some(FILES), ..Launch::of(&args, &[]) };
    let output = within(BOUND, "the settings", launch.output(BOUND)).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("--max-connections 100000") && told.contains("512"), "{told}");
}
