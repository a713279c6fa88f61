//! Redis threw a key away, or an operator deleted it: what is told then, and what goes on.

use std::time::Duration;

use switchboard::engine::{Connected, LeaseState, Mode, Told};
use switchboard::id::EventId;

use crate::stage::{Kind, Options, event, ids, user};

const LOG: &str = "log:{user:42}";

#[tokio::test]
async fn whoever_was_told_of_a_gap_in_a_log_that_is_gone_stands_at_its_end() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let before = stage.connect(&user, "tab").await.position;
    stage.publish_plain(&user, "lost").await;
    let () = stage.ask(&["DEL", LOG]);
    let page = stage.connect_since(&user, "other", before).await;
    assert!(!page.whole);
    // Else it would be told so again, whenever it comes back.
    assert_eq!((page.upto, page.more), (page.position, false));
    stage.time_passes(Duration::from_millis(5)).await;
    let next = stage.publish_plain(&user, "1").await;
    let page = stage.resume(&user, "other", page.position).await;
    assert_eq!((ids(&page), page.whole), (vec![next], true));
}

#[tokio::test]
async fn a_gap_in_what_is_gone_is_told_to_everyone_and_not_to_the_first_alone() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "a").await;
    stage.connect(&user, "b").await;
    let seen = stage.publish_plain(&user, "seen").await;
    stage.disconnect(&user, "a", None).await;
    stage.disconnect(&user, "b", None).await;
    stage.publish_plain(&user, "missed").await;
    let _: i64 = stage.ask(&["DEL", LOG, "cursor:{user:42}"]);
    for client in ["a", "b"] {
        assert!(!stage.connect_since(&user, client, seen).await.whole, "{client}");
    }
    let began = stage.connect(&user, "c").await;
    assert!(began.whole && stage.connect_since(&user, "c", began.position).await.whole);
}

#[tokio::test]
async fn whoever_stands_in_an_empty_log_misses_nothing_though_the_clock_has_gone_back() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let position = stage.connect(&user, "tab").await.position;
    // That the log is empty was noted before that.
    let earlier = format!("{}-0", position.ms + 60_000);
    let _: i64 = stage.ask(&["HSET", "cursor:{user:42}", "@empty", &earlier]);
    assert!(stage.connect_since(&user, "tab", position).await.whole);
}

#[tokio::test]
async fn whoever_comes_in_the_first_moment_of_a_data_set_may_come_back_to_it() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let (seconds, micros): (u64, u64) = stage.ask(&["TIME"]);
    let birth = format!("since-{}", seconds * 1000 + micros / 1000 + 300);
    let _: i64 = stage.ask(&["XGROUP", "CREATECONSUMER", "events", "switchboard", &birth]);
    let other = stage.another("b").await;
    let first = other.connect(&user, "tab").await.position;
    assert!(other.publish_plain(&user, "1").await > first);
    let () = stage.ask(&["DEL", LOG]);
    let of_none = other.connect(&self::user("43"), "tab").await.position;
    stage.time_passes(Duration::from_millis(400)).await;
    assert!(!other.connect_since(&user, "tab", first).await.whole);
    assert!(other.connect_since(&self::user("43"), "tab", of_none).await.whole, "nothing was published");
}

#[tokio::test]
async fn whose_position_is_gone_with_the_cursor_is_told_a_gap_whoever_came_before() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let () = stage.ask(&["DEL", "cursor:{user:42}"]);
    assert!(!stage.connect(&user, "other").await.whole, "it may have been here before");
    stage.publish_plain(&user, "missed").await;
    stage.disconnect(&user, "tab", None).await;
    assert!(!stage.connect(&user, "tab").await.whole);
}

#[tokio::test]
async fn what_is_made_anew_within_a_second_lapses_as_well() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    for key in [LOG, "cursor:{user:42}"] {
        for data in ["1", "2", "3"] {
            stage.publish_plain(&user, data).await;
            let () = stage.ask(&["DEL", key]);
        }
        stage.publish_plain(&user, "4").await;
        assert!(stage.ask::<i64>(&["PTTL", key]) > 0, "{key}");
    }
}

#[tokio::test]
async fn what_a_broken_cursor_refuses_is_not_in_the_log() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.publish_plain(&user, "1").await;
    let () = stage.ask(&["DEL", "cursor:{user:42}"]);
    let () = stage.ask(&["SET", "cursor:{user:42}", "x"]);
    stage.engine.publish(event(&user, "2")).await.unwrap_err();
    assert_eq!(stage.ask::<usize>(&["XLEN", LOG]), 1);
}

/// The user is there, and so is the log: what was appended is seen to be its first only then.
#[tokio::test]
async fn the_first_of_a_log_that_was_emptied_by_hand_stands_there_once() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    let empty = || stage.ask::<()>(&["XTRIM", LOG, "MAXLEN", "0"]);
    empty();
    let second = stage.publish_plain(&user, "2").await;
    assert_eq!((second > first, stage.ask::<usize>(&["XLEN", LOG])), (true, 1));
    empty();
    let () = stage.ask(&["ACL", "SETUSER", "default", "-xdel"]);
    stage.engine.publish(event(&user, "3")).await.unwrap_err();
    assert!(stage.ask::<usize>(&["XLEN", LOG]) <= 1, "it was appended twice");
    let () = stage.ask(&["ACL", "SETUSER", "default", "+xdel"]);
    let fourth = stage.publish_plain(&user, "4").await;
    assert!(fourth > second);
}

