//! A gap is proved, not guessed: when a replay may call itself whole, and when it may not.

use std::time::Duration;

use futures_util::future::join_all;
use switchboard::engine::{Claim, Event, LeaseState};
use switchboard::id::{EventId, UserId};

use crate::lasting::in_time;
use crate::stage::{Kind, Options, event, ids, user};

crate::on_both_engines!(
    a_trimmed_log_is_whole_only_for_who_is_not_behind_it,
    of_a_long_log_no_more_is_read_than_is_kept,
    a_log_that_lapsed_is_a_gap,
    a_lapsed_log_is_a_gap_also_once_it_has_begun_anew,
    a_collapsed_entry_is_not_missing,
    a_collapsed_front_is_not_missing,
    collapsed_entries_do_not_hide_a_trimmed_one,
    only_the_newest_of_a_collapse_key_is_kept,
    collapse_keys_are_told_apart,
    a_collapsed_entry_gives_way_to_its_own_target_alone,
);

const LAPSES: Duration = Duration::from_millis(300);

fn short_log() -> Options {
    Options { log_ttl: LAPSES, ..Options::default() }
}

fn progress(user: &UserId, key: &str, data: &str) -> Event {
    Event { collapse: Some(key.parse().unwrap()), ..event(user, data) }
}

async fn a_trimmed_log_is_whole_only_for_who_is_not_behind_it(kind: Kind) {
    let stage = kind.stage_with(Options { log_length: 4, ..Options::default() }).await;
    let user = user("42");
    let mut published = Vec::new();
    for n in 0..6 {
        published.push(stage.publish_plain(&user, &n.to_string()).await);
    }
    let kept = &published[2..];
    for (behind, whole) in [(published[0], false), (published[1], true), (published[2], true)] {
        let welcome = stage.connect_since(&user, "tab", behind).await;
        assert_eq!(welcome.whole, whole, "after {behind} of {published:?}");
        let left: Vec<_> = kept.iter().copied().filter(|id| *id > behind).collect();
        assert_eq!((ids(&welcome), welcome.replayed), (left.clone(), left.len() as u64));
    }
    let all = stage.connect_since(&user, "tab", EventId::ZERO).await;
    assert_eq!((ids(&all), all.whole), (kept.to_vec(), false), "all that is kept is not all there was");
}

async fn of_a_long_log_no_more_is_read_than_is_kept(kind: Kind) {
    let stage = kind.stage_with(Options { log_length: 130, ..Options::default() }).await;
    let user = user("42");
    let mut published = Vec::new();
    for n in 0..299 {
        published.push(stage.publish_plain(&user, &n.to_string()).await);
        if kind == Kind::Redis {
            let length: usize = stage.ask(&["XLEN", "log:{user:42}"]);
            assert!(length <= 130 + 16, "{length} entries");
        }
    }
    for (behind, whole) in [(131, false), (130, true)] {
        let welcome = stage.connect_since(&user, "tab", published[299 - 1 - behind]).await;
        assert_eq!((welcome.whole, welcome.replayed), (whole, 130), "{behind} behind");
    }
}

#[tokio::test]
async fn a_burst_leaves_a_log_hardly_longer_than_it_is_meant() {
    for (log_length, longest) in [(4, 4), (130, 130 + 2 * 16)] {
        let (stage, user) =
            (Kind::Redis.stage_with(Options { log_length, ..Options::default() }).await, user("42"));
        let burst = (0..500).map(|n| stage.engine.publish(event(&user, &n.to_string())));
        for published in join_all(burst).await {
            published.unwrap();
        }
        let length: usize = stage.ask(&["XLEN", "log:{user:42}"]);
        assert!((log_length..=longest).contains(&length), "{length} entries");
    }
}

