//! Edges of presence are told once, whoever tells them and however late.

use std::time::Duration;

use crate::recorder::Recorder;
use crate::stage::{Kind, Options, Stage, user};

const CURSOR: &str = "cursor:{user:42}";

/// Redis' clock, in microseconds.
fn clock(stage: &Stage) -> u64 {
    let (seconds, micros): (u64, u64) = stage.ask(&["TIME"]);
    seconds * 1_000_000 + micros
}

/// What `tell.lua` answers for the one user it is asked about, whose edges were noted, and read, at such a time; none
/// where they were read too long ago.
fn tell_of(stage: &Stage, told: &str, read: u64, noted: u64, edges: &str) -> Option<String> {
    tell_keeping(stage, "100000", &format!("{told} {read} {noted} {edges}"))
}

/// The same of what is owed, where the stream keeps so many entries.
fn tell_keeping(stage: &Stage, most: &str, owed: &str) -> Option<String> {
    let tell = include_str!("../../lua/tell.lua");
    stage.ask::<Vec<String>>(&["EVAL", tell, "1", "presence", most, "42", owed]).into_iter().next()
}

/// What it answers where the edges have just been read.
fn tell(stage: &Stage, told: &str, noted: u64, edges: &str) -> String {
    tell_of(stage, told, clock(stage), noted, edges).unwrap()
}

/// Adds an entry of another's to the empty stream, as of then.
fn was_told_at(stage: &Stage, us: u64) {
    let id = format!("{}-0", us / 1000);
    let _: String = stage.ask(&["XADD", "presence", &id, "user", "other", "state", "online", "node", "a"]);
}

/// Adds so many entries of others to the stream.
fn others_are_told(stage: &Stage, entries: usize) {
    let add = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'user', 'other', 'state', 'online', 'node', 'a') end
        return redis.status_reply('OK')";
    let () = stage.ask(&["EVAL", add, "1", "presence", &entries.to_string()]);
}

fn told(stage: &Stage) -> Vec<(String, Vec<String>)> {
    stage.ask(&["XRANGE", "presence", "-", "+"])
}

#[tokio::test]
async fn who_tells_late_notes_its_own_edge_not_a_later_one() {
    let stage = Kind::Redis.stage().await;
    let noted = clock(&stage);
    let both = tell(&stage, "0", noted, "offline a online b");
    let late = tell(&stage, "0", noted, "offline a");
    let told = told(&stage);
    assert_eq!(told.len(), 2, "each once: {told:?}");
    assert_eq!(late, format!("offline {}", told[0].0));
    assert_eq!(both, format!("online {}", told[1].0));
    // What is left to tell after the late one's note has been told.
    let again = tell(&stage, &told[0].0, noted, "online b");
    assert_eq!((again, self::told(&stage)), (both, told));
}

/// Where the clock was set back, whatever was told before that seems to be later than what is noted now.
#[tokio::test]
async fn what_was_told_before_the_clock_went_back_is_not_what_is_told_now() {
    let stage = Kind::Redis.stage().await;
    let noted = clock(&stage);
    let ahead = noted / 1000 + 300_000;
    let add = "for at = 0, 1199 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. at, 'user', at == 0 and '42' or 'other',
        'state', 'online', 'node', 'a') end return redis.status_reply('OK')";
    let () = stage.ask(&["EVAL", add, "1", "presence", &ahead.to_string()]);
    let online = tell(&stage, "0", noted, "online a");
    assert_eq!(online, format!("online {ahead}-1200"), "of this user nothing is known to be told");
    let again = tell(&stage, &format!("{ahead}-1199"), noted, "online a");
    assert_eq!(again, online, "what was told and not noted is found");
    // Of all that is ahead the newest thousand are looked through, with each call: the first of this user's is not among them.
    let () = stage.ask(&["XDEL", "presence", &format!("{ahead}-1200")]);
    let beyond = tell(&stage, &format!("{}-0", ahead - 1), noted, "online a");
    assert_eq!(beyond, format!("online {ahead}-1201"));
}

#[tokio::test]
async fn an_edge_is_found_among_the_newest_thousand() {
    let stage = Kind::Redis.stage().await;
    let noted = clock(&stage);
    let online = tell(&stage, "0", noted, "online a");
    others_are_told(&stage, 999);
    assert_eq!(tell(&stage, "0", noted, "online a"), online);
    others_are_told(&stage, 1);
    assert_ne!(tell(&stage, "0", noted, "online a"), online, "rather twice than never");
}

/// Whoever pays many debts that were noted long ago must not go over all that it has told with each call.
#[tokio::test]
async fn what_is_looked_through_is_bounded_however_old_the_debt() {
    let stage = Kind::Redis.stage().await;
    let noted = clock(&stage);
    others_are_told(&stage, 20_000);
    let () = stage.ask(&["CONFIG", "RESETSTAT"]);
    tell(&stage, "0", noted, "online a");
    let stats: String = stage.ask(&["INFO", "commandstats"]);
    let calls = |line: &str| -> Option<u32> {
        let (command, numbers) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        if !["xrange", "xrevrange"].contains(&command) {
            return None;
        }
        numbers.split(',').next()?.parse().ok()
    };
    // One for the newest, and one that `an_edge_is_found_among_the_newest_thousand` knows the length of.
    assert_eq!(stats.lines().filter_map(calls).sum::<u32>(), 2, "{stats}");
}

