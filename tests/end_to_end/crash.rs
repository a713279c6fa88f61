//! A node that dies or freezes: what Redis says soon after, and what its clients get.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::client::{data, numbers};
use crate::support::db::set;
use crate::support::pair::Single;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Pair, Worker, eventually, http};

const NODE_TTL: (&str, &str) = ("--node-ttl", "1500ms");

/// By when the traces of a dead node have to be gone: `--node-ttl` plus 3 s, and as much for a busy machine.
const RIGHT_AGAIN: Duration = Duration::from_millis(1500 + 3000 + 3000);

#[tokio::test]
async fn after_a_kill_the_users_set_is_right_again_and_presence_says_offline() {
    // Sessions outlive the node by far: the keys do not become right by lapsing.
    let mut pair = Pair::with(&[NODE_TTL, ("--session-ttl", "60s")]).await;
    let _only_on_a = Client::as_user(&pair.a, "lonely", "tab-1").await;
    let _both_a = Client::as_user(&pair.a, "both", "tab-a").await;
    let mut both_b = Client::as_user(&pair.b, "both", "tab-b").await;
    assert_eq!(pair.db.members("user:both").await, set(["tab-a@node-a", "tab-b@node-b"]));

    pair.a.kill();
    eventually(RIGHT_AGAIN, "the dead node gone from its users' sets", async || {
        let seen = (pair.db.exists("user:lonely").await, pair.db.members("user:both").await);
        same(seen, (false, set(["tab-b@node-b"])))
    })
    .await;
    let told = async |user: &str| http::get(&pair.b.worker_http(&format!("/users/{user}"))).await.json();
    assert_eq!(told("lonely").await, json!({"userId": "lonely", "online": false, "sessions": []}));
    let left = json!([{"clientId": "tab-b", "nodeId": "node-b"}]);
    assert_eq!(told("both").await, json!({"userId": "both", "online": true, "sessions": left}));
    eventually(RIGHT_AGAIN, "`offline` for whoever did not come back", async || {
        same(pair.db.presence("lonely").await, vec!["online".to_owned(), "offline".to_owned()])
    })
    .await;
    assert_eq!(pair.db.presence("both").await, ["online"], "one session lives");
    for key in ["node:node-a", "users:{node:node-a}", "inbox:{node:node-a}"] {
        eventually(RIGHT_AGAIN, &format!("the end of {key}"), async || {
            same(pair.db.exists(key).await, false)
        })
        .await;
    }
    let ack = Worker::open(&pair.b).await.publish(json!({"userId": "both", "event": "e"})).await;
    assert_eq!(ack["nodes"], json!(["node-b"]));
    assert_eq!(both_b.event().await.event, "e");
}

#[tokio::test]
async fn events_acknowledged_around_a_kill_reach_the_client_that_comes_back() {
    let mut pair = Pair::with(&[NODE_TTL]).await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let mut worker = Worker::open(&pair.b).await;
    worker.count("42", 1, 20).await;
    let before = client.events(20).await;
    pair.a.kill();
    // Some for a node that is dead but not yet known to be.
    worker.count("42", 21, 40).await;
    let last = before.last().unwrap().id.clone().unwrap();
    let query = format!("userId=42&clientId=tab-1&since={last}");
    let mut again = Client::open(&pair.b, &query).await;
    assert_eq!(again.welcome["recovered"], true, "{}", again.welcome);
    worker.count("42", 41, 50).await;
    assert_eq!(data(&again.events(30).await), numbers(21, 50));
    eventually(RIGHT_AGAIN, "the new session alone", async || {
        same(pair.db.members("user:42").await, set(["tab-1@node-b"]))
    })
    .await;
}

#[tokio::test]
async fn who_came_back_elsewhere_is_not_said_to_be_offline() {
    let mut pair = Pair::with(&[NODE_TTL]).await;
    let _lost = Client::as_user(&pair.a, "42", "tab-1").await;
    let _marker = Client::as_user(&pair.a, "marker", "tab-1").await;
    pair.a.kill();
    let _back = Client::as_user(&pair.b, "42", "tab-1").await;
    // The marker did not come back: once it is offline, the dead node has been cleared up.
    eventually(RIGHT_AGAIN, "the marker's `offline`", async || {
        same(pair.db.presence("marker").await.last().cloned(), Some("offline".to_owned()))
    })
    .await;
    eventually(RIGHT_AGAIN, "the end of the dead node's user list", async || {
        same(pair.db.exists("users:{node:node-a}").await, false)
    })
    .await;
    assert_eq!(pair.db.presence("42").await, ["online"]);
    assert_eq!(pair.db.members("user:42").await, set(["tab-1@node-b"]));
}

