//! SIGTERM: a node hands its sockets over and leaves nothing behind.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::api::{ApiServer, Reply};
use crate::support::client::{data, numbers};
use crate::support::db::set;
use crate::support::pair::Single;
use crate::support::raw::{FIN, TEXT, frame};
use crate::support::{
    BOUND, Client, Closed, Db, Node, NodeBuilder, Pair, RawClient, RedisServer, Scrape, Worker, eventually,
    http,
};

/// So many users, each with one session.
pub async fn users(node: &Node, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..count {
        clients.push(Client::as_user(node, &format!("u{number}"), "tab-1").await);
    }
    clients
}

/// What every socket has to be told by a node that drains.
pub fn check_farewell(closed: &Closed) {
    assert_eq!(closed.code, 1012, "{closed:?}");
    let bye = closed.bye.as_ref().expect("a bye");
    assert_eq!(bye["reason"], "drain", "{bye}");
    assert!(bye["afterMs"].is_u64(), "when to come back: {bye}");
}

#[tokio::test]
async fn sigterm_says_bye_closes_with_1012_and_exits_with_0() {
    let mut node = NodeBuilder::local("solo").set("--drain-timeout", "1s").start().await;
    let mut clients = users(&node, 5).await;
    node.signal(Signal::TERM);
    for client in &mut clients {
        check_farewell(&client.closed().await);
    }
    assert_eq!(node.exit(BOUND).await.code(), Some(0));
}

#[tokio::test]
async fn sigint_drains_too_and_an_idle_node_is_gone_at_once() {
    let mut node = NodeBuilder::local("solo").set("--drain-timeout", "60s").start().await;
    node.signal(Signal::INT);
    assert_eq!(node.exit(BOUND).await.code(), Some(0), "nobody is connected: nothing to wait for");
}

#[tokio::test]
async fn readiness_turns_503_at_once_and_health_stays() {
    let node = NodeBuilder::local("solo").set("--drain-timeout", "10m").start().await;
    let _clients = users(&node, 20).await;
    node.signal(Signal::TERM);
    for url in [node.worker_http("/readyz"), node.client_http("/readyz")] {
        // Long before the ten minutes are over, which is as much as a busy machine can tell.
        http::answers(&url, 503, BOUND).await;
    }
    assert_eq!(http::get(&node.worker_http("/healthz")).await.status, 200);
}

#[tokio::test]
async fn closes_are_spread_over_the_drain_timeout() {
    let mut node = NodeBuilder::local("solo").set("--drain-timeout", "3s").start().await;
    let clients = users(&node, 12).await;
    let start = Instant::now();
    node.signal(Signal::TERM);
    let mut closing = tokio::task::JoinSet::new();
    for mut client in clients {
        closing.spawn(async move {
            check_farewell(&client.closed().await);
            start.elapsed()
        });
    }
    let mut closed = closing.join_all().await;
    closed.sort();
    node.exit(BOUND).await;
    let spread = closed[closed.len() - 1] - closed[0];
    assert!(spread >= Duration::from_secs(1), "all within {spread:?}, of 3 s: {closed:?}");
    // Five times as long as it should take, for a busy machine; what counts is that it does end.
    assert!(start.elapsed() < BOUND, "the drain took {:?}, of 3 s", start.elapsed());
}

#[tokio::test]
async fn the_keys_of_each_session_are_gone_before_its_socket_closes() {
    let mut pair = Pair::with(&[("--drain-timeout", "1s")]).await;
    let mut clients = users(&pair.a, 8).await;
    let _elsewhere = Client::as_user(&pair.b, "u0", "tab-2").await;
    pair.a.signal(Signal::TERM);
    for (number, client) in clients.iter_mut().enumerate() {
        check_farewell(&client.closed().await);
        // Looked at once, not waited for: this is the promise.
        let members = pair.db.members(&format!("user:u{number}")).await;
        let wanted = if number == 0 { set(["tab-2@node-b"]) } else { set([]) };
        assert_eq!(members, wanted, "user:u{number} when its socket on node-a closes");
    }
    assert_eq!(pair.a.exit(BOUND).await.code(), Some(0));
    let live: Vec<String> = pair.db.run(redis::cmd("ZRANGE").arg("nodes").arg(0).arg(-1)).await;
    assert_eq!(live, ["node-b"]);
    assert!(!pair.db.exists("node:node-a").await);
}

