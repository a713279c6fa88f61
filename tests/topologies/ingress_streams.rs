//! Several ingress streams, each with a reader of its own.

use std::collections::BTreeMap;

use crate::support::client::{data, numbers};
use crate::support::wait::same;
use crate::support::{BOUND, Client, NodeBuilder, RedisServer, eventually};

const STREAMS: [&str; 3] = ["events", "events:2", "other"];

/// For each stream the node that its lease names.
async fn readers(server: &RedisServer) -> BTreeMap<&'static str, String> {
    let mut readers = BTreeMap::new();
    for stream in STREAMS {
        let consumers: Vec<BTreeMap<String, redis::Value>> =
            server.try_ask(&["XINFO", "CONSUMERS", stream, "switchboard"]).await.unwrap_or_default();
        for consumer in consumers {
            let name: String = redis::from_redis_value_ref(&consumer["name"]).expect("a name");
            if let Some(lease) = name.strip_prefix("lease ") {
                let node = lease.split(' ').next().expect("a node");
                readers.insert(stream, node.to_owned());
            }
        }
    }
    readers
}

#[tokio::test]
async fn they_are_spread_over_the_nodes_and_each_keeps_its_order() {
    let server = RedisServer::start().await;
    let url = server.url();
    let start = async |id: &str| {
        let builder = NodeBuilder::redis_at(id, &url);
        builder.with(&[("--ingress", &STREAMS.join(",")), ("--node-ttl", "1500ms")]).start().await
    };
    let a = start("node-a").await;
    eventually(BOUND, "one node that reads all", async || {
        same(readers(&server).await.into_values().collect(), vec!["node-a".to_owned(); 3])
    })
    .await;
    // A second node gets its share, and a third; where one dies the others take over.
    let mut b = start("node-b").await;
    let c = start("node-c").await;
    let spread = async || {
        let mut nodes: Vec<_> = readers(&server).await.into_values().collect();
        nodes.sort();
        nodes
    };
    eventually(2 * BOUND, "one stream for each node", async || {
        same(spread().await, vec!["node-a".to_owned(), "node-b".to_owned(), "node-c".to_owned()])
    })
    .await;

    let mut clients = BTreeMap::new();
    for stream in STREAMS {
        clients.insert(stream, Client::as_user(&a, &format!("of-{stream}"), "tab-1").await);
    }
    // One user may be published to by all of them: each is told apart from the others.
    let mut all = Client::as_user(&c, "all", "tab-1").await;
    for number in 1..=100 {
        if number == 50 {
            b.kill();
        }
        for stream in STREAMS {
            let (user, number) = (format!("of-{stream}"), number.to_string());
            server
                .ask::<String>(&[
                    "XADD",
                    stream,
                    "*",
                    "users",
                    &format!("{user},all"),
                    "event",
                    "e",
                    "data",
                    &number,
                ])
                .await;
        }
    }
    for (stream, client) in &mut clients {
        assert_eq!(data(&client.events(100).await), numbers(1, 100), "{stream}");
    }
    let mut seen: Vec<usize> =
        data(&all.events(300).await).iter().map(|it| it.parse().expect("a number")).collect();
    seen.sort_unstable();
    let wanted: Vec<usize> = (1..=100).flat_map(|number| [number; 3]).collect();
    assert_eq!(seen, wanted);
}