#[tokio::test]
async fn users_who_always_have_the_same_place_in_a_call_are_cut_all_the_same() {
    let stage = Kind::Redis.stage_with(Options { log_length: 130, ..Options::default() }).await;
    let users: Vec<_> = (0..16).map(|n| user(&n.to_string())).collect();
    for _ in 0..4 {
        let burst = (0..600).flat_map(|_| &users).map(|user| stage.engine.publish(event(user, "1")));
        for published in join_all(burst).await {
            published.unwrap();
        }
    }
    for user in users {
        let length: usize = stage.ask(&["XLEN", &format!("log:{{user:{user}}}")]);
        assert!((130..1500).contains(&length), "{length} entries"); // of 2,400
    }
}

async fn a_log_that_lapsed_is_a_gap(kind: Kind) {
    let (stage, user) = (kind.stage_with(short_log()).await, user("42"));
    let seen = stage.publish_plain(&user, "1").await;
    stage.connect_since(&user, "tab", seen).await;
    stage.disconnect(&user, "tab", Some(seen)).await;
    stage.publish_plain(&user, "lost").await;
    stage.time_passes(LAPSES + LAPSES / 4).await;
    let back = stage.connect_since(&user, "tab", seen).await;
    assert_eq!((ids(&back), back.whole, back.replayed), (vec![], false, 0));
    assert!(back.position > seen);
}

async fn a_lapsed_log_is_a_gap_also_once_it_has_begun_anew(kind: Kind) {
    in_time(kind, 10, async |stage, user, ttl| {
        let seen = stage.publish_plain(user, "1").await;
        stage.publish_plain(user, "lost").await;
        stage.time_passes(ttl * 5 / 4).await;
        stage.engine.clear_up().await.unwrap();
        let kept = stage.publish_plain(user, "2").await;
        let back = stage.connect_since(user, "tab", seen).await;
        assert_eq!((ids(&back), back.whole), (vec![kept], false));
    })
    .await;
}

async fn a_collapsed_entry_is_not_missing(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let first = stage.publish_plain(&user, "1").await;
    let older = stage.publish(progress(&user, "p", "10")).await.id.unwrap();
    let second = stage.publish_plain(&user, "2").await;
    let newer = stage.publish(progress(&user, "p", "20")).await.id.unwrap();
    for (since, left) in [(first, vec![second, newer]), (older, vec![second, newer]), (second, vec![newer])] {
        let page = stage.connect_since(&user, "tab", since).await;
        assert_eq!((ids(&page), page.whole, page.replayed), (left.clone(), true, left.len() as u64));
    }
}

async fn a_collapsed_front_is_not_missing(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let before = stage.connect(&user, "tab").await.position;
    stage.publish(progress(&user, "p", "10")).await;
    stage.publish(progress(&user, "q", "10")).await;
    // Alone at the front, then with others behind, then the second front after the first.
    for step in ["20", "30"] {
        stage.publish(progress(&user, "p", step)).await;
        stage.publish(progress(&user, "q", step)).await;
    }
    let last = stage.publish_plain(&user, "1").await;
    let page = stage.resume(&user, "tab", before).await;
    assert_eq!((page.whole, page.replayed, ids(&page).last()), (true, 3, Some(&last)));
    let all = stage.connect_since(&user, "other", EventId::ZERO).await;
    assert_eq!((all.whole, ids(&all)), (true, ids(&page)));
}

async fn collapsed_entries_do_not_hide_a_trimmed_one(kind: Kind) {
    let stage = kind.stage_with(Options { log_length: 3, ..Options::default() }).await;
    let user = user("42");
    let before = stage.connect(&user, "tab").await.position;
    stage.publish_plain(&user, "lost").await;
    for step in ["10", "20", "30"] {
        stage.publish(progress(&user, "p", step)).await;
        stage.publish_plain(&user, step).await;
    }
    stage.publish(progress(&user, "p", "40")).await;
    assert!(!stage.resume(&user, "tab", before).await.whole);
    assert!(!stage.resume(&user, "tab", EventId::ZERO).await.whole);
}

