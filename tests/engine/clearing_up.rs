//! Clearing up after dead nodes: after one with many users, after one that cannot be cleared up after, and where
//! `presence` takes nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use switchboard::engine::{Claim, Unavailable};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::recorder::Recorder;
use crate::redis_server::{BOUND, LOOK};
use crate::stage::{Kind, Options, Stage, user};

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
    // In the order of their ids.
    let list = dead_node(&stage, "ill", 1);
    let () = stage.ask(&["SET", &list, "no set"]);
    dead_node(&stage, "well", 1);
    stage.engine.clear_up().await.unwrap();
    let nodes: BTreeSet<String> = stage.ask(&["ZRANGE", "nodes", "0", "-1"]);
    assert_eq!(nodes, ["ill", "node-1"].map(str::to_owned).into());
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

#[tokio::test]
async fn users_who_cannot_be_done_hold_up_no_others() {
    let stage = Kind::Redis.stage().await;
    let list = dead_node(&stage, "dead", 2000);
    let _: i64 = stage.ask(&["SADD", &list, "a", "b", "c"]);
    let numbers = ["~user:[0-9]*", "~*{user:[0-9]*", "~*node*", "~events"];
    let () = stage.ask(&[&["ACL", "SETUSER", "default", "resetkeys"], &numbers[..]].concat());
    stage.engine.clear_up().await.unwrap();
    // Each takes along only those of its own script call.
    assert!((3..=150).contains(&left(&stage, &list)), "{} are left", left(&stage, &list));
    let () = stage.ask(&["ACL", "SETUSER", "default", "allkeys"]);
    stage.engine.clear_up().await.unwrap();
    assert_eq!(stage.ask::<i64>(&["EXISTS", &list, "node:dead"]), 0);
}

/// More than are cleared up after at once.
const MANY: usize = 450;

/// A dead node with users who are online by it alone, and a `presence` that takes nothing.
fn dead_and_nowhere_to_tell(stage: &Stage, id: &str) -> String {
    let online = "for user = 0, ARGV[2] - 1 do redis.call('SADD', 'user:' .. user, 'tab@' .. ARGV[1]) end
        return redis.status_reply('OK')";
    let () = stage.ask(&["EVAL", online, "0", id, &MANY.to_string()]);
    let () = stage.ask(&["SET", "presence", "x"]);
    dead_node(stage, id, MANY)
}

fn online(stage: &Stage) -> Vec<String> {
    stage.ask(&["KEYS", "user:*"])
}

/// All are told of, each once; then nobody need be remembered on that list.
async fn all_are_told(stage: &Stage, list: &str, others: &[&str]) {
    let offline = || stage.edges().iter().filter(|state| *state == "offline").count();
    Recorder::eventually("all told", async || offline() >= MANY).await;
    let listed = async || stage.ask::<BTreeSet<String>>(&["SMEMBERS", list]);
    let others: BTreeSet<String> = others.iter().map(|other| (*other).to_owned()).collect();
    Recorder::eventually("none but others listed", async || listed().await == others).await;
    assert_eq!(offline(), MANY);
}

#[tokio::test]
async fn a_node_whose_leftover_users_presence_does_not_take_serves_and_tells_later() {
    let stage = Kind::Redis.stage().await;
    let list = dead_and_nowhere_to_tell(&stage, "again");
    let again = stage.another("again").await;
    assert_eq!(online(&stage), [""; 0]);
    assert_eq!(left(&stage, &list), MANY as i64, "they are remembered");
    // Who is back meanwhile stays.
    again.connect(&user("7"), "tab").await;
    let _: i64 = stage.ask(&["DEL", "presence"]);
    again.heartbeat(&user("7"), &[]).await;
    all_are_told(&stage, &list, &["7"]).await;
    assert_eq!(again.sessions(&user("7")).await, ["tab@again"]);
}

#[tokio::test]
async fn a_dead_node_is_cleared_up_after_though_presence_takes_nothing_and_told_of_later() {
    let stage = Kind::Redis.stage().await;
    let list = dead_and_nowhere_to_tell(&stage, "dead");
    stage.engine.clear_up().await.unwrap();
    assert_eq!(online(&stage), [""; 0]);
    assert_eq!(stage.ask::<i64>(&["EXISTS", &list, "node:dead"]), 0);
    assert_eq!(stage.ask::<Vec<String>>(&["ZRANGE", "nodes", "0", "-1"]), ["node-1"]);
    let own = "users:{node:node-1}";
    assert_eq!(left(&stage, own), MANY as i64, "should this one die, too");
    assert!(stage.ask::<i64>(&["PTTL", own]) > 0);
    let _: i64 = stage.ask(&["DEL", "presence"]);
    all_are_told(&stage, own, &[]).await;
}

#[tokio::test]
async fn who_leaves_for_good_leaves_to_others_what_presence_does_not_take() {
    let stage = Kind::Redis.stage().await;
    let list = dead_and_nowhere_to_tell(&stage, "dead");
    let leaves = stage.another("node-2").await;
    leaves.engine.clear_up().await.unwrap();
    leaves.engine.release().await.unwrap_err();
    drop(leaves);
    let () = stage.ask(&["DEL", "node:node-2"]);
    let _: i64 = stage.ask(&["ZADD", "nodes", "1", "node-2"]);
    stage.engine.clear_up().await.unwrap();
    assert_eq!(stage.ask::<i64>(&["EXISTS", &list, "users:{node:node-2}"]), 0);
    let _: i64 = stage.ask(&["DEL", "presence"]);
    all_are_told(&stage, "users:{node:node-1}", &[]).await;
}
