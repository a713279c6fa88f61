//! `GET /metrics`: the names of the contract, and numbers that follow what happens.

use serde_json::json;

use crate::support::pair::Single;
use crate::support::scrape::counted;
use crate::support::{BOUND, Client, Node, NodeBuilder, Pair, RedisServer, Scrape, Worker, eventually, http};

/// Contract, section 10: name, and type.
const NAMES: &[(&str, &str)] = &[
    ("sessions", "gauge"),
    ("users", "gauge"),
    ("connects_total", "counter"),
    ("disconnects_total", "counter"),
    ("events_published_total", "counter"),
    ("events_delivered_total", "counter"),
    ("events_replayed_total", "counter"),
    ("gaps_total", "counter"),
    ("catch_ups_total", "counter"),
    ("delivery_seconds", "histogram"),
    ("redis_seconds", "histogram"),
    ("inbox_lag", "gauge"),
    ("ingress_lag", "gauge"),
    ("redis_up", "gauge"),
];

async fn counts_what_happens(node: &Node) {
    let scrape = Scrape::of(node).await;
    for (name, kind) in NAMES {
        assert_eq!(
            scrape.types.get(&format!("switchboard_{name}")).map(String::as_str),
            Some(*kind),
            "{name}"
        );
    }
    assert_eq!(scrape.get("redis_up"), 1.0);
    assert_eq!(scrape.get("presence_up"), 1.0);
    assert_eq!(scrape.get("ready"), 1.0);
    assert_eq!(scrape.get("connects_total{result=\"ok\"}"), 0.0);

    let mut one = Client::as_user(node, "42", "tab-1").await;
    let _two = Client::as_user(node, "42", "tab-2").await;
    assert!(Client::try_upgrade(node, "userId=4%202").await.is_err());
    let mut rude = Client::upgrade(node, "").await;
    rude.send_binary(b"\x00").await;
    assert_eq!(rude.closed().await.code, 1003);
    let mut worker = Worker::open(node).await;
    let ids = worker.count("42", 1, 3).await;
    one.events(3).await;
    let body = json!([{"userId": "42", "event": "e"}, {"userId": "4 2", "event": "e"}]).to_string();
    http::post(&node.worker_http("/publish"), &body).await;
    one.event().await;
    let too_many = format!("[{}0]", "0,".repeat(1_000));
    for whole in ["[bad", "{bad", &too_many] {
        http::post(&node.worker_http("/publish"), whole).await.refused(400);
    }
    for (series, value) in [
        ("sessions", 2.0),
        ("users", 1.0),
        ("connections", 2.0),
        ("workers", 1.0),
        ("connects_total{result=\"ok\"}", 2.0),
        ("connects_total{result=\"invalid_user_id\"}", 1.0),
        ("connects_total{result=\"binary_frame\"}", 1.0),
        ("events_published_total{via=\"worker\"}", 3.0),
        ("events_published_total{via=\"http\"}", 1.0),
        ("events_refused_total{code=\"invalid_user_id\"}", 1.0),
        ("events_refused_total{code=\"invalid_frame\"}", 2.0),
        ("events_refused_total{code=\"too_many_items\"}", 1.0),
        ("events_delivered_total", 8.0),
        ("events_replayed_total", 0.0),
        ("delivery_seconds_count", 8.0),
        ("gaps_total", 0.0),
    ] {
        counted(node, series, value).await;
    }

    // It comes back, and has missed the last two.
    one.close().await;
    let again = format!("userId=42&clientId=tab-1&since={}", ids[1]);
    let mut one = Client::open(node, &again).await;
    one.events(2).await;
    // A newer connection takes its place.
    let again = format!("userId=42&clientId=tab-1&since={}", one.welcomed("position"));
    let _again = Client::open(node, &again).await;
    assert_eq!(one.closed().await.code, 4009);
    // Nobody can say what was before all this.
    let mut late = Client::open(node, "userId=42&clientId=tab-3&since=1-0").await;
    assert_eq!(late.frame("a gap").await["type"], "gap");
    late.events(4).await;
    for (series, value) in [
        ("connects_total{result=\"ok\"}", 5.0),
        ("disconnects_total{reason=\"gone\"}", 1.0),
        ("disconnects_total{reason=\"replaced\"}", 1.0),
        ("events_delivered_total", 14.0),
        ("events_replayed_total", 6.0),
        // What was published while its client was away says nothing about delivery.
        ("delivery_seconds_count", 8.0),
        ("gaps_total", 1.0),
    ] {
        counted(node, series, value).await;
    }
}