#[tokio::test]
async fn events_published_during_a_drain_arrive_and_none_is_lost_or_doubled_by_the_move() {
    let mut pair = Pair::with(&[("--drain-timeout", "6s")]).await;
    let mut clients = users(&pair.a, 12).await;
    let mut worker = Worker::open(&pair.b).await;
    pair.a.signal(Signal::TERM);
    draining(&pair.a).await;
    let mut published = Vec::new();
    for number in 0..clients.len() {
        published.push(worker.event(&format!("u{number}"), "1").await);
    }
    let mut during = 0;
    for (number, client) in clients.iter_mut().enumerate() {
        let first = client.frame("an event or a bye").await;
        let mut last = client.welcomed("position").to_owned();
        let mut received = 0;
        if first["type"] == "event" {
            assert_eq!(first["id"], *published[number], "{first}");
            last = published[number].clone();
            received = 1;
            during += 1;
            check_farewell(&client.closed().await);
        } else {
            assert_eq!((&first["type"], &first["code"]), (&"bye".into(), &1012.into()), "{first}");
        }
        let query = format!("userId=u{number}&clientId=tab-1&since={last}");
        let mut again = Client::open(&pair.b, &query).await;
        assert_eq!(again.welcome["recovered"], true, "{}", again.welcome);
        assert_eq!(again.welcome["replayed"], 1 - received, "{}", again.welcome);
        if received == 0 {
            assert_eq!(again.event().await.id.as_ref(), Some(&published[number]));
        }
        again.round_trip().await;
    }
    assert!(during > 0, "not one of twelve events arrived while the node drained over 6 s");
    assert_eq!(pair.a.exit(BOUND).await.code(), Some(0));
}

#[tokio::test]
async fn entries_of_the_stream_go_out_while_all_nodes_drain() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    // The first one reads the stream, and is gone long before the other.
    let mut first = NodeBuilder::redis("node-a", &redis).set("--drain-timeout", "4s").start().await;
    let last = NodeBuilder::redis("node-b", &redis).set("--drain-timeout", "10s");
    db.xadd("events", &[("user", "42"), ("event", "e"), ("data", "0")]).await;
    published(&mut db, "42").await;
    let mut last = last.start().await;
    let mut clients = Vec::new();
    for (node, count) in [(&first, 8), (&last, 20)] {
        for number in 0..count {
            clients.push(Client::as_user(node, "42", &format!("{}-{number}", node.id)).await);
        }
    }
    for node in [&first, &last] {
        node.signal(Signal::TERM);
        draining(node).await;
    }
    db.xadd("events", &[("user", "42"), ("event", "e"), ("data", "1")]).await;
    assert_eq!(first.exit(BOUND).await.code(), Some(0));
    db.xadd("events", &[("user", "42"), ("event", "e"), ("data", "2")]).await;
    let mut most = Vec::new();
    for client in &mut clients {
        let mut events = Vec::new();
        while let Some(event) = client.event_or_bye().await {
            events.push(event);
        }
        let received = data(&events);
        assert_eq!(received, numbers(1, received.len()));
        most.push(received.len());
    }
    let (on_first, on_last) = most.split_at(8);
    assert_eq!(on_first.iter().max(), Some(&1), "{most:?}");
    assert_eq!(on_last.iter().max(), Some(&2), "{most:?}");
    assert_eq!(last.exit(BOUND).await.code(), Some(0));
    assert_eq!(db.log_ids("42").await.len(), 3);
    assert_eq!(db.stream("events").await, []);
}

