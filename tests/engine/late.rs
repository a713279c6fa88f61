//! Calls that the network held back: when they come, nobody waits for them, and much may have happened.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use crate::stage::{Kind, Stage, client, user};

/// Long ago, and long after; Unix ms.
const LATE: &str = "1700000000000";
const IN_TIME: &str = "9000000000000";

/// What a script answers to a call of `node-2` about a session of user 42, which is awaited until then.
fn connects(stage: &Stage, until: &str) -> Value {
    let words = ["node-2", "60000", "600000", "32", "0", "256", until, "tab", "new", "", "", "", "0", "0-0"];
    calls(stage, include_str!("../../lua/connect.lua"), &words)
}

fn disconnects(stage: &Stage, until: &str) -> Value {
    calls(stage, include_str!("../../lua/disconnect.lua"), &["node-2", "600000", until, "tab", ""])
}

fn calls(stage: &Stage, script: &str, words: &[&str]) -> Value {
    let keys = ["EVAL", script, "4", "user:42", "nodes:{user:42}", "log:{user:42}", "cursor:{user:42}"];
    stage.ask(&[&keys, words].concat())
}

fn signs_out(stage: &Stage, until: &str) -> Value {
    let script = include_str!("../../lua/signout.lua");
    stage.ask(&["EVAL", script, "2", "user:42", "cursor:{user:42}", "*", "600000", until])
}

#[tokio::test]
async fn what_nobody_awaits_any_more_changes_nothing() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let signed_out = || stage.ask::<Option<String>>(&["HGET", "cursor:{user:42}", "@out"]).is_some();
    assert!(matches!(connects(&stage, LATE), Value::Int(1_700_000_000_000..)), "it says what time it is");
    assert_eq!(stage.sessions(&user).await, Vec::<String>::new());
    connects(&stage, IN_TIME);
    assert!(matches!(disconnects(&stage, LATE), Value::Int(_)));
    assert!(matches!(signs_out(&stage, LATE), Value::Int(_)));
    assert_eq!((stage.sessions(&user).await, signed_out()), (vec!["tab@node-2".to_owned()], false));
    signs_out(&stage, IN_TIME);
    disconnects(&stage, IN_TIME);
    assert_eq!((stage.sessions(&user).await, signed_out()), (Vec::new(), true));
}

#[tokio::test]
async fn a_clock_that_is_ahead_of_what_is_known_of_it_makes_nothing_late() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let set_back = || stage.clock().told(Instant::now(), 1_700_000_000_000_000, Duration::ZERO);
    set_back();
    stage.connect(&user, "tab").await;
    set_back();
    stage.engine.sign_out(user.clone(), Some(client("tab"))).await.unwrap();
    set_back();
    stage.disconnect(&user, "tab", None).await;
    assert_eq!(stage.sessions(&user).await, Vec::<String>::new());
}
