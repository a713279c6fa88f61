//! Ids that look like other users' and nodes' keys, by every way in: refused, or no more than a name.

use serde_json::json;

use crate::support::pair::{Pair, Single};
use crate::support::{BOUND, Beside, Client, NodeBuilder, Worker, eventually, http};

/// No ids at all.
const BAD: &[&str] = &[
    "healthy}",
    "{healthy",
    "x}{user:healthy",
    "healthy healthy",
    "x,healthy",
    "x\nhealthy",
    "h\u{e9}",
    "x\0",
];
/// Ids, however they look.
const ODD: &[&str] = &[
    "user:healthy",
    "healthy@node-a",
    "healthy%7D",
    "%7Bhealthy",
    "../healthy",
    "healthy/sessions",
    "nodes:",
    "*",
    "h?althy",
    "[h]ealthy",
    "@last",
    "node:node-a",
    "healthy\\",
    "\"healthy\"",
    "=beside",
    "!beside",
    "--",
    "online",
];

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn what_is_no_id_is_refused_by_every_way_in_and_touches_no_key() {
    let mut single = Single::start().await;
    let node = &single.a;
    let mut beside = Beside::open(node).await;
    beside.served().await;
    let before = single.db.keys().await;
    let mut worker = Worker::open(node).await;
    for bad in BAD {
        let id = encoded(bad);
        // As a user.
        let answer = http::upgrade(&node.client_ws(&format!("userId={id}")), &[]).await;
        assert_eq!(answer.refused(400), "invalid_user_id", "{bad:?}");
        let mut hello = Client::upgrade(node, "").await;
        hello.send(&json!({"userId": bad}).to_string()).await;
        assert_eq!(hello.frame("an error").await["code"], "invalid_user_id", "{bad:?}");
        assert_eq!(hello.closed().await.code, 4000);
        let frames =
            [json!({"userId": bad, "event": "e"}), json!({"userIds": ["healthy", bad], "event": "e"})];
        for frame in frames.map(|frame| frame.to_string()) {
            assert_eq!(worker.ask(&frame).await["code"], "invalid_user_id", "{frame}");
            assert_eq!(
                http::post(&node.worker_http("/publish"), &frame).await.refused(400),
                "invalid_user_id"
            );
        }
        let url = node.worker_http(&format!("/users/{id}"));
        assert_eq!(http::get(&url).await.refused(400), "invalid_user_id", "{bad:?}");
        assert_eq!(http::delete(&format!("{url}/sessions")).await.refused(400), "invalid_user_id", "{bad:?}");
        let online = json!({"userIds": [bad]}).to_string();
        assert_eq!(
            http::post(&node.worker_http("/users/online"), &online).await.refused(400),
            "invalid_user_id"
        );
        // As a client.
        let answer = http::upgrade(&node.client_ws(&format!("userId=42&clientId={id}")), &[]).await;
        assert_eq!(answer.refused(400), "invalid_client_id", "{bad:?}");
        for field in ["clientId", "exceptClientId"] {
            let frame = json!({"userId": "healthy", "event": "e", field: bad}).to_string();
            assert_eq!(worker.ask(&frame).await["code"], "invalid_client_id", "{frame}");
        }
        let url = node.worker_http(&format!("/users/healthy/sessions/{id}"));
        assert_eq!(http::delete(&url).await.refused(400), "invalid_client_id", "{bad:?}");
    }
    assert_eq!(single.db.keys().await, before, "a key was made or lost");
    // By the ingress stream they are put aside. (`users` is a list: a comma parts it.)
    let bad: Vec<_> = BAD.iter().filter(|bad| !bad.contains(',')).collect();
    for bad in &bad {
        single.db.xadd("events", &[("user", bad), ("event", "e")]).await;
        single.db.xadd("events", &[("users", bad), ("event", "e")]).await;
        single.db.xadd("events", &[("user", "healthy"), ("event", "e"), ("client", bad)]).await;
    }
    let db = &mut single.db;
    eventually(BOUND, "every bad entry among the dead", async || {
        let dead = db.stream("events:dead").await.len();
        if dead == 3 * bad.len() { Ok(()) } else { Err(format!("{dead} of {}", 3 * bad.len())) }
    })
    .await;
    let mut keys = single.db.keys().await;
    keys.retain(|key| key != "events:dead");
    assert_eq!(keys, before, "a key was made or lost");
    beside.served().await;
}

#[tokio::test]
async fn odd_ids_are_names_and_no_more() {
    let mut pair = Pair::start().await;
    let node = &pair.a;
    let mut beside = Beside::open(node).await;
    beside.served().await;
    // From the other node, so that ids pass through an inbox.
    let mut worker = Worker::open(&pair.b).await;
    let log = pair.db.log_ids("healthy").await;
    for odd in ODD {
        let id = encoded(odd);
        let mut client = Client::open(node, &format!("userId={id}&clientId=beside")).await;
        assert_eq!(client.welcomed("userId"), *odd);
        let published = worker.event(odd, "1").await;
        assert_eq!(client.event().await.id.as_ref(), Some(&published), "{odd}");
        assert_eq!(pair.db.log_ids(odd).await, [published], "{odd}");
        let user = http::get(&node.worker_http(&format!("/users/{id}"))).await.json();
        let sessions = json!([{"clientId": "beside", "nodeId": "node-a"}]);
        assert_eq!(user, json!({"userId": odd, "online": true, "sessions": sessions}));
        assert_eq!(
            http::delete(&node.worker_http(&format!("/users/{id}/sessions/beside"))).await.status,
            204
        );
        assert_eq!(client.closed().await.code, 4010, "{odd}");
    }
    assert_eq!(pair.db.log_ids("healthy").await, log, "somebody wrote into another user's log");
    assert_eq!(pair.db.members("user:healthy").await, ["beside@node-a".to_owned()].into());
    beside.served().await;
}

#[tokio::test]
async fn of_a_workers_id_the_log_has_a_name_and_no_more() {
    let node = NodeBuilder::local("solo").start().await;
    let id = format!("back end\n\u{1b}[31m\u{e9}{}", "x".repeat(1000));
    let url = format!("{}/?workerId={}", node.worker_url, encoded(&id));
    let mut worker = Worker::open_with(&url, None).await.expect("an open worker port");
    worker.event("42", "1").await;
    let line = node.log_line(BOUND, "the worker's", |line| line.contains("worker connected")).await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let name: String = format!("backend[31m{}", "x".repeat(1000)).chars().take(64).collect();
    assert_eq!(line["fields"]["worker"], name, "{line}");
}
