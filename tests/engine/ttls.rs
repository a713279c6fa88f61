//! How long keys last: whoever comes, goes or publishes gives them their full time, and nobody takes any off them.

use std::time::Duration;

use switchboard::engine::{Claim, Event, LeaseState};

use crate::stage::{Kind, Options, Stage, event, user};

const LOG: &str = "log:{user:42}";
const CURSOR: &str = "cursor:{user:42}";
/// All that is kept of a user while someone is there.
const ALL: [&str; 4] = ["user:42", "nodes:{user:42}", LOG, CURSOR];
/// What outlives the sessions.
const KEPT: [&str; 2] = [LOG, CURSOR];
const NODE: [&str; 3] = ["node:node-1", "inbox:{node:node-1}", "users:{node:node-1}"];

/// Nearly over, ms: far from the 600 s of a stage, and more than any test takes.
const SHORT: &str = "30000";
/// As a node leaves it that runs with longer settings, ms.
const LONG: &str = "100000000";

fn last(stage: &Stage, keys: &[&str], ttl: &str) {
    for key in keys {
        assert_eq!(stage.ask::<i64>(&["PEXPIRE", key, ttl]), 1, "there is no {key}");
    }
}

fn left(stage: &Stage, key: &str) -> i64 {
    stage.ask(&["PTTL", key])
}

#[track_caller]
fn assert_renewed(stage: &Stage, keys: &[&str], by: &str) {
    for key in keys {
        assert!(left(stage, key) > SHORT.parse().unwrap(), "{key} is not renewed by {by}");
    }
}

#[tokio::test]
async fn whoever_comes_goes_or_stays_renews_what_is_kept_of_the_user() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    stage.publish_plain(&user, "1").await;

    last(&stage, &ALL, SHORT);
    stage.connect(&user, "other").await;
    assert_renewed(&stage, &ALL, "a connection");
    last(&stage, &ALL, SHORT);
    assert!(matches!(stage.heartbeat(&user, &[]).await, LeaseState::Renewed { .. }));
    assert_renewed(&stage, &ALL[..2], "a heartbeat");
    for (client, end) in [("other", "an end"), ("tab", "the last end")] {
        last(&stage, &KEPT, SHORT);
        stage.disconnect(&user, client, None).await;
        assert_renewed(&stage, &KEPT, end);
    }
    last(&stage, &[CURSOR], SHORT);
    stage.engine.sign_out(user.clone(), None).await.unwrap();
    assert_renewed(&stage, &[CURSOR], "a sign-out");

    // Nobody kept them since the node died.
    stage.connect(&user, "tab").await;
    let survivor = stage.survivor().await;
    last(&stage, &KEPT, SHORT);
    survivor.engine.clear_up().await.unwrap();
    assert_renewed(&stage, &KEPT, "clearing up");
}

#[tokio::test]
async fn a_note_of_a_sign_out_lapses_where_nothing_else_is_known_of_the_user() {
    let stage = Kind::Redis.stage().await;
    stage.engine.sign_out(user("42"), None).await.unwrap();
    assert!(left(&stage, CURSOR) > 0);
}

/// Whoever comes back in time finds the last event, and their position.
#[tokio::test]
async fn each_event_renews_what_is_kept_of_a_user_who_is_away() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    stage.disconnect(&user, "tab", None).await;
    stage.publish_plain(&user, "0").await;
    // More than one: a second may begin in between.
    for data in ["1", "2", "3"] {
        last(&stage, &KEPT, SHORT);
        stage.publish_plain(&user, data).await;
        assert_renewed(&stage, &KEPT, "an event");
    }
}

/// The log is renewed once a second; what is noted of a key comes at any time.
#[tokio::test]
async fn a_key_is_remembered_as_long_as_its_event_is_kept() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    // More than once: a second may begin between the two.
    for key in ["a", "b", "c"] {
        let keyed = || Event { key: Some(key.parse().unwrap()), ..event(&user, "2") };
        stage.publish_plain(&user, "1").await;
        last(&stage, &[CURSOR], SHORT);
        stage.publish(keyed()).await;
        assert_renewed(&stage, &[CURSOR], "an event with a key");
        last(&stage, &[CURSOR], SHORT);
        stage.publish(keyed()).await;
        assert_renewed(&stage, &[CURSOR], "the same again");
    }
}

#[tokio::test]
async fn nobody_takes_time_off_what_is_kept_of_a_user() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    stage.publish_plain(&user, "1").await;
    last(&stage, &ALL, LONG);
    let check = |keys: &[&str], by: &str| {
        for key in keys {
            assert!(left(&stage, key) > 90_000_000, "{by} takes time off {key}: {} ms", left(&stage, key));
        }
    };
    stage.connect(&user, "other").await;
    check(&ALL, "a connection");
    // As if its lease had been renewed last so long ago that the log is due.
    let _: i64 = stage.ask(&["HSET", "nodes:{user:42}", "node-1", "1"]);
    assert!(matches!(stage.heartbeat(&user, &[]).await, LeaseState::Renewed { .. }));
    check(&KEPT, "a heartbeat");
    stage.disconnect(&user, "other", None).await;
    check(&KEPT, "an end");
    stage.engine.sign_out(user.clone(), None).await.unwrap();
    check(&KEPT, "a sign-out");
    // The next second, so that the log is due.
    stage.time_passes(Duration::from_millis(1100)).await;
    stage.publish_plain(&user, "2").await;
    check(&KEPT, "an event");
    stage.survivor().await.engine.clear_up().await.unwrap();
    check(&KEPT, "clearing up");
}

#[tokio::test]
async fn a_claim_and_a_beat_renew_what_is_kept_of_the_node() {
    let stage = Kind::Redis.stage().await;
    stage.connect(&user("42"), "tab").await;
    last(&stage, &NODE, SHORT);
    assert!(stage.engine.beat(1, 0).await.unwrap());
    assert_renewed(&stage, &NODE, "a beat");
    last(&stage, &NODE, SHORT);
    assert_eq!(stage.engine.claim().await.unwrap(), Claim::Held);
    assert_renewed(&stage, &NODE, "a claim");
}

/// Whoever is back first, if all nodes go, tells who is offline: for as long as a log lasts.
#[tokio::test]
async fn whom_a_node_serves_is_remembered_for_longer_than_its_lease() {
    let brief = Duration::from_secs(10);
    let options = Options { session_ttl: brief, node_ttl: brief, ..Options::default() };
    let stage = Kind::Redis.stage_with(options).await;
    stage.connect(&user("42"), "tab").await;
    last(&stage, &NODE[2..], SHORT);
    assert!(stage.engine.beat(1, 0).await.unwrap());
    assert!(left(&stage, NODE[2]) > 500_000);
    last(&stage, &NODE[2..], SHORT);
    assert_eq!(stage.engine.claim().await.unwrap(), Claim::Held);
    assert!(left(&stage, NODE[2]) > 500_000);
}
