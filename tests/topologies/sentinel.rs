//! A master that Sentinels watch, each with a password of its own.

use std::time::Duration;

use crate::cluster::users;
use crate::ledger::Ledger;
use crate::servers::Watched;
use crate::support::{BOUND, NodeBuilder, eventually};

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
    eventually(Duration::from_secs(40), "another master", async || {
        // Whoever is promoted cuts off everyone who is connected.
        let info = watched.servers[1].try_ask::<String>(&["INFO", "replication"]).await;
        let info = info.map_err(|error| error.to_string())?;
        if info.contains("role:master") { Ok(()) } else { Err(info) }
    })
    .await;
    ledger.close_whole().await;
    assert!(a.lines().iter().chain(&b.lines()).all(|line| !line.contains("geheim")));
}
