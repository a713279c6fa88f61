//! Local mode: one node without Redis does the whole main job at once.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::client::{data, ids, numbers};
use crate::support::{BOUND, Client, NodeBuilder, Worker, http, parse_id, strictly_increasing};

#[tokio::test]
async fn the_welcome_has_every_documented_field_and_no_other() {
    let node = NodeBuilder::local("solo").start().await;
    let client = Client::as_user(&node, "42", "tab-1").await;
    let welcome = client.welcome.as_object().unwrap();
    let names: BTreeSet<&str> = welcome.keys().map(String::as_str).collect();
    let documented =
        ["type", "userId", "clientId", "nodeId", "position", "recovered", "replayed", "pingInterval"];
    assert_eq!(names, BTreeSet::from(documented));
    assert_eq!(welcome["userId"], "42");
    assert_eq!(welcome["clientId"], "tab-1");
    assert_eq!(welcome["nodeId"], "solo");
    assert_eq!(welcome["recovered"], true, "there was nothing to recover");
    assert_eq!(welcome["replayed"], 0);
    assert_eq!(welcome["pingInterval"], 25_000, "the default, in milliseconds");
    // The log is empty: the position is the clock, and this test runs later than 2020 and before 2100.
    let (ms, sequence) = parse_id(client.welcomed("position"));
    assert!((1_577_836_800_000..4_102_444_800_000).contains(&ms), "{ms} is not a time in milliseconds");
    assert_eq!(sequence, 0);
}

#[tokio::test]
async fn a_client_without_an_id_is_given_a_ulid_of_its_own() {
    let node = NodeBuilder::local("solo").start().await;
    let first = Client::open(&node, "userId=42").await;
    let second = Client::open(&node, "userId=42").await;
    for client in [&first, &second] {
        let id = client.welcomed("clientId");
        let crockford = |c: char| "0123456789ABCDEFGHJKMNPQRSTVWXYZ".contains(c.to_ascii_uppercase());
        assert!(id.len() == 26 && id.chars().all(crockford), "{id} is not a ULID");
    }
    assert_ne!(first.welcomed("clientId"), second.welcomed("clientId"));
}

#[tokio::test]
async fn an_event_reaches_every_session_of_its_user_and_nobody_else() {
    let node = NodeBuilder::local("solo").start().await;
    let mut tabs = Vec::new();
    for name in ["tab-1", "tab-2", "tab-3"] {
        tabs.push(Client::as_user(&node, "42", name).await);
    }
    let mut stranger = Client::as_user(&node, "43", "tab-1").await;
    let mut worker = Worker::open(&node).await;

    let frame = json!({"userId": "42", "event": "progress", "data": {"percent": 40}});
    let ack = worker.publish(frame).await;
    for tab in &mut tabs {
        let event = tab.event().await;
        assert_eq!(event.id.as_deref(), ack["id"].as_str());
        assert_eq!((event.event.as_str(), event.data.as_str()), ("progress", r#"{"percent":40}"#));
    }
    // The stranger's first event is their own: the other one never came.
    let own = worker.event("43", "1").await;
    assert_eq!(stranger.event().await.id, Some(own));
}

#[tokio::test]
async fn events_arrive_in_order_with_increasing_ids() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    let published = worker.count("42", 1, 200).await;
    let events = client.events(200).await;
    assert_eq!(data(&events), numbers(1, 200));
    assert_eq!(ids(&events), published);
    strictly_increasing(&published);
}

#[tokio::test]
async fn an_upgrade_works_on_both_documented_paths() {
    let node = NodeBuilder::local("solo").start().await;
    for path in ["/", "/ws"] {
        let answer = http::upgrade(&node.client_http(&format!("{path}?userId=42")), &[]).await;
        assert_eq!(answer.status, 101, "{path}: {answer:?}");
        let answer = http::upgrade(&node.worker_http(path), &[]).await;
        assert_eq!(answer.status, 101, "{path} on the worker port: {answer:?}");
    }
}

#[tokio::test]
async fn the_console_page_is_there_in_development() {
    let node = NodeBuilder::local("solo").start().await;
    let page = http::get(&node.client_http("/")).await;
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
    assert!(page.body.contains("<script") || page.body.contains("<html"), "{page:?}");
}

#[tokio::test]
async fn the_console_page_is_not_there_in_production() {
    let unlocked =
        [("--env", "production"), ("--auth", "none"), ("--worker-token", "none"), ("--client-origin", "*")];
    let node = NodeBuilder::local("solo").with(&unlocked).start().await;
    http::get(&node.client_http("/")).await.refused(404);
    // Only the page is gone: clients still connect there.
    Client::as_user(&node, "42", "tab-1").await;
}

#[tokio::test]
async fn health_and_readiness_are_answered_on_both_ports() {
    let node = NodeBuilder::local("solo").start().await;
    for path in ["/healthz", "/readyz"] {
        for url in [node.client_http(path), node.worker_http(path)] {
            let answer = http::get(&url).await;
            assert_eq!(answer.status, 200, "{url}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn auto_mode_without_a_redis_url_is_local() {
    let node = NodeBuilder::bare("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let ack = Worker::open(&node).await.publish(json!({"userId": "42", "event": "e"})).await;
    assert_eq!(ack["nodes"], json!(["solo"]));
    assert_eq!(client.event().await.event, "e");
}

#[tokio::test]
async fn the_first_message_upward_that_is_dropped_is_told_aloud() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    client.send(r#"{"type":"message","event":"cancel","data":{"job":7}}"#).await;
    let told = |line: &str| line.contains("WARN") && line.contains("cancel") && line.contains("needs Redis");
    let line = node.log_line(BOUND, "that it was dropped", told).await;
    assert!(!line.contains("job"), "what it says is no matter of the log: {line}");
}
