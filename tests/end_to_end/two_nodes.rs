//! The main job: a worker's event reaches its user's sockets, on whichever node they are, once and in order.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::client::{ids, numbers};
use crate::support::pair::Single;
use crate::support::{Client, Event, NodeBuilder, Pair, Worker, parse_id, strictly_increasing};

#[tokio::test]
async fn a_worker_on_b_reaches_a_client_on_a() {
    let mut pair = Pair::start().await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    assert_eq!(client.welcomed("nodeId"), "node-a");
    let mut worker = Worker::open(&pair.b).await;
    let frame = json!({"userId": "42", "event": "progress", "data": {"percent": 40}});
    let ack = worker.publish(frame).await;
    assert_eq!(ack["nodes"], json!(["node-a"]));
    let event = client.event().await;
    assert_eq!(event.id.as_deref(), ack["id"].as_str());
    assert_eq!((event.event.as_str(), event.data.as_str()), ("progress", r#"{"percent":40}"#));

    let log = pair.db.stream("log:{user:42}").await;
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(Some(&log[0].id), event.id.as_ref());
    assert_eq!((log[0].get("event"), log[0].get("data")), ("progress", r#"{"percent":40}"#));
}

#[tokio::test]
async fn sessions_on_both_nodes_get_it_and_the_ack_names_both() {
    let pair = Pair::start().await;
    let mut on_a = Client::as_user(&pair.a, "42", "tab-a").await;
    let mut on_b = Client::as_user(&pair.b, "42", "tab-b").await;
    let ack = Worker::open(&pair.a).await.publish(json!({"userId": "42", "event": "e"})).await;
    let nodes: BTreeSet<&str> = ack["nodes"].as_array().unwrap().iter().filter_map(|n| n.as_str()).collect();
    assert_eq!(nodes, BTreeSet::from(["node-a", "node-b"]));
    for client in [&mut on_a, &mut on_b] {
        assert_eq!(client.event().await.id.as_deref(), ack["id"].as_str());
    }
}

#[tokio::test]
async fn nodes_is_empty_again_once_the_user_has_left() {
    let pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let client = Client::as_user(&pair.a, "42", "tab-1").await;
    client.close().await;
    // The keys are gone before a socket's close is answered or shortly after it.
    worker.nobody_left("42").await;
}

#[tokio::test]
async fn ids_increase_strictly_whichever_node_publishes() {
    let mut pair = Pair::start().await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let mut on_a = Worker::open(&pair.a).await;
    let mut on_b = Worker::open(&pair.b).await;
    let mut published = Vec::new();
    for number in 0..50 {
        let worker = if number % 2 == 0 { &mut on_a } else { &mut on_b };
        published.push(worker.event("42", &number.to_string()).await);
    }
    strictly_increasing(&published);
    assert_eq!(ids(&client.events(50).await), published);
    assert_eq!(pair.db.log_ids("42").await, published);
}

/// Workers that publish side by side, how many events each, and what that makes.
const WORKERS: usize = 4;
const EACH: usize = 500;
const ALL: usize = WORKERS * EACH;

#[tokio::test]
async fn two_thousand_events_by_workers_on_both_nodes_arrive_once_in_order_at_three_sessions() {
    // The log holds all of them: a session that falls behind may catch up, but has no reason for a gap.
    let mut pair = Pair::with(&[("--log-length", "4000")]).await;
    let mut sessions = Vec::new();
    for (node, name) in [(&pair.a, "tab-1"), (&pair.a, "tab-2"), (&pair.b, "tab-3")] {
        sessions.push(Client::as_user(node, "42", name).await);
    }
    let mut publishing = tokio::task::JoinSet::new();
    for number in 0..WORKERS {
        let node = if number % 2 == 0 { &pair.a } else { &pair.b };
        let mut worker = Worker::open(node).await;
        publishing.spawn(async move {
            // Nothing is awaited in between: this is the load, the answers are counted afterwards.
            for item in 0..EACH {
                let data = number * EACH + item;
                let frame = json!({"ref": data.to_string(), "userId": "42", "event": "e", "data": data});
                worker.send(&frame.to_string()).await;
            }
            let mut ids = Vec::new();
            for _ in 0..EACH {
                let ack = worker.answer().await;
                assert_eq!(ack["type"], "ack", "{ack}");
                ids.push(ack["id"].as_str().expect("an id").to_owned());
            }
            ids
        });
    }
    let mut received: Vec<Vec<Event>> = Vec::new();
    for session in &mut sessions {
        received.push(session.events(ALL).await);
    }
    let mut acked: Vec<String> = publishing.join_all().await.concat();
    acked.sort_by_key(|id| parse_id(id));
    let logged = pair.db.log_ids("42").await;
    assert_eq!(acked, logged, "what was acknowledged is what is in the log");
    for events in &received {
        assert_eq!(ids(events), logged, "in the log's order, each one once");
        let mut items: Vec<usize> = events.iter().map(|event| event.data.parse().unwrap()).collect();
        // Each worker's own events keep the order in which it sent them.
        for worker in 0..WORKERS {
            let own = items.iter().filter(|item| *item / EACH == worker);
            assert!(own.is_sorted(), "worker {worker}'s events changed their order");
        }
        items.sort_unstable();
        assert_eq!(items, (0..ALL).collect::<Vec<_>>());
    }
    strictly_increasing(&logged);
}

#[tokio::test]
async fn many_users_on_two_nodes_each_get_their_own() {
    let pair = Pair::start().await;
    let mut clients = Vec::new();
    for number in 0..40 {
        let node = if number % 2 == 0 { &pair.a } else { &pair.b };
        clients.push(Client::as_user(node, &format!("user-{number}"), "tab-1").await);
    }
    let mut workers = [Worker::open(&pair.a).await, Worker::open(&pair.b).await];
    for round in 1..=10 {
        for number in 0..40 {
            let worker = &mut workers[(number + round) % 2];
            worker.event(&format!("user-{number}"), &round.to_string()).await;
        }
    }
    for client in &mut clients {
        let events = client.events(10).await;
        assert_eq!(crate::support::client::data(&events), numbers(1, 10));
    }
}

/// Operators watch what Redis counts as errors. But a node that starts makes a stream's group, which may be there already.
#[tokio::test]
async fn what_nodes_ask_is_no_error_to_redis() {
    let mut single = Single::start().await;
    let () = single.db.run(redis::cmd("CONFIG").arg("RESETSTAT")).await;
    let b = NodeBuilder::redis("node-b", &single.redis).start().await;
    let mut client = Client::as_user(&b, "42", "tab-1").await;
    Worker::open(&single.a).await.event("42", "1").await;
    assert_eq!(client.event().await.data, "1");
    let told: String = single.db.run(redis::cmd("INFO").arg("errorstats")).await;
    let mut errors = told.lines().filter(|line| line.starts_with("errorstat_"));
    assert!(errors.all(|line| line.starts_with("errorstat_BUSYGROUP:")), "{told}");
}