/// Each job's last event would hold a block of Redis' memory that all the steps before it had filled.
#[tokio::test]
async fn a_log_full_of_holes_is_written_anew() {
    const JOBS: u64 = 60;
    const STEPS: u64 = 40;
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let before = stage.connect(&user, "tab").await.position;
    let mut results = Vec::new();
    for job in 0..JOBS {
        let job = format!("job-{job}");
        for _ in 1..STEPS {
            stage.publish(progress(&user, &job, &format!("{:200}", 1))).await;
        }
        results.push(stage.publish(progress(&user, &job, "\"done\"")).await.id.unwrap());
    }
    let memory: u64 = stage.ask(&["MEMORY", "USAGE", "log:{user:42}", "SAMPLES", "0"]);
    assert!(memory < JOBS * 512, "{memory} bytes for {JOBS} events");
    assert!(stage.ask::<i64>(&["PTTL", "log:{user:42}"]) > 0);
    let page = stage.resume(&user, "tab", before).await;
    assert_eq!((ids(&page), page.whole), (results.clone(), true));
    let since = stage.connect_since(&user, "other", results[7]).await;
    assert_eq!((ids(&since), since.whole), (results[8..].to_vec(), true));
}

/// Who all get the same progress all have as many holes: together they would hold Redis up for a quarter of a second.
#[tokio::test]
async fn one_log_of_a_call_is_written_anew() {
    let stage = Kind::Redis.stage().await;
    let users = ["a", "b", "c"];
    let cursor = |user: &str| format!("cursor:{{user:{user}}}");
    let mut call = vec!["EVAL".to_owned(), include_str!("../../lua/publish.lua").to_owned(), "9".to_owned()];
    for user in users {
        call.extend([format!("nodes:{{user:{user}}}"), format!("log:{{user:{user}}}"), cursor(user)]);
    }
    call.extend(["256", "60000", "node-1", "0", "inbox:{node:"].map(str::to_owned));
    call.extend(users.iter().flat_map(|_| ["progress", "1", "1", "collapse", "p"]).map(str::to_owned));
    let call: Vec<_> = call.iter().map(String::as_str).collect();
    let _: String = stage.ask(&call);
    for user in users {
        let _: i64 = stage.ask(&["HSET", &cursor(user), "@holes", "1024"]);
    }
    for left in [["0", "1025", "1025"], ["1", "0", "1026"], ["2", "1", "0"]] {
        let _: String = stage.ask(&call);
        assert_eq!(users.map(|user| stage.ask::<String>(&["HGET", &cursor(user), "@holes"])), left);
    }
}

/// How large a log is, it says only as it is read.
#[tokio::test]
async fn a_log_of_large_events_is_not_read_for_its_holes() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.publish(progress(&user, "job", "1")).await;
    let data = "x".repeat(1 << 20);
    for _ in 0..32 {
        let _: String =
            stage.ask(&["XADD", "log:{user:42}", "*", "event", "e", "data", &data, "prev", "0-0"]);
    }
    let _: i64 = stage.ask(&["HSET", "cursor:{user:42}", "@holes", "1024"]);
    let peak = || {
        let memory: String = stage.ask(&["INFO", "memory"]);
        let peak = memory.lines().find_map(|line| line.strip_prefix("used_memory_peak:"));
        peak.unwrap().parse::<u64>().unwrap()
    };
    let before = peak();
    stage.publish(progress(&user, "job", "2")).await;
    assert_eq!(stage.ask::<String>(&["HGET", "cursor:{user:42}", "@holes"]), "0");
    let read = peak() - before;
    assert!(read < 16 << 20, "{read} bytes at once");
}

