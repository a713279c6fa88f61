//! Redis is away, at the start or later: nodes stay up, refuse what they cannot keep, and recover.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::db::set;
use crate::support::pair::Single;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Node, NodeBuilder, Pair, RedisServer, Scrape, Worker, eventually, http};

/// Retries with backoff may be seconds apart by the time that Redis is back.
const RECOVERY: Duration = Duration::from_secs(25);

async fn not_ready(url: &str) {
    http::answers(url, 503, BOUND).await;
}

async fn ready(url: &str) {
    http::answers(url, 200, RECOVERY).await;
}

#[tokio::test]
async fn away_at_the_start_the_node_is_up_but_not_ready_until_redis_comes() {
    let mut redis = RedisServer::stopped();
    let node = NodeBuilder::redis("node-a", &redis).start_listening().await;
    for port in [node.client_http(""), node.worker_http("")] {
        assert_eq!(http::get(&format!("{port}/healthz")).await.status, 200);
        assert_eq!(http::get(&format!("{port}/readyz")).await.status, 503);
    }
    let mut worker = Worker::open(&node).await;
    let error = worker.ask(r#"{"ref":"1","userId":"42","event":"e"}"#).await;
    assert_eq!(
        (&error["type"], &error["code"], &error["ref"]),
        (&json!("error"), &json!("unavailable"), &json!("1"))
    );

    redis.start_again().await;
    ready(&node.worker_http("/readyz")).await;
    ready(&node.client_http("/readyz")).await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let id = worker.event("42", "1").await;
    assert_eq!(client.event().await.id, Some(id));
    assert_eq!(redis.db().await.members("user:42").await, set(["tab-1@node-a"]));
}

#[tokio::test]
async fn a_node_that_waits_for_redis_ends_when_it_is_told_to() {
    let redis = RedisServer::stopped();
    let mut node = NodeBuilder::redis("node-a", &redis).start_listening().await;
    node.signal(Signal::TERM);
    assert_eq!(node.exit(BOUND).await.code(), Some(0));
}

#[tokio::test]
async fn back_with_an_older_state_it_lists_nobody_who_has_left_since() {
    let mut redis = RedisServer::start().await;
    // Their leases are there when it is back, and are renewed: nothing lapses.
    let settings = [("--session-ttl", "10m"), ("--node-ttl", "1m")];
    let node = NodeBuilder::redis("node-a", &redis).with(&settings).start().await;
    let mut stays = Client::as_user(&node, "42", "tab-1").await;
    let (left, alone) =
        (Client::as_user(&node, "42", "tab-2").await, Client::as_user(&node, "7", "tab-1").await);
    let mut db = redis.db().await;
    // A key that somebody else has written over keeps nobody else listed.
    let mut broken = Vec::new();
    for user in 0..16 {
        broken.push(Client::as_user(&node, &format!("broken-{user}"), "tab-1").await);
        let () = db.run(redis::cmd("SET").arg(format!("user:broken-{user}")).arg("x")).await;
    }
    let () = db.run(&redis::cmd("SAVE")).await;
    left.close().await;
    alone.close().await;
    eventually(BOUND, "both to have left", async || {
        let left = (db.members("user:42").await, db.members("user:7").await);
        same(left, (set(["tab-1@node-a"]), set([])))
    })
    .await;

    redis.kill();
    // It would mend that in the moment in which it is looked at.
    node.signal(Signal::STOP);
    redis.start_again().await;
    let mut db = redis.db().await;
    assert_eq!(db.members("user:42").await, set(["tab-1@node-a", "tab-2@node-a"]), "it is older");
    node.signal(Signal::CONT);
    eventually(RECOVERY, "nobody who has left", async || {
        let left = (db.members("user:42").await, db.members("user:7").await);
        same(left, (set(["tab-1@node-a"]), set([])))
    })
    .await;
    stays.round_trip().await;
}

#[tokio::test]
async fn gone_and_back_empty_sockets_stay_open_and_are_registered_anew() {
    let mut pair = Pair::start().await;
    let mut on_a = Client::as_user(&pair.a, "42", "tab-a").await;
    let mut on_b = Client::as_user(&pair.b, "42", "tab-b").await;
    let mut worker = Worker::open(&pair.b).await;
    worker.event("42", "1").await;
    assert_eq!((on_a.event().await.data, on_b.event().await.data), ("1".into(), "1".into()));

    pair.redis.kill();
    eventually(BOUND, "publishing to be refused", async || {
        let answer = worker.ask(r#"{"ref":"r","userId":"42","event":"e","data":"lost?"}"#).await;
        // Accepted without Redis would be accepted and lost.
        assert_eq!(answer["type"], "error", "{answer}");
        same(answer["code"].clone(), json!("unavailable"))
    })
    .await;
    not_ready(&pair.a.worker_http("/readyz")).await;
    not_ready(&pair.b.worker_http("/readyz")).await;
    assert_eq!(http::get(&pair.a.worker_http("/healthz")).await.status, 200);
    on_a.round_trip().await;
    on_b.round_trip().await;

    pair.redis.start_again().await;
    for node in [&pair.a, &pair.b] {
        ready(&node.worker_http("/readyz")).await;
    }
    let mut db = pair.redis.db().await;
    eventually(RECOVERY, "both sessions in user:42", async || {
        same(db.members("user:42").await, set(["tab-a@node-a", "tab-b@node-b"]))
    })
    .await;
    // Events flow again, to the same sockets, by every way in.
    let id = worker.event("42", "2").await;
    for client in [&mut on_a, &mut on_b] {
        assert_eq!(client.event_after_gaps().await.id.as_ref(), Some(&id));
    }
    db.xadd("events", &[("user", "42"), ("event", "e"), ("data", "3")]).await;
    for client in [&mut on_a, &mut on_b] {
        assert_eq!(client.event_after_gaps().await.data, "3");
    }
    // And they leave as cleanly as ever.
    on_a.close().await;
    on_b.close().await;
    db.offline("42").await;
}

#[tokio::test]
async fn while_redis_is_gone_nobody_grows_too_old() {
    let mut single = Single::with(&[("--max-connection-age", "3s")]).await;
    let mut client = Client::as_user(&single.a, "42", "tab-1").await;
    let begun = Instant::now();
    single.redis.kill();
    not_ready(&single.a.worker_http("/readyz")).await;
    while begun.elapsed() < Duration::from_secs(5) {
        client.round_trip().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It is asked when it would be let in again.
    single.redis.start_again().await;
    assert_eq!(client.closed().await.code, 1012);
    ready(&single.a.worker_http("/readyz")).await;
    Client::as_user(&single.a, "42", "tab-1").await;
}

#[tokio::test]
async fn gone_and_back_with_its_data_no_acknowledged_event_is_lost() {
    let mut redis = RedisServer::start_persistent().await;
    let node = NodeBuilder::redis("node-a", &redis).set("--log-length", "2000").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    let mut acked = worker.count("42", 1, 100).await;
    redis.kill();
    let refused = worker.ask(r#"{"ref":"r","userId":"42","event":"e","data":0}"#).await;
    assert_eq!(refused["code"], "unavailable", "{refused}");
    redis.start_again().await;
    ready(&node.worker_http("/readyz")).await;
    acked.extend(worker.count("42", 101, 150).await);
    let mut received = Vec::new();
    while received.len() < acked.len() {
        // With its data there is nothing to be told as gone: each frame is an event.
        received.push(client.event().await.id.expect("an id"));
    }
    assert_eq!(received, acked);
}

#[tokio::test]
async fn a_flushed_redis_is_filled_again() {
    let mut stage = Single::with(&[("--node-ttl", "1500ms"), ("--session-ttl", "3s")]).await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let mut worker = Worker::open(&stage.a).await;
    worker.event("42", "1").await;
    client.event().await;
    let _: String = stage.db.run(&redis::cmd("FLUSHALL")).await;
    eventually(RECOVERY, "the node and its session registered anew", async || {
        let seen = (stage.db.exists("node:node-a").await, stage.db.members("user:42").await);
        same(seen, (true, set(["tab-1@node-a"])))
    })
    .await;
    ready(&stage.a.worker_http("/readyz")).await;
    worker.event("42", "2").await;
    assert_eq!(client.event_after_gaps().await.data, "2");
    stage.db.xadd("events", &[("user", "42"), ("event", "e"), ("data", "3")]).await;
    assert_eq!(client.event_after_gaps().await.data, "3");
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let mut worker = Worker::open(&stage.a).await;
    for number in 1..=3 {
        let _: String = stage.db.run(redis::cmd("SCRIPT").arg("FLUSH")).await;
        worker.event("42", &number.to_string()).await;
        assert_eq!(client.event().await.data, number.to_string());
    }
    let _: String = stage.db.run(redis::cmd("SCRIPT").arg("FLUSH")).await;
    client.close().await;
    stage.db.offline("42").await;
}

#[tokio::test]
async fn an_absence_is_said_once_and_not_in_every_retry() {
    let redis = RedisServer::stopped();
    // In Redis' place listens somebody who hangs up on every caller, and counts them.
    let listener = TcpListener::bind(("127.0.0.1", redis.port())).await.expect("the port of no Redis");
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let node = NodeBuilder::redis("node-a", &redis).start_listening().await;
    eventually(RECOVERY, "ten attempts to reach Redis", async || {
        let seen = calls.load(Ordering::SeqCst);
        if seen >= 10 { Ok(()) } else { Err(format!("{seen} attempts")) }
    })
    .await;
    let lines = node.lines();
    let loud = |line: &&String| line.contains("\"ERROR\"") || line.contains("\"WARN\"");
    let warnings: Vec<&String> = lines.iter().filter(loud).collect();
    assert!(!warnings.is_empty(), "nothing was said about Redis being away");
    assert!(warnings.len() <= 5, "said again and again: {warnings:#?}");
}

#[tokio::test]
async fn no_password_of_redis_appears_in_the_log() {
    let redis = RedisServer::stopped();
    let url = redis.url().replace("redis://", "redis://relay:s3cret-pass@");
    let builder = NodeBuilder::redis("node-a", &redis).set("--redis-url", &url);
    let mut node = builder.set("--log-level", "debug").start_listening().await;
    node.log_line(BOUND, "that Redis is away", |line| line.contains("Redis cannot be used")).await;
    for line in node.whole_log().await {
        assert!(!line.contains("s3cret-pass"), "in the log: {line}");
    }
}

#[tokio::test]
async fn an_inbox_whose_reader_waits_in_vain_is_made_anew_and_read() {
    let mut pair = Pair::with(&[("--node-ttl", "1500ms"), ("--session-ttl", "10m")]).await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let mut worker = Worker::open(&pair.b).await;
    let first = worker.event("42", "1").await;
    assert_eq!(client.event().await.id, Some(first));
    // The reader's place is at the end of time: it reads on, and nothing comes.
    let mut place = redis::cmd("XGROUP");
    place.arg("SETID").arg("inbox:{node:node-a}").arg("node").arg("99999999999999-0");
    pair.db.run::<String>(&place).await;
    let second = worker.event("42", "2").await;
    let ready_at = pair.a.worker_http("/readyz");
    let (mut waited, mut told) = (false, false);
    eventually(BOUND, "that the event is in the inbox, and the node hears nothing", async || {
        waited |= Scrape::of(&pair.a).await.get("inbox_lag") >= 1.0;
        let body = http::try_get(&ready_at).await?.body;
        told |= body == "not ready: no entry of its own has come through the inbox lately\n";
        if waited && told { Ok(()) } else { Err(format!("waited: {waited}, told: {told}, now: {body}")) }
    })
    .await;
    // Long before the next heartbeat on the user: what was in the inbox is found in the log.
    assert_eq!(client.event().await.id, Some(second));
    ready(&ready_at).await;
    let third = worker.event("42", "3").await;
    assert_eq!(client.event().await.id, Some(third));
}

/// The node's own keys are in order, and what is missing is the reader's alone.
#[tokio::test]
async fn why_an_inbox_cannot_be_read_is_told_once_and_so_is_that_it_is_read() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let mut right = async |rule: &str| {
        let () = db.run(redis::cmd("ACL").arg(&["SETUSER", "default", rule])).await;
    };
    right("-xreadgroup").await;
    let node = NodeBuilder::redis("node-a", &redis).set("--node-ttl", "1500ms").start_listening().await;
    let why = |line: &str, what: &str| line.contains(what) && line.contains("'xreadgroup' command");
    let told = |line: &str| why(line, "the inbox cannot be read");
    assert!(node.log_line(BOUND, "why", told).await.contains("WARN"));
    node.log_line(RECOVERY, "why another reader does", |line| why(line, "another reader is started")).await;
    not_ready(&node.worker_http("/readyz")).await;
    assert_eq!(node.lines().iter().filter(|line| told(line)).count(), 1);
    right("+xreadgroup").await;
    node.log_line(BOUND, "that it is read", |line| line.contains("the inbox is read again")).await;
    ready(&node.worker_http("/readyz")).await;
}

#[tokio::test]
async fn a_node_that_cannot_renew_its_lease_is_not_ready_though_redis_is_there() {
    let mut stage = Single::with(&[("--node-ttl", "1500ms")]).await;
    let ready_at = stage.a.worker_http("/readyz");
    let () = stage.db.run(redis::cmd("SET").arg("node:node-a").arg("another program's")).await;
    eventually(BOUND, "that it is not registered", async || {
        same(http::try_get(&ready_at).await?.body, "not ready: not registered\n".to_owned())
    })
    .await;
    let () = stage.db.run(redis::cmd("DEL").arg("node:node-a")).await;
    ready(&ready_at).await;
}

/// Redis answers, and takes nothing: as if it were away.
#[tokio::test]
async fn a_redis_that_is_full_is_told_of_and_so_is_the_next_reason() {
    let mut stage = Single::with(&[("--node-ttl", "1500ms")]).await;
    let up = async |node: &Node| Scrape::of(node).await.get("redis_up");
    assert_eq!(up(&stage.a).await, 1.0);
    let told = async |node: &Node, reason: &str| {
        eventually(RECOVERY, reason, async || {
            let lines = node.lines();
            let told =
                lines.iter().any(|line| line.contains("Redis cannot be used") && line.contains(reason));
            if told { Ok(()) } else { Err(lines.join("\n")) }
        })
        .await;
    };
    let memory = |bytes: &str| redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).to_owned();
    let _: () = stage.db.run(&memory("1mb")).await;
    let mut worker = Worker::open(&stage.a).await;
    told(&stage.a, "OOM").await;
    assert_eq!(worker.ask(r#"{"userId":"42","event":"e"}"#).await["code"], "unavailable");
    eventually(RECOVERY, "word that Redis is of no use", async || same(up(&stage.a).await, 0.0)).await;
    stage.redis.kill();
    told(&stage.a, "refused").await;
    stage.redis.start_again().await;
    ready(&stage.a.worker_http("/readyz")).await;
    assert_eq!(up(&stage.a).await, 1.0);
    // Not one by one what is refused when everything is.
    assert!(stage.a.lines().iter().all(|line| !line.contains("refuses this")), "{:?}", stage.a.lines());
}

#[tokio::test]
async fn why_a_cluster_cannot_be_used_is_in_the_log() {
    let redis = RedisServer::start().await;
    let url = format!("redis+cluster://127.0.0.1:{}", redis.port());
    let node = NodeBuilder::redis_at("node-a", &url).start_listening().await;
    let fits = |line: &str| line.contains("has this slot") && line.contains("cluster support disabled");
    node.log_line(BOUND, "the reason", fits).await;
}

#[tokio::test]
async fn who_waits_for_redis_with_a_message_is_not_silent() {
    let redis = RedisServer::start().await;
    let settings = [("--ping-interval", "500ms"), ("--pong-timeout", "1s")];
    let node = NodeBuilder::redis("node-a", &redis).with(&settings).start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    client.round_trip().await;
    redis.signal(Signal::STOP);
    // Nothing that it sends is read until this is answered: its pongs neither.
    client.send(r#"{"type":"message","event":"e","data":1}"#).await;
    let answer = client.frame("an answer, and no bye").await;
    assert_eq!(answer["code"], "unavailable", "{answer}");
    redis.signal(Signal::CONT);
    client.round_trip().await;
}
