//! Clearing up after dead nodes: after one with many users, after one that cannot be cleared up after.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use switchboard::engine::{Claim, Unavailable};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::redis_server::{BOUND, LOOK};
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

/// Gives the claim on the dead node so much time that no stall of the machine ends it. False where that was too late.
fn prolong(stage: &Stage) -> bool {
    stage.ask::<i64>(&["PEXPIRE", "node:dead", "600000"]) == 1
}

/// Clearing up that has done its first users, and has the claim.
async fn clearing_up(stage: &Stage, list: &str) -> JoinHandle<Result<bool, Unavailable>> {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < BOUND, "the first users done: never");
        assert_eq!(stage.engine.claim().await.unwrap(), Claim::Held);
        let before = left(stage, list);
        let clearing = tokio::spawn(stage.engine.clear_up());
        while left(stage, list) == before && !clearing.is_finished() {
            tokio::time::sleep(LOOK).await;
        }
        if prolong(stage) {
            return clearing;
        }
        clearing.await.unwrap().ok(); // on a busy machine the claim may be over before its first renewal
    }
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
    // Some 20,000 to 50,000 users a second, so it takes longer than the third of a lease after which the claim is renewed.
    const USERS: usize = 40_000;
    const NODE_TTL: Duration = Duration::from_millis(900);
    let options = Options { node_ttl: NODE_TTL, ..Options::default() };
    let survivor = Kind::Redis.stage_with(options).await;
    let list = dead_node(&survivor, "dead", USERS);

    let clearing = clearing_up(&survivor, &list).await;
    // As after a freeze: another process has the id by now.
    let _: i64 = survivor.ask(&["HSET", "node:dead", "boot", "another"]);
    clearing.await.unwrap().unwrap();
    let stopped = left(&survivor, &list);
    assert!(stopped > 0, "it took another process's users away");
    assert_eq!(survivor.ask::<String>(&["HGET", "node:dead", "boot"]), "another");

    let _: i64 = survivor.ask(&["DEL", "node:dead"]);
    let clearing = clearing_up(&survivor, &list).await;
    // It is renewed for what it is given by right, which is shorter.
    let (begun, mut renewed) = (Instant::now(), 0);
    let watched = async {
        while !clearing.is_finished() {
            tokio::time::sleep(LOOK).await;
            if (0..=NODE_TTL.as_millis() as i64).contains(&survivor.ask::<i64>(&["PTTL", "node:dead"])) {
                renewed += 1;
                prolong(&survivor);
            }
        }
    };
    timeout(3 * BOUND, watched).await.expect("the end");
    assert!(renewed > 0 || begun.elapsed() < NODE_TTL / 2, "nobody renews it: {:?}", begun.elapsed());
    clearing.await.unwrap().unwrap();
    assert_eq!(survivor.ask::<i64>(&["EXISTS", "node:dead", &list]), 0);
}