#[tokio::test]
async fn when_every_node_is_gone_the_keys_lapse() {
    let settings = [NODE_TTL, ("--session-ttl", "3s")];
    let mut pair = Pair::with(&settings).await;
    let _on_a = Client::as_user(&pair.a, "42", "tab-1").await;
    let _on_b = Client::as_user(&pair.b, "42", "tab-2").await;
    pair.a.kill();
    pair.b.kill();
    eventually(BOUND, "the end of user:42", async || {
        let seen = (pair.db.exists("user:42").await, pair.db.exists("nodes:{user:42}").await);
        same(seen, (false, false))
    })
    .await;
}

#[tokio::test]
async fn a_frozen_node_that_wakes_up_repeats_nothing_and_loses_nothing() {
    let mut pair = Pair::with(&[NODE_TTL, ("--log-length", "1000")]).await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let mut worker = Worker::open(&pair.b).await;
    worker.count("42", 1, 10).await;
    let mut received = client.events(10).await;

    pair.a.signal(Signal::STOP);
    worker.count("42", 11, 20).await;
    eventually(RIGHT_AGAIN, "the frozen node cleared away", async || {
        same(pair.db.exists("user:42").await, false)
    })
    .await;
    worker.count("42", 21, 30).await;
    pair.a.signal(Signal::CONT);

    // Either its socket is registered anew and caught up, or it is closed so that the client comes back.
    loop {
        let frame = client.frame("an event or a bye").await;
        match frame["type"].as_str() {
            Some("event") => {
                let id = frame["id"].as_str().map(str::to_owned);
                let (event, data) = ("e".to_owned(), frame["data"].to_string());
                received.push(crate::support::Event { id, event, data });
                if received.len() == 30 {
                    break;
                }
            }
            Some("bye") => {
                assert_eq!((&frame["code"], &frame["reconnect"]), (&4201.into(), &true.into()), "{frame}");
                let last = received.last().unwrap().id.clone().unwrap();
                let query = format!("userId=42&clientId=tab-1&since={last}");
                client = Client::open(&pair.b, &query).await;
                assert_eq!(client.welcome["recovered"], true, "{}", client.welcome);
            }
            _ => panic!("awaiting an event or a bye: {frame}"),
        }
    }
    assert_eq!(data(&received), numbers(1, 30));
    worker.event("42", "31").await;
    assert_eq!(client.event().await.data, "31");
    let member = format!("tab-1@{}", client.welcomed("nodeId"));
    eventually(BOUND, "the session's registration", async || {
        same(pair.db.members("user:42").await, set([&member]))
    })
    .await;
}

#[tokio::test]
async fn clearing_up_after_a_large_node_costs_nobody_its_own_lease() {
    let mut single = Single::with(&[("--node-ttl", "10s")]).await;
    // So many take longer than it is from one renewal to the next: that is what can be seen however busy the machine is.
    let (list, users) = ("users:{node:dead}", 150_000);
    let mut dead = redis::pipe();
    dead.cmd("SADD").arg(list).arg((0..users).collect::<Vec<_>>()).ignore();
    dead.cmd("ZADD").arg("nodes").arg(1).arg("dead").ignore();
    single.db.run_pipeline::<()>(&dead).await;
    let mut leases = BTreeSet::new();
    eventually(12 * BOUND, "the dead node cleared up", async || {
        let left: i32 = single.db.run(redis::cmd("SCARD").arg(list)).await;
        if (1..users).contains(&left) {
            leases.insert(single.db.run::<String>(redis::cmd("ZSCORE").arg("nodes").arg("node-a")).await);
        }
        same((left, single.db.exists("node:dead").await), (0, false))
    })
    .await;
    assert!(leases.len() > 1, "it was not renewed meanwhile: {leases:?}");
    assert!(!single.a.lines().iter().any(|line| line.contains("lease was lost")), "the survivor's lease was");
    let held = single.db.hash("node:node-a").await;
    assert!(held.contains_key("boot"), "{held:?}");
}

#[tokio::test]
async fn a_dead_node_that_cannot_be_cleared_up_after_is_told_of_once() {
    let mut single = Single::with(&[("--node-ttl", "1500ms")]).await;
    let users = "users:{node:dead}";
    let mut dead = redis::pipe();
    // It has a user whom nobody may take it off.
    dead.cmd("SADD").arg(users).arg("42").ignore();
    dead.cmd("SADD").arg("user:42").arg("tab-1@dead").ignore();
    dead.cmd("ACL").arg("SETUSER").arg("default").arg("-srem").ignore();
    dead.cmd("ZADD").arg("nodes").arg(1).arg("dead").ignore();
    single.db.run_pipeline::<()>(&dead).await;
    let failed = "was not cleared up after";
    single.a.log_line(BOUND, "that it failed", |line| line.contains(failed)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let lines = single.a.lines();
    let about = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!((about(failed), about("clearing up after it")), (1, 1), "{lines:#?}");

    let () = single.db.run(redis::cmd("ACL").arg("SETUSER").arg("default").arg("+srem")).await;
    eventually(BOUND, "the dead node cleared up", async || same(single.db.exists(users).await, false)).await;
}
