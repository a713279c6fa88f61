//! Whom an event reaches: one session, all but one, several users, everybody; logged or not; once or twice.

use serde_json::json;

use crate::support::client::data;
use crate::support::{Client, Node, NodeBuilder, Pair, Worker, http, parse_id};

/// Publishes one more event to the user and expects it next: nothing else was on its way to the client.
async fn nothing_more(client: &mut Client, worker: &mut Worker) {
    let user = client.welcomed("userId").to_owned();
    let id = worker.event(&user, "\"last\"").await;
    let event = client.event().await;
    assert_eq!(event.id, Some(id), "something came that should not: {event:?}");
}

async fn two_tabs() -> (Node, Client, Client, Worker) {
    let node = NodeBuilder::local("solo").start().await;
    let first = Client::as_user(&node, "42", "tab-1").await;
    let second = Client::as_user(&node, "42", "tab-2").await;
    let worker = Worker::open(&node).await;
    (node, first, second, worker)
}

#[tokio::test]
async fn a_client_id_names_one_session() {
    let (_node, mut first, mut second, mut worker) = two_tabs().await;
    worker.publish(json!({"userId": "42", "clientId": "tab-1", "event": "for-one"})).await;
    assert_eq!(first.event().await.event, "for-one");
    nothing_more(&mut second, &mut worker).await;
}

#[tokio::test]
async fn events_for_another_session_are_neither_replayed_nor_missing() {
    let pair = Pair::start().await;
    let mut worker = Worker::open(&pair.a).await;
    let before = worker.event("42", "1").await;
    worker.publish(json!({"userId": "42", "clientId": "tab-1", "event": "e", "data": 2})).await;
    let after = worker.event("42", "3").await;
    let mut other = Client::open(&pair.b, &format!("userId=42&clientId=tab-2&since={before}")).await;
    assert_eq!(other.welcome["recovered"], true, "{}", other.welcome);
    assert_eq!(other.event().await.id.as_ref(), Some(&after));
    let query = format!("userId=42&clientId=tab-1&since={before}");
    let mut meant = Client::open(&pair.b, &query).await;
    assert_eq!(data(&meant.events(2).await), ["2", "3"]);
}

#[tokio::test]
async fn except_client_id_leaves_one_session_out() {
    let (_node, mut first, mut second, mut worker) = two_tabs().await;
    let frame = json!({"userId": "42", "exceptClientId": "tab-1", "event": "for-the-others"});
    worker.publish(frame).await;
    assert_eq!(second.event().await.event, "for-the-others");
    nothing_more(&mut first, &mut worker).await;
}

#[tokio::test]
async fn targets_hold_across_nodes() {
    let pair = Pair::start().await;
    let mut on_a = Client::as_user(&pair.a, "42", "tab-a").await;
    let mut on_b = Client::as_user(&pair.b, "42", "tab-b").await;
    let mut worker = Worker::open(&pair.a).await;
    worker.publish(json!({"userId": "42", "clientId": "tab-b", "event": "only-b"})).await;
    worker.publish(json!({"userId": "42", "exceptClientId": "tab-b", "event": "not-b"})).await;
    assert_eq!(on_a.event().await.event, "not-b");
    assert_eq!(on_b.event().await.event, "only-b");
    nothing_more(&mut on_a, &mut worker).await;
    assert_eq!(on_b.event().await.data, "\"last\"");
}

#[tokio::test]
async fn several_users_get_their_events_and_the_answer_has_their_ids_in_order() {
    let pair = Pair::start().await;
    let mut clients = Vec::new();
    for (user, node) in [("u1", &pair.a), ("u2", &pair.b), ("u3", &pair.a)] {
        clients.push(Client::as_user(node, user, "tab-1").await);
    }
    let mut worker = Worker::open(&pair.b).await;
    let frame = json!({"userIds": ["u3", "offline", "u1", "u2"], "event": "e", "data": [1]});
    let ack = worker.publish(frame).await;
    let ids = ack["ids"].as_array().unwrap_or_else(|| panic!("no `ids` in {ack}"));
    assert_eq!(ids.len(), 4, "{ack}");
    for (client, position) in clients.iter_mut().zip([2, 3, 0]) {
        let event = client.event().await;
        assert_eq!(event.id.as_deref(), ids[position].as_str(), "{ack}");
        assert_eq!(event.data, "[1]");
    }
    let mut late = Client::open(&pair.a, "userId=offline&since=0").await;
    assert_eq!(late.event().await.id.as_deref(), ids[1].as_str());
}

#[tokio::test]
async fn a_node_that_holds_several_of_the_users_is_named_once() {
    let pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let _first = Client::as_user(&pair.a, "u1", "tab-1").await;
    let _second = Client::as_user(&pair.b, "u2", "tab-1").await;
    let _third = Client::as_user(&pair.a, "u3", "tab-1").await;
    let ack = worker.publish(json!({"userIds": ["u1", "u2", "u3"], "event": "e"})).await;
    assert_eq!(ack["nodes"], json!(["node-a", "node-b"]));
    let ack = worker.publish(json!({"userIds": ["u3", "u1"], "event": "e"})).await;
    assert_eq!(ack["nodes"], json!(["node-a"]));
}