#[tokio::test]
async fn a_lease_that_begins_again_says_so() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    assert!(stage.connect(&user, "tab").await.anew);
    assert!(!stage.connect(&user, "other").await.anew);
    for key in ["user:42", "nodes:{user:42}"] {
        let () = stage.ask(&["DEL", key]);
        assert!(stage.connect(&user, "other").await.anew, "{key}");
    }
}

#[tokio::test]
async fn who_comes_after_a_sign_out_stays_though_the_clock_has_gone_back() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let order = stage.connect(&user, "tab").await.order;
    // As one of a minute before the clock went back.
    let () = stage.ask(&["HSET", "cursor:{user:42}", "@out", &format!("{} *", order + 60_000_000)]);
    let mut page = stage.connect(&user, "tab").await;
    for _ in 0..3 {
        let mode = Mode::Resume { order: page.order, told: Told::default() };
        let resumed = stage.try_connect(&user, "tab", mode, Some(page.position)).await;
        let Connected::Registered(next) = resumed else { panic!("{resumed:?}") };
        page = next;
    }
    let () = stage.ask(&["HSET", "cursor:{user:42}", "@out", "9000000000000000 *"]);
    let mode = Mode::Resume { order: page.order, told: Told::default() };
    let resumed = stage.try_connect(&user, "tab", mode, Some(page.position)).await;
    assert!(matches!(resumed, Connected::Registered(_)), "that is a time that never comes: {resumed:?}");
}

#[tokio::test]
async fn a_cursor_that_is_kept_for_less_than_a_lease_may_lapse() {
    let log_ttl = Duration::from_secs(1);
    let stage = Kind::Redis.stage_with(Options { log_ttl, ..Options::default() }).await;
    let user = user("42");
    stage.connect(&user, "tab").await;
    let () = stage.ask(&["DEL", "cursor:{user:42}"]); // as if that second was over, and the node had died
    assert!(stage.connect(&user, "other").await.whole);
}

#[tokio::test]
async fn what_a_lapsed_lease_left_behind_goes_with_the_next_heartbeat_of_another_node() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    a.connect(&user, "tab").await;
    b.connect(&user, "other").await;
    let () = a.ask(&["HSET", "nodes:{user:42}", "node-2", "1700000000000"]);
    assert!(matches!(a.heartbeat(&user, &[]).await, LeaseState::Renewed { .. }));
    assert_eq!(a.sessions(&user).await, ["tab@node-1"]);
    assert!(!a.ask::<bool>(&["HEXISTS", "nodes:{user:42}", "node-2"]));
    assert!(matches!(b.heartbeat(&user, &[]).await, LeaseState::Lost));
}

#[tokio::test]
async fn of_who_left_no_trace_nothing_is_known_to_be_whole() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let seen = stage.publish_plain(&user, "1").await;
    stage.disconnect(&user, "tab", Some(seen)).await;
    stage.publish_plain(&user, "lost").await;
    let () = stage.ask(&["DEL", LOG, "cursor:{user:42}"]);
    stage.publish_plain(&user, "2").await;
    assert!(!stage.connect_since(&user, "tab", seen).await.whole, "one event was lost");
    let () = stage.ask(&["DEL", LOG, "cursor:{user:42}", "user:42", "nodes:{user:42}"]);
    assert!(!stage.connect_since(&user, "other", seen).await.whole, "all were");
}

#[tokio::test]
async fn nobody_stands_before_what_a_log_had_that_is_gone() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    // As where its last event is of this very millisecond, or the clock has gone back since.
    let last = EventId { ms: stage.publish_plain(&user, "lost").await.ms + 3_600_000, seq: 0 };
    let () = stage.ask(&["HSET", "nodes:{user:42}", "@last", &last.to_string()]);
    let () = stage.ask(&["DEL", LOG]);
    let welcome = stage.connect(&user, "other").await;
    assert_eq!((welcome.position, welcome.whole), (last, true));
}

#[tokio::test]
async fn a_log_that_goes_when_all_have_left_is_still_known_to_have_held_an_event() {
    for by_a_survivor in [false, true] {
        let (stage, user) = (Kind::Redis.stage().await, user("42"));
        let before = stage.connect(&user, "tab").await.position;
        let newest = stage.publish_plain(&user, "1").await;
        if by_a_survivor {
            stage.survivor().await.engine.clear_up().await.unwrap();
        } else {
            stage.disconnect(&user, "tab", None).await;
        }
        let () = stage.ask(&["DEL", LOG]);
        for (since, whole) in [(before, false), (newest, true)] {
            let page = stage.connect_since(&user, "tab", since).await;
            assert_eq!(page.whole, whole, "since {since}; by a survivor: {by_a_survivor}");
        }
    }
}

#[tokio::test]
async fn a_lease_is_lost_with_any_key_that_goes_with_it() {
    for key in ["user:42", "nodes:{user:42}", "cursor:{user:42}"] {
        let (stage, user) = (Kind::Redis.stage().await, user("42"));
        stage.connect(&user, "tab").await;
        let () = stage.ask(&["DEL", key]);
        assert_eq!(stage.heartbeat(&user, &[]).await, LeaseState::Lost, "{key}");
    }
}
