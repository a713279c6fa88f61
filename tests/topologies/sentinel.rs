//! A master that Sentinels watch, each with a password of its own.

use serde_json::json;

use crate::cluster::users;
use crate::ledger::Ledger;
use crate::servers::Watched;
use crate::support::{BOUND, Client, Node, NodeBuilder, eventually, http, parse_id};

#[tokio::test]
async fn a_master_that_dies_is_followed_to_where_the_sentinels_say() {
    let mut watched = Watched::start().await;
    let builder = |id| {
        let builder = NodeBuilder::redis_at(id, &watched.url());
        builder.with(&[("--node-ttl", "4s"), ("--log-length", "1000")])
    };
    let a = builder("node-a").start().await;
    let b = builder("node-b").start().await;
    let ledger = Ledger::open(&users(), 150, &a, &b).await;
    ledger.delivered(200).await;
    // All that was acknowledged so far is on the replica before the master goes: what asynchronous replication may
    // lose is not this test's subject.
    watched.servers[0].ask::<String>(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    eventually(BOUND, "a replica in step", async || {
        // The Sentinels may already have taken the silence for death, and cut everyone off.
        let Ok(info) = watched.servers[0].try_ask::<String>(&["INFO", "replication"]).await else {
            return Ok(());
        };
        if info.contains("role:slave") {
            return Ok(());
        }
        let field = |name: &str| {
            let at = info.find(name)? + name.len();
            info[at..].split(['\r', ',']).next().map(str::to_owned)
        };
        let (master, replica) = (field("master_repl_offset:"), field(",offset="));
        if master == replica { Ok(()) } else { Err(format!("{master:?} {replica:?}")) }
    })
    .await;
    watched.servers[0].kill();
    watched.promoted().await;
    ledger.close_whole().await;
    assert!(a.lines().iter().chain(&b.lines()).all(|line| !line.contains("geheim")));
}

/// The master that was goes on as one until a Sentinel tells it otherwise, which takes seconds; here it never does.
#[tokio::test]
async fn a_failover_that_is_asked_for_is_followed_though_the_old_master_goes_on() {
    let watched = Watched::start().await;
    let nodes = [
        NodeBuilder::redis_at("node-a", &watched.url()).start().await,
        NodeBuilder::redis_at("node-b", &watched.url()).start().await,
    ];
    let mut client = Client::as_user(&nodes[1], "42", "tab-1").await;
    let [old, new] = &watched.servers[..] else { unreachable!() };
    old.ask::<String>(&["ACL", "SETUSER", "watch", "-replicaof", "-slaveof"]).await;
    watched.sentinels[0].ask::<String>(&["SENTINEL", "FAILOVER", "mymaster"]).await;
    watched.promoted().await;

    let mut count = 0;
    let mut publish = async |node: &Node| {
        count += 1;
        let frame = json!({"userId": "42", "event": "count", "data": count}).to_string();
        let answer = http::post(&node.worker_http("/publish"), &frame).await;
        (answer.status == 200).then(|| answer.json()["id"].as_str().expect("an id").to_owned())
    };
    let holds = async |id: &str| {
        let entries: Vec<(String, Vec<String>)> = new.ask(&["XRANGE", "log:{user:42}", id, id]).await;
        !entries.is_empty()
    };
    for node in &nodes {
        eventually(BOUND, "an event that the new master has", async || {
            let id = publish(node).await.ok_or_else(|| "refused".to_owned())?;
            if holds(&id).await { Ok(()) } else { Err(format!("{id} is on the old one alone")) }
        })
        .await;
    }
    // From then on nothing goes to the old one.
    let before: u64 = old.ask(&["XLEN", "log:{user:42}"]).await;
    let mut last = None;
    for node in nodes.iter().cycle().take(50) {
        last = publish(node).await.or(last);
    }
    assert!(last.is_some());
    let after: u64 = old.ask(&["XLEN", "log:{user:42}"]).await;
    assert_eq!(before, after);
    let (mut seen, mut ids) = (String::new(), Vec::new());
    while Some(&seen) != last.as_ref() {
        let frame = client.frame("the events that are left, and a gap where some are not").await;
        if frame["type"] == "event" {
            seen = frame["id"].as_str().expect("an id").to_owned();
            ids.push(parse_id(&seen));
        }
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    let info: String = old.ask(&["INFO", "replication"]).await;
    assert!(info.contains("role:master"), "this is about one that goes on: {info}");
}
