//! A Redis that comes back without its newest writes: replication is asynchronous, and so may be the disk.

use serde_json::json;

use crate::support::client::{data, numbers};
use crate::support::{BOUND, Client, Node, NodeBuilder, RedisServer, Worker, eventually, within};

#[tokio::test]
async fn a_session_that_has_seen_what_the_log_has_lost_is_told() {
    let mut server = RedisServer::start().await;
    let url = server.url();
    let node = NodeBuilder::redis_at("node-a", &url).start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    let mut ids = worker.count("42", 1, 5).await;
    server.ask::<String>(&["SAVE"]).await;
    ids.extend(worker.count("42", 6, 10).await);
    assert_eq!(data(&client.events(10).await), numbers(1, 10));
    server.kill();
    server.start_again().await; // with what it had at the fifth event

    let gap = client.frame("a gap").await;
    assert_eq!(gap["type"], "gap", "{gap}");
    node.ready().await;
    let event = json!({"ref": "r", "userId": "42", "event": "e", "data": 11}).to_string();
    within(2 * BOUND, "an ack", async { while worker.ask(&event).await["type"] != "ack" {} }).await;
    assert_eq!(client.event().await.data, "11");
    let log: usize = server.ask(&["XLEN", "log:{user:42}"]).await;
    assert_eq!(log, 6, "the five that were kept, and the new one");
    // Nor does the new one hide the loss from those who were away.
    for since in [&ids[4], &ids[7]] {
        let mut away = Client::open(&node, &format!("userId=42&clientId=away&since={since}")).await;
        assert_eq!(away.frame("a gap").await["type"], "gap", "since {since}");
        assert_eq!(away.event().await.data, "11");
        away.close().await;
    }
}

#[tokio::test]
async fn an_event_that_comes_at_once_does_not_hide_what_was_lost_before_it() {
    let server = RedisServer::start().await;
    let url = server.url();
    let node = NodeBuilder::redis_at("node-a", &url).start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    let kept = worker.count("42", 1, 5).await;
    for key in ["log:{user:42}", "nodes:{user:42}"] {
        server.ask::<i64>(&["COPY", key, &format!("{key}:kept")]).await;
    }
    worker.count("42", 6, 10).await;
    assert_eq!(data(&client.events(10).await), numbers(1, 10));
    // As if Redis had been away, and nobody had noticed yet.
    for key in ["log:{user:42}", "nodes:{user:42}"] {
        server.ask::<i64>(&["COPY", &format!("{key}:kept"), key, "REPLACE"]).await;
    }
    worker.count("42", 11, 11).await;
    assert_eq!(client.frame("a gap").await["type"], "gap");
    assert_eq!(client.event().await.data, "11");
    worker.count("42", 12, 12).await;
    assert_eq!(client.event().await.data, "12", "and goes on");
    let mut away = Client::open(&node, &format!("userId=42&clientId=away&since={}", kept[4])).await;
    assert_eq!(away.frame("a gap").await["type"], "gap");
    assert_eq!(data(&away.events(2).await), numbers(11, 12));
}

#[tokio::test]
async fn who_has_only_heard_by_its_welcome_of_what_was_lost_is_told_as_well() {
    let server = RedisServer::start().await;
    let node = NodeBuilder::redis_at("node-a", &server.url()).start().await;
    let mut worker = Worker::open(&node).await;
    let kept = worker.count("42", 1, 5).await;
    server.ask::<i64>(&["COPY", "log:{user:42}", "kept"]).await;
    let lost = worker.count("42", 6, 10).await;
    let query = |client: &str, since: &str| format!("userId=42&clientId={client}&since={since}");
    let mut client = Client::open(&node, &query("tab-1", &lost[4])).await;
    // As if Redis had been away, and nobody had noticed yet.
    server.ask::<i64>(&["COPY", "kept", "log:{user:42}", "REPLACE"]).await;
    server.ask::<i64>(&["HSET", "nodes:{user:42}", "@last", &kept[4]]).await;
    worker.count("42", 11, 11).await;
    assert_eq!(client.frame("a gap").await["type"], "gap");
    assert_eq!(client.event().await.data, "11");
    let mut away = Client::open(&node, &query("away", &kept[4])).await;
    assert_eq!(away.frame("a gap").await["type"], "gap");
    assert_eq!(away.event().await.data, "11");
}

#[tokio::test]
async fn whoever_comes_back_before_anyone_has_looked_is_told_as_well() {
    let mut server = RedisServer::start().await;
    let url = server.url();
    let a = NodeBuilder::redis_at("node-a", &url).start().await;
    let b = NodeBuilder::redis_at("node-b", &url).start().await;
    let mut client = Client::as_user(&a, "42", "tab-1").await;
    let mut worker = Worker::open(&a).await;
    let ids = worker.count("42", 1, 5).await;
    for (node, id) in [(&a, "known-a"), (&b, "known-b")] {
        Client::as_user(node, "42", id).await.close().await;
    }
    eventually(BOUND, "an end that is known", async || match server.ask(&["SCARD", "user:42"]).await {
        1 => Ok(()),
        sessions => Err(format!("{sessions} sessions")),
    })
    .await;
    server.ask::<String>(&["SAVE"]).await;
    worker.count("42", 6, 10).await;
    assert_eq!(data(&client.events(10).await), numbers(1, 10));

    server.kill();
    let open = async |node: &Node, client: &str, since: &str| {
        Client::open_soon(node, &format!("userId=42&clientId={client}{since}")).await
    };
    let since = &format!("&since={}", ids[2]);
    let on_a =
        async { tokio::join!(open(&a, "since-a", since), open(&a, "known-a", ""), open(&a, "new-a", "")) };
    let on_b =
        async { tokio::join!(open(&b, "since-b", since), open(&b, "known-b", ""), open(&b, "new-b", "")) };
    let ((), on_a, on_b) = tokio::join!(server.start_again(), on_a, on_b); // with what it had at the fifth event
    assert_eq!(client.frame("a gap").await["type"], "gap");
    let mut others = vec![client];
    for (mut since, mut known, new) in [on_a, on_b] {
        assert_eq!(known.frame("a gap").await["type"], "gap");
        let frames = [since.frame("4").await, since.frame("5").await, since.frame("a gap").await];
        let gaps = frames.iter().filter(|frame| frame["type"] == "gap");
        assert_eq!(gaps.count(), 1, "{frames:?}");
        others.extend([since, known, new]);
    }
    let event = json!({"ref": "r", "userId": "42", "event": "e", "data": 11}).to_string();
    within(2 * BOUND, "an ack", async { while worker.ask(&event).await["type"] != "ack" {} }).await;
    for other in &mut others {
        assert_eq!(other.event().await.data, "11", "told once, and who is new not at all: {}", other.welcome);
    }
}
