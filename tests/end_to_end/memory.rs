//! What a node holds once it is quiet again.

use std::fs::read_to_string;

use serde_json::json;

use crate::support::{BOUND, Node, NodeBuilder, eventually, http};

/// KiB of the node in memory that no file backs, as the system tells: asking the node would have it allocate.
fn held(node: &Node) -> u64 {
    let status = read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}

#[tokio::test]
async fn what_was_needed_for_a_moment_is_given_back_by_a_node_that_has_nothing_to_do() {
    let node = NodeBuilder::local("node-a").start().await;
    let url = node.worker_http("/publish");
    let events = |count: usize| {
        let event = |number| json!({"userId": format!("u{number}"), "event": "e", "data": "x".repeat(4096), "transient": true});
        json!((0..count).map(event).collect::<Vec<_>>()).to_string()
    };
    http::post(&url, &events(1)).await;
    let before = held(&node);
    http::post(&url, &events(1000)).await;
    eventually(BOUND, "as little as before", async || {
        let held = held(&node);
        if held < before + 2048 { Ok(()) } else { Err(format!("{before} KiB, and {held} KiB now")) }
    })
    .await;
}
