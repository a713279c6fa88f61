//! Masters of a Cluster that change while events flow.

use std::time::{Duration, Instant};

use crate::cluster::{node, users};
use crate::ledger::Ledger;
use crate::servers::Cluster;
use crate::support::{BOUND, eventually, http};

/// Events for each user: at the ledger's pace some seconds, and as long as it takes where some are refused.
const EVENTS: usize = 200;
const SETTINGS: &[(&str, &str)] = &[("--node-ttl", "4s"), ("--log-length", "1000")];

async fn other_master(cluster: &Cluster, key: &str, old: usize) {
    eventually(Duration::from_secs(30), "another master", async || {
        let master = cluster.holders(key).await[0];
        if master != old { Ok(()) } else { Err(format!("still {master}")) }
    })
    .await;
}

/// The master of a key, and a replica that could take its place: after a failover it takes a moment until one can.
async fn in_step(cluster: &Cluster, key: &str) -> (usize, usize) {
    eventually(BOUND, "a replica in step", async || {
        let holders = cluster.holders(key).await;
        let [master, replica, ..] = holders[..] else { return Err(format!("holders {holders:?}")) };
        cluster.servers[replica].is_in_step().await?;
        Ok((master, replica))
    })
    .await
}

/// Has the replica of a key's master take its place.
async fn fail_over(cluster: &Cluster, key: &str) {
    let (master, replica) = in_step(cluster, key).await;
    // Asked again where the others gave it no vote: they wait a while between two failovers of one master.
    let mut asked: Option<Instant> = None;
    eventually(BOUND * 2, "the replica as master", async || {
        if cluster.holders(key).await[0] != master {
            return Ok(());
        }
        if asked.is_none_or(|asked| asked.elapsed() > Duration::from_secs(6)) {
            asked = Some(Instant::now());
            cluster.servers[replica].ask::<String>(&["CLUSTER", "FAILOVER"]).await;
        }
        Err(format!("still {master}"))
    })
    .await;
}

#[tokio::test]
async fn a_manual_failover_loses_nothing() {
    let cluster = Cluster::start().await;
    let a = node(&cluster, "node-a", SETTINGS).await;
    let b = node(&cluster, "node-b", SETTINGS).await;
    let ledger = Ledger::open(&users(), EVENTS, &a, &b).await;
    ledger.delivered(200).await;
    // One that holds users, and one that holds the inbox through which their hints go.
    for key in ["user:user-1", "node:node-a"] {
        fail_over(&cluster, key).await;
    }
    ledger.close_whole().await;
}

/// The master that was is a replica, where nobody can wait for replicas.
#[tokio::test]
async fn after_a_manual_failover_events_that_replicas_must_have_go_to_the_new_master() {
    let cluster = Cluster::start().await;
    let settings = [SETTINGS, &[("--wait-replicas", "1"), ("--wait-timeout", "1s")]].concat();
    let id = apart(&cluster, "user:user-1").await;
    let node = node(&cluster, &id, &settings).await;
    let publish = async || {
        let event = r#"{"userId":"user-1","event":"e"}"#;
        let answer = http::post(&node.worker_http("/publish"), event).await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    };
    eventually(BOUND, "an event", publish).await;
    fail_over(&cluster, "user:user-1").await;
    // Long before the map would be drawn anew in any case.
    eventually(BOUND, "an event through the new master", publish).await;
}

/// A node id whose own keys another master holds than that of `key`.
async fn apart(cluster: &Cluster, key: &str) -> String {
    let master = cluster.holders(key).await[0];
    for number in 0.. {
        let id = format!("node-{number}");
        if cluster.holders(&format!("node:{id}")).await[0] != master {
            return id;
        }
    }
    unreachable!("a Cluster has several masters")
}

#[tokio::test]
async fn a_master_that_dies_is_followed_by_its_replica() {
    let mut cluster = Cluster::start().await;
    // Acknowledged means here that the replica has it: so a failover loses nothing that was acknowledged.
    let settings = [SETTINGS, &[("--wait-replicas", "1"), ("--wait-timeout", "1s")]].concat();
    let a = node(&cluster, "node-a", &settings).await;
    let b = node(&cluster, "node-b", &settings).await;
    let half: Vec<String> = users().into_iter().take(3).collect();
    let ledger = Ledger::open(&half, 60, &a, &b).await;
    ledger.delivered(40).await;
    let key = format!("user:{}", half[0]);
    let holders = cluster.holders(&key).await;
    cluster.servers[holders[0]].kill();
    other_master(&cluster, &key, holders[0]).await;
    // The new master has no replica until the old one is back.
    cluster.servers[holders[0]].start_again().await;
    cluster.servers[holders[0]].in_step().await;
    assert!(ledger.refused() > 0, "publishing was refused meanwhile");
    ledger.close_whole().await;
    for url in [a.worker_http("/readyz"), b.worker_http("/readyz")] {
        http::answers(&url, 200, BOUND).await;
    }
}

#[tokio::test]
async fn slots_that_move_take_their_users_along() {
    let cluster = Cluster::start().await;
    let a = node(&cluster, "node-a", SETTINGS).await;
    let b = node(&cluster, "node-b", SETTINGS).await;
    let ledger = Ledger::open(&users(), EVENTS, &a, &b).await;
    ledger.delivered(200).await;
    let (from, to) = (cluster.holders("user:user-1").await[0], cluster.holders("user:user-2").await[0]);
    assert_ne!(from, to, "the first two users are on two masters");
    let moving = cluster.begin_move("user:user-1", to).await;
    // While it moves, what is on neither side alone is asked for again and again.
    let before = ledger.refused();
    ledger.delivered(400).await;
    moving.finish(&cluster).await;
    assert_eq!(cluster.holders("user:user-1").await[0], to);
    println!("refused while the slot moved: {}", ledger.refused() - before);
    ledger.close_whole().await;
}
