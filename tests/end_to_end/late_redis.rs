//! A Redis that is well and answers late, as over a long way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::support::tokens::{Issuer, SECRET, unix};
use crate::support::wait::same;
use crate::support::{BOUND, Client, Db, Node, NodeBuilder, RedisServer, Scrape, Worker, eventually, http};

/// The way to a Redis. Its answers take so many ms longer.
struct Way {
    url: String,
    delay: Arc<AtomicU64>,
}

impl Way {
    async fn to(redis: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (delay, port) = (Arc::new(AtomicU64::new(0)), redis.port());
        let late = delay.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(pass_on(near, port, late.clone()));
            }
        });
        Self { url, delay }
    }

    fn set(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, Ordering::Relaxed);
    }
}

async fn pass_on(mut near: TcpStream, port: u16, delay: Arc<AtomicU64>) -> Option<()> {
    let mut far = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    near.set_nodelay(true).ok()?;
    far.set_nodelay(true).ok()?;
    let ((mut asks, mut hears), (mut answers, mut asked)) = (near.split(), far.split());
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = answers.read(&mut buffer).await {
            tokio::time::sleep(Duration::from_millis(delay.load(Ordering::Relaxed))).await;
            hears.write_all(&buffer[..read]).await.ok()?;
        }
        Some(())
    };
    tokio::select! {
        _ = copy(&mut asks, &mut asked) => {}
        _ = back => {}
    }
    Some(())
}

async fn renewals(node: &Node) -> f64 {
    Scrape::of(node).await.get(r#"redis_seconds_count{script="heartbeat"}"#)
}

#[tokio::test]
async fn leases_on_users_are_renewed_in_time() {
    const USERS: usize = 200;
    let redis = RedisServer::start().await;
    let way = Way::to(&redis).await;
    // A call for each shard of a node's users would take 13 s.
    let node = NodeBuilder::redis_at("node-a", &way.url).set("--session-ttl", "6s").start().await;
    let mut clients = Vec::new();
    for number in 0..USERS {
        clients.push(Client::as_user(&node, &format!("u{number}"), "tab-1").await);
    }
    way.set(Duration::from_millis(200));
    let wanted = renewals(&node).await + 54.0;
    eventually(2 * BOUND, "eleven seconds of renewals, one after the other", async || {
        let seen = renewals(&node).await;
        if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) }
    })
    .await;
    let lost: Vec<_> =
        node.lines().into_iter().filter(|line| line.contains("leases on users were lost")).collect();
    assert!(lost.is_empty(), "{} times: {:?}", lost.len(), lost.first());
}

#[tokio::test]
async fn a_dead_node_is_soon_cleared_up_after() {
    const USERS: usize = 3000;
    let redis = RedisServer::start().await;
    let (way, mut db) = (Way::to(&redis).await, redis.db().await);
    let _node = NodeBuilder::redis_at("node-a", &way.url).start().await;
    let list = "users:{node:dead}";
    let mut served = redis::cmd("SADD");
    served.arg(list);
    (0..USERS).for_each(|number| _ = served.arg(format!("u{number}")));
    let () = db.run(&served).await;
    way.set(Duration::from_millis(100));
    let () = db.run(redis::cmd("ZADD").arg("nodes").arg(1).arg("dead")).await;
    let left = async |db: &mut Db| db.run::<usize>(redis::cmd("SCARD").arg(list)).await;
    eventually(BOUND, "the first users done", async || {
        if left(&mut db).await < USERS { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
    let begun = Instant::now();
    eventually(2 * BOUND, "the last users done", async || same(left(&mut db).await, 0)).await;
    // 60 calls of 50, each followed by one more way at least: one after the other that is 12 s.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

/// How often the node has sent events to Redis.
async fn sent(node: &Node) -> f64 {
    Scrape::of(node).await.get(r#"redis_seconds_count{script="publish"}"#)
}

#[tokio::test]
async fn what_is_published_meanwhile_goes_to_redis_at_once() {
    let redis = RedisServer::start().await;
    let way = Way::to(&redis).await;
    let node = NodeBuilder::redis_at("node-a", &way.url).start().await;
    let mut worker = Worker::open(&node).await;
    let before = sent(&node).await;
    way.set(Duration::from_millis(100));
    let users: Vec<_> = (0..500).map(|number| format!("u{number}")).collect();
    let ack = worker.publish(json!({"userIds": users, "event": "e"})).await;
    assert_eq!(ack["ids"].as_array().map(Vec::len), Some(500), "{ack}");
    // The first may go alone, and the rest while others still come. One call each would make 8.
    let sent = sent(&node).await - before;
    assert!(sent <= 3.0, "in {sent} turns");
    for user in ["u0", "u250", "u499"] {
        assert_eq!(redis.db().await.stream(&format!("log:{{user:{user}}}")).await.len(), 1);
    }
}

#[tokio::test]
async fn what_many_clients_send_up_goes_to_redis_at_once() {
    const CLIENTS: usize = 100;
    let redis = RedisServer::start().await;
    let (way, mut db) = (Way::to(&redis).await, redis.db().await);
    let node = NodeBuilder::redis_at("node-a", &way.url).start().await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(Client::as_user(&node, &format!("u{number}"), "tab-1").await);
    }
    way.set(Duration::from_millis(200));
    let begun = Instant::now();
    for client in &mut clients {
        for event in ["first", "second"] {
            client.send(&json!({"type": "message", "event": event}).to_string()).await;
        }
    }
    eventually(2 * BOUND, "all messages", async || same(db.stream("uplink").await.len(), 2 * CLIENTS)).await;
    // Two at a time, that would be 20 s.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let sent = db.stream("uplink").await;
    for number in 0..CLIENTS {
        let of_client = sent.iter().filter(|entry| entry.get("user") == format!("u{number}"));
        let events: Vec<_> = of_client.map(|entry| entry.get("event").to_owned()).collect();
        assert_eq!(events, ["first", "second"]);
    }
    // The node knows of the last ones once their answer has come all the way.
    eventually(BOUND, "all of them counted", async || {
        same(Scrape::of(&node).await.get("uplink_messages_total"), 2.0 * CLIENTS as f64)
    })
    .await;
}

#[tokio::test]
async fn whose_token_expires_while_redis_is_late_is_not_let_in() {
    let redis = RedisServer::start().await;
    let way = Way::to(&redis).await;
    let node = NodeBuilder::redis_at("node-a", &way.url).set("--auth", "jwt").env("JWT_SECRET", SECRET);
    let node = node.start().await;
    let with = |token: String| format!("clientId=tab-1&token={token}");
    let mut session = Client::open(&node, &with(Issuer::hs256().token_of("42"))).await;
    way.set(Duration::from_millis(2500));
    let token = Issuer::hs256().token(json!({"sub": "42", "exp": unix(2)}));
    let answer = http::upgrade(&node.client_ws(&with(token)), &[]).await;
    assert_eq!(answer.refused(503), "unavailable", "it was good when it came");
    assert!(answer.body.contains("expired"), "{answer:?}");
    way.set(Duration::ZERO);
    // The one whose place it would have had has it still. Redis may count as away for as long as its answers were late.
    let mut worker = Worker::open(&node).await;
    let id = eventually(BOUND, "an event that is published", async || {
        let answer = worker.ask(r#"{"ref":"1","userId":"42","event":"e","key":"once"}"#).await;
        answer["id"].as_str().map(str::to_owned).ok_or_else(|| answer.to_string())
    })
    .await;
    assert_eq!(session.event().await.id, Some(id));
}