#[tokio::test]
async fn publishing_through_the_draining_node_is_answered_and_never_lost() {
    let mut pair = Pair::with(&[("--drain-timeout", "3s")]).await;
    let _held = users(&pair.a, 6).await;
    let mut client = Client::as_user(&pair.b, "42", "tab-1").await;
    pair.a.signal(Signal::TERM);
    draining(&pair.a).await;
    // Whatever is acknowledged has to arrive; once the port is gone, nothing is acknowledged.
    let body = serde_json::json!({"userId": "42", "event": "e"}).to_string();
    let mut acked = Vec::new();
    let start = Instant::now();
    while pair.a.try_exit().is_none() {
        assert!(start.elapsed() < 2 * BOUND, "a drain of 2 s has not ended");
        let url = pair.a.worker_http("/publish");
        let headers = [("content-type", "application/json")];
        let answer = http::request(reqwest::Method::POST, &url, &headers, Some(&body)).await;
        // Without an answer there was nobody to ask any more.
        let Ok(answer) = answer else { continue };
        match answer.status {
            200 => acked.push(answer.json()["id"].as_str().expect("an id").to_owned()),
            503 => {}
            _ => panic!("neither taken nor refused: {answer:?}"),
        }
    }
    assert!(!acked.is_empty(), "a node that drains takes nothing any more");
    let last = Worker::open(&pair.b).await.event("42", "\"last\"").await;
    let mut received = Vec::new();
    while received.last() != Some(&last) {
        received.push(client.event().await.id.expect("an id"));
    }
    for id in acked {
        assert!(received.contains(&id), "{id} was acknowledged and did not arrive");
    }
}

#[tokio::test]
async fn what_was_taken_of_a_worker_is_answered_before_the_node_is_gone() {
    let mut single = Single::with(&[("--log-length", "10000")]).await;
    let mut worker = RawClient::upgrade_at(single.a.worker_address(), "").await;
    let text = json!({"ref": "1", "userId": "42", "event": "e"}).to_string();
    assert!(worker.write(&frame(FIN | TEXT, text.as_bytes()).repeat(5000)).await);
    published(&mut single.db, "42").await;
    single.a.signal(Signal::TERM);
    let (mut acked, mut byes) = (0, 0);
    while let Some(frame) = worker.frame("an answer").await.filter(|frame| frame.opcode == TEXT) {
        let told: Value = serde_json::from_slice(&frame.payload).unwrap();
        acked += usize::from(told["type"] == "ack");
        byes += usize::from(told["type"] == "bye");
    }
    assert_eq!((byes, acked), (1, single.db.log_ids("42").await.len()));
    assert_eq!(single.a.exit(BOUND).await.code(), Some(0));
}

#[tokio::test]
async fn a_request_that_is_under_way_is_answered_before_the_node_is_gone() {
    let mut single = Single::start().await;
    let users: Vec<String> = (0..1000).map(|number| format!("u{number}")).collect();
    let items: Vec<Value> = (0..20).map(|_| json!({"userIds": users, "event": "e"})).collect();
    let (url, items) = (single.a.worker_http("/publish"), Value::from(items).to_string());
    let request = tokio::spawn(async move { http::post(&url, &items).await });
    published(&mut single.db, "u0").await;
    single.a.signal(Signal::TERM);
    let answer = request.await.unwrap();
    let acked = answer.json().as_array().unwrap().iter().filter(|answer| answer["type"] == "ack").count();
    assert_eq!((answer.status, acked), (200, 20));
    assert_eq!(single.a.exit(BOUND).await.code(), Some(0));
}

