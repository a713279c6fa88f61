//! Following one event through the log of the nodes by its id.

use serde_json::Value;

use crate::support::{BOUND, Client, Node, NodeBuilder, RedisServer, Worker};

const FILTER: &str = "switchboard=debug,redis=warn";

async fn says(node: &Node, step: &str, id: &str) -> Value {
    let what = format!("`{step}` for {id} at {}", node.id);
    let fits = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        line["fields"]["message"] == *step && line["fields"]["id"] == *id
    };
    serde_json::from_str(&node.log_line(BOUND, &what, fits).await).expect("JSON")
}

#[tokio::test]
async fn an_event_is_published_hinted_and_written() {
    let redis = RedisServer::start().await;
    let with = |id| NodeBuilder::redis(id, &redis).set("--log-level", FILTER);
    let (a, b) = (with("node-a").start().await, with("node-b").start().await);
    let _client = Client::as_user(&a, "42", "tab-1").await;
    let id = Worker::open(&b).await.event("42", "\"hush, a secret\"").await;
    assert_eq!(says(&b, "published", &id).await["fields"]["user"], "42");
    assert_eq!(says(&a, "hinted", &id).await["fields"]["user"], "42");
    let written = says(&a, "written", &id).await;
    assert_eq!((&written["fields"]["user"], &written["fields"]["client"]), (&"42".into(), &"tab-1".into()));
    assert_eq!(written["level"], "DEBUG");
    for line in a.lines().iter().chain(&b.lines()) {
        assert!(!line.contains("hush"), "content in the log: {line}");
        let line: Value = serde_json::from_str(line).expect("JSON");
        let target = line["target"].as_str().expect("a target");
        assert!(target.starts_with("switchboard"), "another crate below its level: {line}");
    }
}

#[tokio::test]
async fn at_info_no_event_leaves_a_line() {
    let mut node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let id = Worker::open(&node).await.event("42", "1").await;
    client.event().await;
    client.close().await;
    let lines = node.whole_log().await;
    assert!(lines.iter().all(|line| !line.contains(&id)), "{lines:#?}");
}

#[tokio::test]
async fn a_local_node_can_be_followed_too() {
    let node = NodeBuilder::local("solo").set("--log-level", FILTER).start().await;
    let _client = Client::as_user(&node, "42", "tab-1").await;
    let id = Worker::open(&node).await.event("42", "1").await;
    for step in ["published", "hinted", "written"] {
        says(&node, step, &id).await;
    }
}
