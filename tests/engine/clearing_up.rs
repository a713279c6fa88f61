//! Clearing up after dead nodes: after one with many users, after one that cannot be cleared up after.

use std::collections::BTreeSet;
use std::time::Duration;

use switchboard::engine::Claim;

use crate::recorder::Recorder;
use crate::stage::{Kind, Options, Stage};

/// A dead node of which nothing but its list of users is left.
fn dead_node(stage: &Stage, id: &str, users: usize) -> String {
    let list = format!("users:{{node:{id}}}");
    let users: Vec<String> = (0..users).map(|user| user.to_string()).collect();
    let mut served = vec!["SADD", &list];
    served.extend(users.iter().map(String::as_str));
    let _: i64 = stage.ask(&served);
    let _: i64 = stage.ask(&["ZADD", "nodes", "1", id]);
    list
}

fn left(stage: &Stage, list: &str) -> i64 {
    stage.ask(&["SCARD", list])
}

#[tokio::test]
async fn a_node_that_cannot_be_cleared_up_after_holds_up_no_other() {
    let stage = Kind::Redis.stage().await;
    // Some of each: they come in no particular order.
    for number in 0..8 {
        dead_node(&stage, &format!("well-{number}"), 1);
        let list = dead_node(&stage, &format!("ill-{number}"), 1);
        let () = stage.ask(&["SET", &list, "no set"]);
    }
    stage.engine.clear_up().await.unwrap();
    let nodes: BTreeSet<String> = stage.ask(&["ZRANGE", "nodes", "0", "-1"]);
    let ill = (0..8).map(|number| format!("ill-{number}"));
    assert_eq!(nodes, ill.chain(["node-1".to_owned()]).collect());
}

#[tokio::test]
async fn the_claim_on_a_large_dead_node_is_kept_and_where_it_is_lost_another_goes_on() {
    const USERS: usize = 60_000;
    let options = Options { node_ttl: Duration::from_secs(3), ..Options::default() };
    let survivor = Kind::Redis.stage_with(options).await;
    let list = dead_node(&survivor, "dead", USERS);
    let claim = async || assert_eq!(survivor.engine.claim().await.unwrap(), Claim::Held);

    claim().await;
    let clearing = tokio::spawn(survivor.engine.clear_up());
    Recorder::eventually("the first users done", async || left(&survivor, &list) < USERS as i64).await;
    // As after a freeze: another process has the id by now.
    let _: i64 = survivor.ask(&["HSET", "node:dead", "boot", "another"]);
    clearing.await.unwrap().unwrap();
    let stopped = left(&survivor, &list);
    assert!(stopped > 0, "it took another process's users away");
    assert_eq!(survivor.ask::<String>(&["HGET", "node:dead", "boot"]), "another");

    let _: i64 = survivor.ask(&["DEL", "node:dead"]);
    claim().await;
    let clearing = tokio::spawn(survivor.engine.clear_up());
    Recorder::eventually("it going on", async || (1..stopped).contains(&left(&survivor, &list))).await;
    Recorder::eventually("the end", async || {
        let (claimed, left): (i64, i64) = (survivor.ask(&["EXISTS", "node:dead"]), left(&survivor, &list));
        assert!(claimed == 1 || left == 0, "the claim was lost with {left} users to go");
        left == 0
    })
    .await;
    clearing.await.unwrap().unwrap();
    assert_eq!(survivor.ask::<i64>(&["EXISTS", "node:dead"]), 0);
}