/// Waits until something has been published to a user.
async fn published(db: &mut Db, user: &str) {
    eventually(BOUND, "an event in the log", async || {
        if db.exists(&format!("log:{{user:{user}}}")).await { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn a_worker_publishes_until_clients_have_been_handed_over_and_is_told_then() {
    let mut node = NodeBuilder::local("solo").set("--drain-timeout", "10s").start().await;
    let mut clients = users(&node, 12).await;
    let mut worker = Worker::open(&node).await;
    // Answered once, it is connected for both sides.
    worker.event("42", "1").await;
    node.signal(Signal::TERM);
    eventually(BOUND, "the first clients sent away", async || {
        let gone = Scrape::of(&node).await.get("disconnects_total{reason=\"drain\"}");
        if gone >= 3.0 { Ok(()) } else { Err(gone.to_string()) }
    })
    .await;
    worker.publish(json!({"broadcast": true, "event": "e"})).await;
    let mut received = 0;
    for client in &mut clients {
        while client.event_or_bye().await.is_some() {
            received += 1;
        }
    }
    assert!(received > 0, "not one of nine clients was still there");
    let closed = worker.closed().await;
    check_farewell(&closed);
    assert_eq!(closed.bye.unwrap()["afterMs"], 0);
    assert_eq!(node.exit(BOUND).await.code(), Some(0));
}

#[tokio::test]
async fn who_has_not_said_hello_is_sent_away_at_once() {
    let node = NodeBuilder::local("solo").set("--drain-timeout", "10m").start().await;
    let _clients = users(&node, 20).await; // most of them stay for minutes
    let mut client = Client::upgrade(&node, "").await;
    node.signal(Signal::TERM);
    check_farewell(&client.closed().await);
}

#[tokio::test]
async fn who_is_being_looked_at_when_a_drain_begins_is_not_let_in() {
    let api = ApiServer::start_holding(|asked| Reply::ok(json!({"userId": asked.json()["userId"]}))).await;
    let settings = [("--auth", "api"), ("--api-server-url", api.url.as_str()), ("--drain-timeout", "10m")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    api.let_out(2);
    let _clients = users(&node, 2).await; // one of them is sent away in five minutes
    let url = node.client_ws("userId=late");
    let late = tokio::spawn(async move { http::upgrade(&url, &[]).await });
    eventually(BOUND, "the question", async || {
        if api.at_once() == 1 { Ok(()) } else { Err("it was not asked".to_owned()) }
    })
    .await;
    node.signal(Signal::TERM);
    draining(&node).await;
    api.let_out(1);
    let answer = late.await.unwrap();
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (503, Some("draining")),
        "{answer:?}"
    );
}

/// Waits until the node has begun to drain.
async fn draining(node: &Node) {
    http::answers(&node.worker_http("/readyz"), 503, BOUND).await;
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let mut node = NodeBuilder::local("solo").set("--drain-timeout", "10m").start().await;
    let _clients = users(&node, 20).await;
    node.signal(Signal::TERM);
    draining(&node).await;
    assert!(node.try_exit().is_none(), "ten minutes cannot be over");
    node.signal(Signal::TERM);
    assert_eq!(node.exit(BOUND).await.code(), Some(1), "0 would say that everyone has been handed over");
}

/// Entries of the rolling restart, one every five milliseconds: traffic through all four moves.
const ENTRIES: usize = 800;

#[tokio::test]
async fn a_rolling_restart_of_every_node_loses_nothing() {
    let redis = RedisServer::start().await;
    let settings = [("--drain-timeout", "300ms"), ("--log-length", "2000")];
    let builders = ["node-a", "node-b"].map(|id| NodeBuilder::redis(id, &redis).with(&settings));
    let mut nodes = [builders[0].start().await, builders[1].start().await];
    let mut db = redis.db().await;
    let publishing = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        for number in 1..=ENTRIES {
            pace.tick().await;
            let data = number.to_string();
            db.xadd("events", &[("user", "42"), ("event", "e"), ("data", &data)]).await;
        }
    });
    let mut client = Client::open(&nodes[0], "userId=42&clientId=tab-1&since=0").await;
    let mut received = client.events(20).await;
    for round in 0..4 {
        let (leaving, other) = (round % 2, 1 - round % 2);
        nodes[leaving].signal(Signal::TERM);
        // Reads on to the bye, then comes back on the other node as the bye asks for.
        while let Some(event) = client.event_or_bye().await {
            received.push(event);
        }
        let last = received.last().unwrap().id.clone().unwrap();
        let query = format!("userId=42&clientId=tab-1&since={last}");
        client = Client::open(&nodes[other], &query).await;
        assert_eq!(client.welcome["recovered"], true, "{}", client.welcome);
        assert_eq!(nodes[leaving].exit(BOUND).await.code(), Some(0));
        nodes[leaving] = builders[leaving].start().await;
    }
    received.extend(client.events(ENTRIES - received.len()).await);
    assert_eq!(data(&received), numbers(1, ENTRIES));
    publishing.await.unwrap();
}
