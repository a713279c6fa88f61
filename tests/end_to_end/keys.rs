//! The keys in Redis, exactly as documented: types, members, ends of life, and what is left behind.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::json;

use crate::support::db::set;
use crate::support::pair::Single;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Db, NodeBuilder, Pair, RedisServer, Worker, eventually};

/// The defaults of `--session-ttl`, `--node-ttl` and `--log-ttl`, in milliseconds.
const SESSION_TTL: i64 = 60_000;
const NODE_TTL: i64 = 10_000;
const LOG_TTL: i64 = 600_000;

/// Panics unless the key has this type and an end of life within this time (`None`: no end at all).
async fn check(db: &mut Db, key: &str, kind: &str, ttl: Option<i64>) {
    assert_eq!(db.kind(key).await, kind, "type of {key}");
    let left = db.ttl_ms(key).await;
    match ttl {
        // More than half of it is left: the renewal comes every third.
        Some(ttl) => assert!(left > ttl / 2 && left <= ttl, "{key} has {left} ms left, of {ttl}"),
        None => assert_eq!(left, -1, "{key} has an end of life"),
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as i64
}

/// Whether section 5 of the contract knows a key of this form.
fn documented(key: &str) -> bool {
    let fixed = ["nodes", "events", "events:dead", "uplink", "presence"];
    let wrapped = ["nodes:{user:", "log:{user:", "cursor:{user:", "users:{node:", "inbox:{node:"];
    fixed.contains(&key)
        || key.starts_with("user:")
        || key.starts_with("node:")
        || (wrapped.iter().any(|start| key.starts_with(start)) && key.ends_with('}'))
}

/// Panics where there is a key that is not documented.
///
/// The one exception is the lease that names the active reader of `events`, which needs a place of its own
/// and, being a lease, an end of life.
async fn only_documented_keys(db: &mut Db) {
    for key in db.keys().await {
        if !documented(&key) {
            let is_lease = key.contains("events") && db.ttl_ms(&key).await > 0;
            assert!(is_lease, "{key} is no documented key (its type: {})", db.kind(&key).await);
        }
    }
}

#[tokio::test]
async fn a_connected_user_has_the_documented_keys() {
    let mut stage = Single::start().await;
    let _client = Client::as_user(&stage.a, "42", "tab-1").await;
    let db = &mut stage.db;
    check(db, "user:42", "set", Some(SESSION_TTL)).await;
    assert_eq!(db.members("user:42").await, set(["tab-1@node-a"]));

    check(db, "nodes:{user:42}", "hash", Some(SESSION_TTL)).await;
    let nodes = db.hash("nodes:{user:42}").await;
    let lease: i64 = nodes["node-a"].parse().expect("a time in milliseconds");
    assert!(lease > now_ms() && lease <= now_ms() + SESSION_TTL, "lease end {lease} in {nodes:?}");
    assert!(nodes.keys().all(|field| field == "node-a" || field == "@last"), "{nodes:?}");
}

#[tokio::test]
async fn a_published_event_is_in_the_log_with_the_documented_fields() {
    let mut stage = Single::start().await;
    let mut worker = Worker::open(&stage.a).await;
    let _client = Client::as_user(&stage.a, "42", "tab-1").await;
    let first = worker.event("42", "1").await;
    let rich = json!({
        "userId": "42", "event": "progress", "data": {"a": 1}, "clientId": "tab-1", "key": "k 1",
    });
    let second = worker.publish(rich).await;
    let others = json!({"userId": "42", "event": "e", "exceptClientId": "tab-1", "collapseKey": "state"});
    worker.publish(others).await;
    check(&mut stage.db, "log:{user:42}", "stream", Some(LOG_TTL)).await;
    let log = stage.db.stream("log:{user:42}").await;
    assert_eq!(log.len(), 3, "{log:?}");
    let names = |position: usize| log[position].fields.keys().map(String::as_str).collect::<BTreeSet<_>>();
    assert_eq!(names(0), BTreeSet::from(["event", "data", "prev"]));
    assert_eq!(names(1), BTreeSet::from(["event", "data", "prev", "client", "key"]));
    assert_eq!(names(2), BTreeSet::from(["event", "data", "prev", "except", "collapse"]));
    assert_eq!(log[0].id, first);
    assert_eq!(second["id"], log[1].id);
    assert_eq!(log[1].get("prev"), first, "the id before it");
    assert_eq!((log[1].get("event"), log[1].get("data")), ("progress", r#"{"a":1}"#));
    assert_eq!((log[1].get("client"), log[1].get("key")), ("tab-1", "k 1"));
    assert_eq!((log[2].get("except"), log[2].get("collapse")), ("tab-1", "state"));
    assert_eq!(log[2].get("data"), "null", "data that was left out");
    let nodes = stage.db.hash("nodes:{user:42}").await;
    assert_eq!(nodes.get("@last"), Some(&log[2].id), "{nodes:?}");
}

/// The id of an event that a client has confirmed before it left.
async fn confirmed(stage: &Single) -> String {
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let id = Worker::open(&stage.a).await.event("42", "1").await;
    client.event().await;
    client.send(&format!(r#"{{"type":"ack","id":"{id}"}}"#)).await;
    client.round_trip().await;
    client.close().await;
    id
}

#[tokio::test]
async fn a_confirmed_position_is_in_the_cursor() {
    let mut stage = Single::start().await;
    let id = confirmed(&stage).await;
    eventually(BOUND, "the cursor of a client that left", async || {
        same(stage.db.hash("cursor:{user:42}").await.get("tab-1"), Some(&id))
    })
    .await;
    check(&mut stage.db, "cursor:{user:42}", "hash", Some(LOG_TTL)).await;
}

#[tokio::test]
async fn log_and_cursor_lapse_when_the_setting_says_so_and_who_comes_back_later_is_told_of_the_gap() {
    let mut stage = Single::with(&[("--log-ttl", "4s")]).await;
    let id = confirmed(&stage).await;
    let [log, cursor] = ["log:{user:42}", "cursor:{user:42}"];
    eventually(BOUND, "a position, and an offline user", async || {
        let position = stage.db.hash(cursor).await.remove("tab-1");
        same((position, stage.db.exists("user:42").await), (Some(id.clone()), false))
    })
    .await;
    for key in [log, cursor] {
        let left = stage.db.ttl_ms(key).await;
        assert!((1..=4000).contains(&left), "{key} has {left} ms left, of 4000");
    }
    eventually(BOUND, "the end of both", async || {
        same([stage.db.exists(log).await, stage.db.exists(cursor).await], [false; 2])
    })
    .await;
    let mut again = Client::open(&stage.a, &format!("userId=42&clientId=tab-1&since={id}")).await;
    assert_eq!((&again.welcome["recovered"], &again.welcome["replayed"]), (&json!(false), &json!(0)));
    let gap = again.frame("a gap").await;
    assert_eq!((&gap["type"], &gap["since"]), (&json!("gap"), &json!(id)), "{gap}");
    again.round_trip().await;
}

#[tokio::test]
async fn a_log_that_is_kept_for_less_than_a_lease_costs_nobody_a_gap() {
    let mut stage = Single::with(&[("--log-ttl", "2s")]).await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let (came, _): (u64, u64) = stage.db.run(&redis::cmd("TIME")).await;
    eventually(BOUND, "several times its time to live", async || {
        assert!(stage.db.exists("cursor:{user:42}").await, "it lapsed under a session");
        let (now, _): (u64, u64) = stage.db.run(&redis::cmd("TIME")).await;
        if now > came + 6 { Ok(()) } else { Err(format!("{} s", now - came)) }
    })
    .await;
    client.round_trip().await; // its pong is the next frame
}

#[tokio::test]
async fn a_live_node_has_the_documented_keys() {
    let stage = Single::start().await;
    let (node, mut db) = (&stage.a, stage.db.clone());
    let _client = Client::as_user(node, "42", "tab-1").await;
    check(&mut db, "node:node-a", "hash", Some(NODE_TTL)).await;
    let hash = db.hash("node:node-a").await;
    let names: BTreeSet<&str> = hash.keys().map(String::as_str).collect();
    let documented = ["boot", "started", "version", "sessions", "client_url", "worker_url"];
    assert_eq!(names, BTreeSet::from(documented), "{hash:?}");
    assert_eq!(hash["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(hash["client_url"].trim_end_matches('/'), node.client_url);
    assert_eq!(hash["worker_url"].trim_end_matches('/'), node.worker_url);

    assert_eq!(db.kind("nodes").await, "zset");
    let lease: Option<f64> = db.run(redis::cmd("ZSCORE").arg("nodes").arg("node-a")).await;
    let lease = lease.expect("the node in `nodes`") as i64;
    assert!(lease > now_ms() && lease <= now_ms() + NODE_TTL, "lease end {lease}");

    assert_eq!(db.kind("users:{node:node-a}").await, "set");
    assert_eq!(db.members("users:{node:node-a}").await, set(["42"]));
    for (stream, group) in [("inbox:{node:node-a}", "node"), ("events", "switchboard")] {
        assert_eq!(db.kind(stream).await, "stream");
        let groups: Vec<redis::Value> = db.run(redis::cmd("XINFO").arg("GROUPS").arg(stream)).await;
        assert_eq!(groups.len(), 1, "groups of {stream}");
        assert!(format!("{groups:?}").contains(group), "the group of {stream}: {groups:?}");
    }
}

#[tokio::test]
async fn urls_that_were_set_are_the_ones_that_are_told() {
    let redis = RedisServer::start().await;
    let urls = [("--client-url", "wss://relay.example"), ("--worker-url", "ws://10.0.0.7:4001")];
    let _process = NodeBuilder::redis("node-a", &redis).with(&urls).spawn();
    let mut db = redis.db().await;
    let hash = eventually(BOUND, "the node's hash", async || {
        let hash = db.hash("node:node-a").await;
        if hash.is_empty() { Err("nothing".to_owned()) } else { Ok(hash) }
    })
    .await;
    assert_eq!(hash["client_url"].trim_end_matches('/'), "wss://relay.example");
    assert_eq!(hash["worker_url"].trim_end_matches('/'), "ws://10.0.0.7:4001");
}

#[tokio::test]
async fn nothing_but_documented_keys_comes_into_being() {
    let mut pair = Pair::start().await;
    let mut on_a = Client::as_user(&pair.a, "42", "tab-1").await;
    let mut on_b = Client::as_user(&pair.b, "42", "tab-2").await;
    let mut worker = Worker::open(&pair.b).await;
    worker.event("42", "1").await;
    worker.event("offline", "1").await;
    worker.publish(json!({"userId": "42", "event": "e", "key": "k"})).await;
    pair.db.xadd("events", &[("user", "42"), ("event", "e")]).await;
    pair.db.xadd("events", &[("user", "a bad one"), ("event", "e")]).await;
    on_a.events(3).await;
    on_b.events(3).await;
    on_a.send(r#"{"type":"message","event":"up","data":1}"#).await;
    eventually(BOUND, "an entry in `uplink`", async || same(pair.db.stream("uplink").await.len(), 1)).await;
    only_documented_keys(&mut pair.db).await;
    on_a.close().await;
    on_b.close().await;
    pair.db.offline("42").await;
    only_documented_keys(&mut pair.db).await;
}

#[tokio::test]
async fn a_clean_disconnect_takes_the_session_away_and_leaves_log_and_cursor() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    Worker::open(&stage.a).await.event("42", "1").await;
    client.event().await;
    client.close().await;
    for key in ["user:42", "nodes:{user:42}"] {
        eventually(BOUND, &format!("the end of {key}"), async || same(stage.db.exists(key).await, false))
            .await;
    }
    eventually(BOUND, "a node that serves nobody", async || {
        same(stage.db.members("users:{node:node-a}").await, set([]))
    })
    .await;
    check(&mut stage.db, "log:{user:42}", "stream", Some(LOG_TTL)).await;
}

#[tokio::test]
async fn one_of_several_sessions_that_leaves_takes_only_itself_away() {
    let mut pair = Pair::start().await;
    let first = Client::as_user(&pair.a, "42", "tab-1").await;
    let second = Client::as_user(&pair.a, "42", "tab-2").await;
    let _third = Client::as_user(&pair.b, "42", "tab-3").await;
    let all = set(["tab-1@node-a", "tab-2@node-a", "tab-3@node-b"]);
    assert_eq!(pair.db.members("user:42").await, all);
    for (leaving, left) in [(first, set(["tab-2@node-a", "tab-3@node-b"])), (second, set(["tab-3@node-b"]))] {
        leaving.close().await;
        eventually(BOUND, "the set without the one that left", async || {
            same(pair.db.members("user:42").await, left.clone())
        })
        .await;
    }
    eventually(BOUND, "node-b alone among the user's nodes", async || {
        let nodes = pair.db.hash("nodes:{user:42}").await;
        let names = nodes.into_keys().filter(|name| name != "@last").collect();
        same(names, set(["node-b"]))
    })
    .await;
}

#[tokio::test]
async fn a_drained_node_leaves_no_key_of_its_own_and_none_of_its_users_without_an_end() {
    let mut stage = Single::with(&[("--drain-timeout", "500ms")]).await;
    let mut clients = Vec::new();
    for number in 0..5 {
        clients.push(Client::as_user(&stage.a, &format!("u{number}"), "tab-1").await);
    }
    let mut worker = Worker::open(&stage.a).await;
    for (number, client) in clients.iter_mut().enumerate() {
        worker.event(&format!("u{number}"), "1").await;
        client.event().await;
    }
    stage.a.signal(Signal::TERM);
    let status = stage.a.exit(BOUND).await;
    assert_eq!(status.code(), Some(0));
    for key in ["node:node-a", "users:{node:node-a}", "inbox:{node:node-a}"] {
        assert!(!stage.db.exists(key).await, "{key} is left behind");
    }
    let lease: Option<f64> = stage.db.run(redis::cmd("ZSCORE").arg("nodes").arg("node-a")).await;
    assert_eq!(lease, None, "the node is still among `nodes`");
    for key in stage.db.keys().await {
        assert!(!key.starts_with("user:") && !key.starts_with("nodes:{"), "{key} is left behind");
        if key.contains("user:") {
            assert!(stage.db.ttl_ms(&key).await > 0, "{key} would stay for ever");
        }
    }
    only_documented_keys(&mut stage.db).await;
}

#[tokio::test]
async fn who_was_there_is_remembered_for_whoever_starts_after_all_have_died() {
    let mut stage = Single::start().await;
    let _client = Client::as_user(&stage.a, "42", "tab-1").await;
    for (key, kind) in [("nodes", "zset"), ("users:{node:node-a}", "set")] {
        check(&mut stage.db, key, kind, Some(LOG_TTL + NODE_TTL)).await;
    }
}

#[tokio::test]
async fn keys_are_renewed_while_the_session_lasts() {
    let mut stage = Single::with(&[("--session-ttl", "6s"), ("--node-ttl", "4s")]).await;
    let client = Client::as_user(&stage.a, "42", "tab-1").await;
    let lease = stage.db.hash("nodes:{user:42}").await["node-a"].parse::<i64>().unwrap();
    // Two renewals later than the first lease's end: it would have lapsed by itself.
    eventually(BOUND, "a lease that was renewed beyond its first end", async || {
        let nodes = stage.db.hash("nodes:{user:42}").await;
        assert!(stage.db.exists("user:42").await, "user:42 lapsed while its session lasts");
        match nodes.get("node-a").and_then(|lease| lease.parse::<i64>().ok()) {
            Some(renewed) if now_ms() > lease && renewed > now_ms() => Ok(()),
            other => Err(format!("{other:?} at {}, first lease {lease}", now_ms())),
        }
    })
    .await;
    assert!(stage.db.exists("node:node-a").await);
    drop(client);
}

#[tokio::test]
async fn a_key_prefix_is_put_before_every_key_and_keeps_two_services_apart() {
    let redis = RedisServer::start().await;
    let prefixed = |prefix| NodeBuilder::redis("node-a", &redis).set("--key-prefix", prefix);
    let one = prefixed("one:").start().await;
    let two = prefixed("two:").start().await;
    let mut on_one = Client::as_user(&one, "42", "tab-1").await;
    let mut on_two = Client::as_user(&two, "42", "tab-1").await;
    let id = Worker::open(&one).await.event("42", "1").await;
    assert_eq!(on_one.event().await.id, Some(id));
    let mut db = redis.db().await;
    db.xadd("two:events", &[("user", "42"), ("event", "ingress")]).await;
    assert_eq!(on_two.event().await.event, "ingress", "the first thing that two's client hears");
    assert_eq!(db.members("one:user:42").await, set(["tab-1@node-a"]));
    for key in db.keys().await {
        assert!(key.starts_with("one:") || key.starts_with("two:"), "{key} has no prefix");
    }
}

#[tokio::test]
async fn the_database_setting_wins_over_the_one_in_the_url() {
    let redis = RedisServer::start().await;
    let url = format!("{}/2", redis.url());
    let node =
        NodeBuilder::redis("node-a", &redis).set("--redis-url", &url).set("--redis-db", "3").start().await;
    let _client = Client::as_user(&node, "42", "tab-1").await;
    assert!(redis.db_number(3).await.exists("user:42").await);
    assert_eq!(redis.db_number(2).await.keys().await, Vec::<String>::new());
    assert_eq!(redis.db().await.keys().await, Vec::<String>::new());
}