async fn only_the_newest_of_a_collapse_key_is_kept(kind: Kind) {
    let stage = kind.stage_with(Options { log_length: 4, ..Options::default() }).await;
    let user = user("42");
    let before = stage.connect(&user, "tab").await.position;
    let result = stage.publish_plain(&user, "result").await;
    let mut newest = result;
    for step in 0..20 {
        newest = stage.publish(progress(&user, "p", &step.to_string())).await.id.unwrap();
    }
    // A flood of progress has not pushed the result out.
    let page = stage.resume(&user, "tab", before).await;
    assert_eq!((ids(&page), page.whole), (vec![result, newest], true));
    assert_eq!(&page.events[1].data[..], b"19");
}

async fn collapse_keys_are_told_apart(kind: Kind) {
    let stage = kind.stage().await;
    let (one, other) = (user("1"), user("2"));
    let a = stage.publish(progress(&one, "a", "1")).await.id.unwrap();
    let b = stage.publish(progress(&one, "b", "1")).await.id.unwrap();
    stage.publish(progress(&other, "a", "1")).await;
    let plain = stage.publish_plain(&one, "2").await;
    assert_eq!(ids(&stage.connect_since(&one, "tab", EventId::ZERO).await), [a, b, plain]);
}

async fn a_collapsed_entry_gives_way_to_its_own_target_alone(kind: Kind) {
    let stage = kind.stage().await;
    let (user, client) = (user("42"), |name: &str| Some(name.parse().unwrap()));
    let targets =
        [(None, None), (client("a"), None), (client("b"), None), (None, client("a")), (None, client("b"))];
    let mut newest = Vec::new();
    for round in ["1", "2"] {
        newest.clear();
        for (client, except) in targets.clone() {
            let event = Event { client, except, ..progress(&user, "p", round) };
            newest.push(stage.publish(event).await.id.unwrap());
        }
    }
    for (client, its) in [("a", [0, 1, 4]), ("b", [0, 2, 3])] {
        let page = stage.connect_since(&user, client, EventId::ZERO).await;
        assert_eq!((ids(&page), page.whole), (its.map(|at: usize| newest[at]).to_vec(), true), "{client}");
    }
}

#[tokio::test]
async fn flushed_data_is_noticed_and_is_a_gap() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let welcome = stage.connect(&user, "tab").await;
    let seen = stage.publish_plain(&user, "1").await;
    stage.publish_plain(&user, "lost").await;
    let () = stage.ask(&["FLUSHALL"]);

    assert_eq!(stage.heartbeat(&user, &[("tab", seen)]).await, LeaseState::Lost);
    assert!(!stage.engine.beat(1, 0).await.unwrap());
    assert_eq!(stage.engine.claim().await.unwrap(), Claim::Held);
    for since in [welcome.position, seen] {
        let page = stage.resume(&user, "tab", since).await;
        assert_eq!((ids(&page), page.whole), (vec![], false), "since {since}");
    }
    // Of the new data, everything is known, but for its first moment.
    stage.time_passes(Duration::from_millis(5)).await;
    let from_here = stage.resume(&user, "tab", seen).await.position;
    let kept = stage.publish_plain(&user, "2").await;
    let page = stage.resume(&user, "tab", from_here).await;
    assert_eq!((ids(&page), page.whole), (vec![kept], true));
    assert!(!stage.resume(&user, "tab", seen).await.whole);
}

/// The clock stands still, so that two events and the end of the log's time share their milliseconds.
#[tokio::test]
async fn an_event_of_the_last_known_millisecond_is_a_gap_once_it_lapsed() {
    let stage = Kind::Memory.stage_with(short_log()).await;
    let user = user("42");
    tokio::time::pause();
    let seen = stage.publish_plain(&user, "1").await;
    let lost = stage.publish_plain(&user, "2").await;
    assert_eq!(seen.ms, lost.ms);
    tokio::time::advance(LAPSES).await;
    stage.engine.clear_up().await.unwrap();
    let back = stage.connect_since(&user, "tab", seen).await;
    assert_eq!((ids(&back), back.whole), (vec![], false));
}