#[tokio::test]
async fn a_local_node_counts_what_happens() {
    let node = NodeBuilder::local("solo").start().await;
    counts_what_happens(&node).await;
}

#[tokio::test]
async fn a_node_on_redis_counts_what_happens() {
    let single = Single::start().await;
    counts_what_happens(&single.a).await;
    let scrape = Scrape::of(&single.a).await;
    for script in ["publish", "connect", "disconnect", "claim", "beat"] {
        assert!(scrape.get(&format!("redis_seconds_count{{script=\"{script}\"}}")) >= 1.0, "{script}");
    }
    // A sign of life counts until it is acknowledged, a moment later.
    counted(&single.a, "inbox_lag", 0.0).await;
}

#[tokio::test]
async fn who_is_not_let_in_is_counted_by_what_kept_it_out() {
    let node = NodeBuilder::local("solo").set("--hello-timeout", "1s").start().await;
    let mut refused = Client::upgrade(&node, "").await;
    refused.send(r#"{"userId":"4 2"}"#).await;
    assert_eq!(refused.closed().await.code, 4000);
    Client::upgrade(&node, "").await.close().await;
    let mut silent = Client::upgrade(&node, "").await;
    assert_eq!(silent.closed().await.code, 4008);
    http::get(&node.client_http("/ws")).await.refused(426);
    let elsewhere = node.client_http("/nowhere");
    http::upgrade(&elsewhere, &[]).await.refused(404);
    // That is no attempt to connect.
    http::get(&elsewhere).await.refused(404);
    for (result, count) in [
        ("invalid_user_id", 1.0),
        ("gone", 1.0),
        ("hello_timeout", 1.0),
        ("upgrade_required", 1.0),
        ("not_found", 1.0),
        ("ok", 0.0),
    ] {
        counted(&node, &format!("connects_total{{result=\"{result}\"}}"), count).await;
    }
}

#[tokio::test]
async fn what_goes_up_and_what_goes_to_everyone_is_counted() {
    let mut single = Single::start().await;
    let mut client = Client::as_user(&single.a, "42", "tab-1").await;
    for frame in [r#"{"type":"message","event":"up"}"#, r#"{"type":"message","event":"not a name"}"#] {
        client.send(frame).await;
    }
    assert_eq!(client.frame("an error").await["code"], "invalid_frame");
    counted(&single.a, "uplink_messages_total", 1.0).await;
    single.db.xadd("events", &[("broadcast", "1"), ("event", "e")]).await;
    client.event().await;
    counted(&single.a, "events_published_total{via=\"ingress\"}", 1.0).await;
    let entry = |transient| [("users", "41,42,43"), ("event", "e"), ("transient", transient)];
    for (transient, wanted) in [("1", 2.0), ("0", 5.0)] {
        single.db.xadd("events", &entry(transient)).await;
        client.event().await;
        counted(&single.a, "events_published_total{via=\"ingress\"}", wanted).await;
    }
}

#[tokio::test]
async fn what_a_client_sends_up_counts_only_where_it_gets_anywhere() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    client.send(r#"{"type":"message","event":"up"}"#).await;
    client.round_trip().await;
    assert_eq!(Scrape::of(&node).await.get("uplink_messages_total"), 0.0);
}

#[tokio::test]
async fn delivery_is_measured_from_publish_to_write_across_nodes() {
    let mut pair = Pair::start().await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let mut worker = Worker::open(&pair.b).await;
    worker.count("42", 1, 20).await;
    pair.db.xadd("events", &[("user", "42"), ("event", "e")]).await;
    pair.db.xadd("events", &[("user", "4 2"), ("event", "e")]).await;
    client.events(21).await;
    counted(&pair.a, "delivery_seconds_count", 21.0).await;
    counted(&pair.b, "events_published_total{via=\"worker\"}", 20.0).await;
    let scrape = Scrape::of(&pair.a).await;
    // The sum of 21 that were all here within the test's bound, and none of them before it was published.
    let sum = scrape.get("delivery_seconds_sum");
    assert!(sum > 0.0 && sum < 21.0 * BOUND.as_secs_f64(), "{sum}");
    assert!(scrape.get("redis_clock_offset_seconds").abs() < 1.0, "one machine has one clock");
    // One of the two reads the ingress stream.
    for series in ["events_published_total{via=\"ingress\"}", "events_dead_total"] {
        eventually(BOUND, series, async || {
            let (a, b) = (Scrape::of(&pair.a).await.get(series), Scrape::of(&pair.b).await.get(series));
            if a + b == 1.0 { Ok(()) } else { Err(format!("{a} and {b}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_lag_is_what_is_not_done() {
    let redis = RedisServer::start().await;
    let ttl = [("--node-ttl", "3s")];
    let mut reader = NodeBuilder::redis("node-a", &redis).with(&ttl).start().await;
    let mut db = redis.db().await;
    db.xadd("events", &[("user", "42"), ("event", "e")]).await;
    counted(&reader, "events_published_total{via=\"ingress\"}", 1.0).await;
    let standby = NodeBuilder::redis("node-b", &redis).with(&ttl).start().await;
    reader.kill();
    for _ in 0..3 {
        db.xadd("events", &[("user", "42"), ("event", "e")]).await;
    }
    counted(&standby, "ingress_lag", 3.0).await;
    // Then it is the reader.
    counted(&standby, "ingress_lag", 0.0).await;
    counted(&standby, "events_published_total{via=\"ingress\"}", 3.0).await;
}

#[tokio::test]
async fn without_redis_there_are_metrics_too() {
    let mut single = Single::start().await;
    let node = &single.a;
    single.redis.kill();
    counted(node, "redis_up", 0.0).await;
    let scrape = Scrape::of(node).await;
    assert_eq!(scrape.get("ready"), 0.0);
    http::post(&node.worker_http("/publish"), r#"{"userId":"42","event":"e"}"#).await.refused(503);
    counted(node, "events_refused_total{code=\"unavailable\"}", 1.0).await;
}

#[tokio::test]
async fn metrics_ask_for_the_worker_token() {
    let node = NodeBuilder::local("solo").set("--worker-token", "s3cret").start().await;
    let url = node.worker_http("/metrics");
    assert_eq!(http::get(&url).await.refused(401), "unauthorized");
    let answer = http::get_with(&url, &[("authorization", "Bearer s3cret")]).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("switchboard_build_info{node=\"solo\","), "{}", answer.body);
    assert!(!answer.body.contains("s3cret"), "{}", answer.body);
    http::post(&node.worker_http("/publish"), "{}").await.refused(401);
    let answer = http::get_with(&url, &[("authorization", "Bearer s3cret")]).await;
    assert!(answer.body.contains("events_refused_total{code=\"unauthorized\"} 1\n"), "{}", answer.body);
    // Not on the public port.
    assert_eq!(http::get(&node.client_http("/metrics")).await.refused(404), "not_found");
    assert_eq!(http::post(&format!("{url}?token=s3cret"), "").await.refused(405), "method_not_allowed");
}

#[tokio::test]
async fn the_handbook_tells_of_every_metric() {
    let page = include_str!("../../src/docs/metrics.md");
    let node = NodeBuilder::local("solo").start().await;
    let scrape = Scrape::of(&node).await;
    for (name, kind) in &scrape.types {
        let told = page.lines().any(|line| {
            line.contains(&format!("`{name}`"))
                && (name.starts_with("process_") || line.contains(&format!("| {kind} |")))
        });
        assert!(told, "no row for {name}, a {kind}");
    }
    let told = page.split('`').filter(|word| word.starts_with("switchboard_"));
    for name in told {
        assert!(scrape.types.contains_key(name), "{name} is told of and does not exist");
    }
}
