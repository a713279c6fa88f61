//! Edges of presence are told once, whoever tells them and however late.

use crate::recorder::Recorder;
use crate::stage::{Kind, Stage, user};

const CURSOR: &str = "cursor:{user:42}";

/// What `tell.lua` answers for the one user it is asked about.
fn tell(stage: &Stage, owed: &str) -> String {
    let answer: Vec<String> =
        stage.ask(&["EVAL", include_str!("../../lua/tell.lua"), "1", "presence", "1000", "42", owed]);
    answer.into_iter().next().unwrap()
}

fn told(stage: &Stage) -> Vec<(String, Vec<String>)> {
    stage.ask(&["XRANGE", "presence", "-", "+"])
}

#[tokio::test]
async fn who_tells_late_notes_its_own_edge_not_a_later_one() {
    let stage = Kind::Redis.stage().await;
    let (seconds, micros): (u64, u64) = stage.ask(&["TIME"]);
    let noted = seconds * 1_000_000 + micros;
    let both = tell(&stage, &format!("0 {noted} offline a online b"));
    let late = tell(&stage, &format!("0 {noted} offline a"));
    let told = told(&stage);
    assert_eq!(told.len(), 2, "each once: {told:?}");
    assert_eq!(late, format!("offline {}", told[0].0));
    assert_eq!(both, format!("online {}", told[1].0));
    // What is left to tell after the late one's note has been told.
    let again = tell(&stage, &format!("{} {noted} online b", told[0].0));
    assert_eq!((again, self::told(&stage)), (both, told));
}

/// Where the clock was set back, whatever was told before that seems to be later than what is noted now.
#[tokio::test]
async fn what_was_told_before_the_clock_went_back_is_not_what_is_told_now() {
    let stage = Kind::Redis.stage().await;
    let (seconds, micros): (u64, u64) = stage.ask(&["TIME"]);
    let (noted, ahead) = (seconds * 1_000_000 + micros, seconds * 1000 + 300_000);
    let add = "for at = 0, 1199 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. at, 'user', at == 0 and '42' or 'other',
        'state', 'online', 'node', 'a') end return redis.status_reply('OK')";
    let () = stage.ask(&["EVAL", add, "1", "presence", &ahead.to_string()]);
    let online = tell(&stage, &format!("0 {noted} online a"));
    assert_eq!(online, format!("online {ahead}-1200"), "of this user nothing is known to be told");
    assert_eq!(
        tell(&stage, &format!("{ahead}-1199 {noted} online a")),
        online,
        "what was told and not noted is found"
    );
    // Of all that is ahead the newest thousand are looked through, with each call: the first of this user's is not among them.
    let () = stage.ask(&["XDEL", "presence", &format!("{ahead}-1200")]);
    assert_eq!(tell(&stage, &format!("{}-0 {noted} online a", ahead - 1)), format!("online {ahead}-1201"));
}

#[tokio::test]
async fn an_edge_is_found_however_much_was_told_since() {
    let stage = Kind::Redis.stage().await;
    // More than one read of the stream takes, and the edge is not in the first.
    for at in 0..700 {
        let (id, user) = (format!("{}-0", 2000 + at), if at == 600 { "42" } else { "other" });
        let _: String = stage.ask(&["XADD", "presence", &id, "user", user, "state", "online", "node", "a"]);
    }
    assert_eq!(tell(&stage, "0 1000000 online a"), "online 2600-0");
    assert_eq!(told(&stage).len(), 700);
}

#[tokio::test]
async fn what_came_while_an_edge_was_told_stays_owed() {
    let stage = Kind::Redis.stage().await;
    let settle = |paid: &str, told: &str| -> i64 {
        stage.ask(&["EVAL", include_str!("../../lua/settle.lua"), "1", CURSOR, paid, told])
    };
    let noted = || stage.ask::<Vec<Option<String>>>(&["HMGET", CURSOR, "@told", "@owed"]);
    let _: i64 = stage.ask(&["HSET", CURSOR, "@owed", "5 online a offline a"]);
    assert_eq!(settle("5 online a", "online 1-0"), 0);
    assert_eq!(noted(), [Some("online 1-0".to_owned()), Some("5 offline a".to_owned())]);
    // What another has paid meanwhile is not paid again.
    assert_eq!(settle("5 online a", "online 1-0"), 0);
    assert_eq!(settle("5 offline a", "offline 2-0"), 1);
    assert_eq!(noted(), [Some("offline 2-0".to_owned()), None]);
}

#[tokio::test]
async fn an_end_is_told_once_and_of_nobody_who_was_not_there() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.disconnect(&user, "tab", None).await;
    assert_eq!(stage.edges(), Vec::<String>::new());
    stage.connect(&user, "tab").await;
    for _ in 0..2 {
        stage.disconnect(&user, "tab", None).await;
    }
    assert_eq!(stage.edges(), ["online", "offline"]);
}

#[tokio::test]
async fn a_session_that_outlived_its_lease_has_not_come_online_again() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let position = stage.connect(&user, "tab").await.position;
    let () = stage.ask(&["DEL", "user:42"]);
    stage.resume(&user, "tab", position).await;
    assert_eq!(stage.edges(), ["online"]);
}

/// Somebody is online, and that has been told and settled.
async fn online() -> Stage {
    let stage = Kind::Redis.stage().await;
    stage.connect(&user("42"), "tab").await;
    let settled = async || stage.ask::<i64>(&["HEXISTS", CURSOR, "@owed"]) == 0;
    Recorder::eventually("the edge settled", settled).await;
    stage
}

#[tokio::test]
async fn who_was_there_goes_offline_though_redis_has_lost_the_note_of_it() {
    for dies in [false, true] {
        let stage = online().await;
        let () = stage.ask(&["DEL", CURSOR]);
        if dies {
            stage.survivor().await.engine.clear_up().await.unwrap();
        } else {
            stage.disconnect(&user("42"), "tab", None).await;
        }
        assert_eq!(stage.edges(), ["online", "offline"], "its node died: {dies}");
    }
}

#[tokio::test]
async fn an_end_that_cannot_be_told_is_told_later() {
    // No stream, and no memory for what is added to one.
    const BREAKS: [[&[&str]; 2]; 2] = [
        [&["SET", "presence", "x"], &["DEL", "presence"]],
        [&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]],
    ];
    for [breaks, mends] in BREAKS {
        let stage = online().await;
        // Without the note of its coming, its end is known by the set alone, and that is gone the second time.
        let () = stage.ask(&["DEL", "presence", CURSOR]);
        let survivor = stage.survivor().await;
        let () = stage.ask(breaks);
        survivor.engine.clear_up().await.ok(); // it is only put off
        let () = stage.ask(mends);
        survivor.engine.clear_up().await.unwrap();
        assert_eq!(stage.edges(), ["offline"], "{breaks:?}");
        let left: i64 = stage.ask(&["EXISTS", "user:42", "nodes:{user:42}", "users:{node:node-1}"]);
        assert_eq!(left, 0, "{breaks:?}");
    }
}