/// A node that froze between reading what is owed and telling it: by now it is settled, and the user has come back.
#[tokio::test]
async fn who_is_late_does_not_have_the_last_word() {
    let stage = Kind::Redis.stage().await;
    let read = clock(&stage) - 3_000_000;
    was_told_at(&stage, read - 1000);
    let late = || tell_of(&stage, "0", read, read, "offline a");
    tell(&stage, "0", read, "offline a online b");
    let offline = format!("offline {}", told(&stage)[1].0);
    assert_eq!(late(), Some(offline), "where it is found, it is not told again");
    others_are_told(&stage, 1000);
    assert_eq!(late(), None);
    assert_eq!(told(&stage).len(), 1003);
}

/// Readers of one group may delete what they have handled; then nothing shows that an edge was told, and settled.
#[tokio::test]
async fn who_is_late_has_not_the_last_word_where_readers_delete_entries() {
    let stage = Kind::Redis.stage().await;
    let (now, then) = (clock(&stage), clock(&stage) - 3_000_000);
    let late = || tell_of(&stage, "0", then, then, "offline a");
    was_told_at(&stage, then - 1000);
    assert!(late().is_some(), "the stream has all since then: it was not told");
    let delete = |entries: Vec<(String, Vec<String>)>| {
        for (id, _) in entries {
            let _: i64 = stage.ask(&["XDEL", "presence", &id]);
        }
    };
    delete(told(&stage));
    assert_eq!((late(), told(&stage).len()), (None, 0), "an empty stream shows nothing");
    others_are_told(&stage, 1);
    assert_eq!((late(), told(&stage).len()), (None, 1), "nor does one that begins later");
    assert!(tell_of(&stage, "0", now, then, "offline a").is_some(), "what has just been read is owed");
}

#[tokio::test]
async fn who_is_late_has_not_the_last_word_where_the_stream_is_kept_short() {
    let stage = Kind::Redis.stage().await;
    let (now, then) = (clock(&stage), clock(&stage) - 3_000_000);
    let owed = |read: u64, edges: &str| tell_keeping(&stage, "10", &format!("0 {read} {then} {edges}"));
    owed(now, "offline a online b").unwrap();
    for _ in 0..12 {
        owed(clock(&stage), "online c").unwrap();
        others_are_told(&stage, 1);
    }
    let before = told(&stage);
    assert_eq!(owed(then, "offline a"), None, "what would show that it was told has been cut off");
    assert_eq!(told(&stage), before);
}

#[tokio::test]
async fn an_edge_is_told_however_late_it_is_read() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let () = stage.ask(&["SET", "presence", "x"]);
    stage.connect(&user, "tab").await;
    let () = stage.ask(&["DEL", "presence"]);
    others_are_told(&stage, 2000);
    let () = stage.ask(&["HSET", CURSOR, "@owed", &format!("{} online node-1", clock(&stage) - 60_000_000)]);
    stage.heartbeat(&user, &[]).await;
    let last: Vec<(String, Vec<String>)> = stage.ask(&["XREVRANGE", "presence", "+", "-", "COUNT", "1"]);
    assert_eq!(last[0].1, ["user", "42", "state", "online", "node", "node-1"]);
    assert_eq!(stage.ask::<i64>(&["HEXISTS", CURSOR, "@owed"]), 0, "and settled");
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
    // A debt that is noted where all else has lapsed is of no use for longer than that is kept.
    let _: i64 = stage.ask(&["DEL", CURSOR]);
    let _: i64 = stage.ask(&["HSET", CURSOR, "@owed", "5 offline a"]);
    let _: i64 = stage.ask(&["PEXPIRE", CURSOR, "60000"]);
    assert_eq!(settle("5 offline a", "offline 2-0"), 1);
    assert!(stage.ask::<i64>(&["PTTL", CURSOR]) > 0, "it lapses");
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
        let told = async || stage.edges() == ["offline"];
        Recorder::eventually("the end told", told).await;
        let left: i64 = stage.ask(&["EXISTS", "user:42", "nodes:{user:42}", "users:{node:node-1}"]);
        assert_eq!(left, 0, "{breaks:?}");
    }
}

/// Whoever owes nothing tells nothing, and hears by that alone that `presence` takes entries again.
#[tokio::test]
async fn a_node_whose_debt_another_has_paid_knows_that_it_owes_nothing() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let short = Options { session_ttl: Duration::from_millis(300), ..Options::default() };
    let other = stage.another_with("node-2", short).await;
    let () = stage.ask(&["SET", "presence", "x"]);
    stage.connect(&user, "tab").await;
    other.connect(&user, "tab-2").await;
    other.engine.beat(1, 1).await.unwrap();
    assert!(!stage.presence_is_up() && !other.presence_is_up(), "both have failed only just now");
    let () = stage.ask(&["DEL", "presence"]);
    stage.heartbeat(&user, &[]).await;
    assert!(stage.presence_is_up() && stage.edges() == ["online"]);
    let knows = async || other.engine.beat(1, 1).await.unwrap() && other.presence_is_up();
    Recorder::eventually("the other one knows", knows).await;
    assert_eq!(stage.edges(), ["online"]);
}