#[tokio::test]
async fn a_broadcast_reaches_every_client_of_every_node_without_an_id() {
    let mut pair = Pair::start().await;
    let mut clients = Vec::new();
    for (user, node) in [("u1", &pair.a), ("u2", &pair.b), ("u1", &pair.b), ("u3", &pair.a)] {
        clients.push(Client::open(node, &format!("userId={user}")).await);
    }
    let mut worker = Worker::open(&pair.a).await;
    worker.publish(json!({"broadcast": true, "event": "notice", "data": "down at noon"})).await;
    for client in &mut clients {
        let event = client.event().await;
        assert_eq!((event.id, event.event.as_str()), (None, "notice"));
        assert_eq!(event.data, "\"down at noon\"");
    }
    for client in &mut clients {
        let user = client.welcomed("userId").to_owned();
        assert_eq!(pair.db.log_ids(&user).await, Vec::<String>::new(), "a broadcast was logged");
    }
}

#[tokio::test]
async fn a_transient_event_has_no_id_and_is_not_logged() {
    let mut pair = Pair::start().await;
    let mut on_a = Client::as_user(&pair.a, "42", "tab-a").await;
    let mut worker = Worker::open(&pair.b).await;
    let frame = json!({"userId": "42", "event": "typing", "data": true, "transient": true});
    let ack = worker.publish(frame).await;
    assert!(ack["id"].is_null(), "a transient event has no id: {ack}");
    let logged = worker.event("42", "1").await;
    let (first, second) = (on_a.event().await, on_a.event().await);
    assert_eq!((first.id, first.event.as_str()), (None, "typing"));
    assert_eq!(second.id.as_ref(), Some(&logged));
    assert_eq!(pair.db.log_ids("42").await, std::slice::from_ref(&logged));
    let mut late = Client::open(&pair.b, "userId=42&clientId=late&since=0").await;
    assert_eq!(late.welcome["replayed"], 1, "{}", late.welcome);
    assert_eq!(late.event().await.id, Some(logged));
}

#[tokio::test]
async fn an_idempotency_key_publishes_once_and_answers_with_the_first_id() {
    let pair = Pair::start().await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let mut on_a = Worker::open(&pair.a).await;
    let mut on_b = Worker::open(&pair.b).await;
    let frame = json!({"userId": "42", "event": "e", "data": 1, "key": "order 7"});
    let first = on_a.publish(frame.clone()).await;
    assert_eq!(client.event().await.id.as_deref(), first["id"].as_str());
    // From the same node, from the other one, and by HTTP.
    assert_eq!(on_a.publish(frame.clone()).await["id"], first["id"]);
    assert_eq!(on_b.publish(frame.clone()).await["id"], first["id"]);
    let by_http = http::post(&pair.b.worker_http("/publish"), &frame.to_string()).await;
    assert_eq!(by_http.json()["id"], first["id"]);
    nothing_more(&mut client, &mut on_a).await;
}

#[tokio::test]
async fn a_key_counts_per_user_and_different_keys_are_different_events() {
    let node = NodeBuilder::local("solo").start().await;
    let mut worker = Worker::open(&node).await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut other = Client::as_user(&node, "43", "tab-1").await;
    for (user, key, number) in [("42", "k", 1), ("43", "k", 2), ("42", "l", 3), ("42", "k", 4)] {
        worker.publish(json!({"userId": user, "event": "e", "data": number, "key": key})).await;
    }
    assert_eq!(data(&client.events(2).await), ["1", "3"]);
    nothing_more(&mut client, &mut worker).await;
    assert_eq!(other.event().await.data, "2");
    nothing_more(&mut other, &mut worker).await;
}

#[tokio::test]
async fn a_collapse_key_keeps_only_the_newest_for_whoever_is_behind() {
    let pair = Pair::start().await;
    let mut here = Client::as_user(&pair.a, "42", "tab-1").await;
    let mut worker = Worker::open(&pair.b).await;
    let first = worker.event("42", "\"start\"").await;
    let mut newest = String::new();
    for percent in 1..=20 {
        let frame = json!({"userId": "42", "event": "progress", "data": percent, "collapseKey": "job:7"});
        let ack = worker.publish(frame).await;
        newest = ack["id"].as_str().unwrap().to_owned();
    }
    assert_eq!(here.events(21).await.len(), 21, "whoever is not behind sees them all");
    let mut behind = Client::open(&pair.a, &format!("userId=42&clientId=tab-2&since={first}")).await;
    assert_eq!(behind.welcome["recovered"], true, "a replaced event is not missing: {}", behind.welcome);
    assert_eq!(behind.welcome["replayed"], 1, "{}", behind.welcome);
    let event = behind.event().await;
    assert_eq!((event.id.as_deref(), event.data.as_str()), (Some(newest.as_str()), "20"));
    assert!(parse_id(&newest) > parse_id(&first));
    nothing_more(&mut behind, &mut worker).await;
}
