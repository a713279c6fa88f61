//! From where a session reads: `since`, what it has confirmed, or the newest event.

use std::ops::Range;

use switchboard::engine::Connect;
use switchboard::id::{EventId, UserId};

use crate::stage::{Kind, Options, RESUME, Stage, event, ids, user};

crate::on_both_engines!(
    a_first_connection_begins_at_the_newest_event,
    an_empty_log_has_a_position_before_the_next_event,
    since_asks_for_what_came_after_it,
    since_0_asks_for_all_that_is_kept,
    since_ahead_of_the_newest_event_is_a_gap,
    since_ahead_of_the_newest_event_is_not_kept_as_a_position,
    who_comes_back_gets_what_it_has_not_confirmed,
    who_confirmed_nothing_gets_all_since_its_first_welcome,
    who_first_came_with_since_0_gets_all_since_its_first_welcome,
    since_moves_the_position_on,
    a_confirmed_position_never_goes_back,
    since_wins_over_the_confirmed_position,
    a_heartbeat_keeps_what_was_confirmed,
    a_heartbeat_takes_no_position_back,
    what_an_older_connection_confirmed_counts,
    what_an_older_connection_confirmed_is_kept_though_more_is_asked_for,
    who_resumes_moves_no_position_that_is_known,
    each_client_has_its_own_position,
    many_others_do_not_push_a_position_out,
    whose_position_may_have_been_dropped_is_told_a_gap,
);

async fn a_first_connection_begins_at_the_newest_event(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.publish_plain(&user, "1").await;
    let newest = stage.publish_plain(&user, "2").await;
    let welcome = stage.connect(&user, "tab").await;
    assert_eq!((welcome.position, welcome.from, welcome.upto), (newest, newest, newest));
    assert_eq!((welcome.whole, welcome.more, welcome.replayed), (true, false, 0));
    assert_eq!(welcome.events, []);
}

async fn an_empty_log_has_a_position_before_the_next_event(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let welcome = stage.connect(&user, "tab").await;
    assert!(welcome.whole && welcome.position > EventId::ZERO && !welcome.more);
    // The very next event may be of the same millisecond.
    let id = stage.publish_plain(&user, "1").await;
    assert!(id > welcome.position);
    let page = stage.resume(&user, "tab", welcome.position).await;
    assert_eq!((ids(&page), page.whole, page.replayed), (vec![id], true, 1));
}

async fn since_asks_for_what_came_after_it(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let first = stage.publish_plain(&user, "1").await;
    let second = stage.publish_plain(&user, "2").await;
    let third = stage.publish_plain(&user, "3").await;
    let welcome = stage.connect_since(&user, "tab", first).await;
    assert_eq!((welcome.position, welcome.from, welcome.upto), (third, first, third));
    assert_eq!((ids(&welcome), welcome.replayed, welcome.whole), (vec![second, third], 2, true));
    // Between two events is as good as an event.
    let between = EventId { ms: second.ms, seq: second.seq + 1 };
    let welcome = stage.connect_since(&user, "other", between).await;
    assert!(welcome.whole && ids(&welcome).iter().all(|id| *id > second));
    let up_to_date = stage.connect_since(&user, "third", third).await;
    assert_eq!((ids(&up_to_date), up_to_date.replayed, up_to_date.whole), (vec![], 0, true));
}

async fn since_0_asks_for_all_that_is_kept(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let empty = stage.connect_since(&user, "tab", EventId::ZERO).await;
    assert_eq!((ids(&empty), empty.whole, empty.from), (vec![], true, EventId::ZERO));
    let first = stage.publish_plain(&user, "1").await;
    let second = stage.publish_plain(&user, "2").await;
    let all = stage.connect_since(&user, "other", EventId::ZERO).await;
    assert_eq!((ids(&all), all.whole, all.position), (vec![first, second], true, second));
}

async fn since_ahead_of_the_newest_event_is_a_gap(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let ahead = EventId { ms: 99_999_999_999_999, seq: 0 };
    let welcome = stage.connect_since(&user, "tab", ahead).await;
    assert_eq!((welcome.whole, ids(&welcome)), (false, vec![]));
    stage.publish_plain(&user, "1").await;
    assert!(!stage.connect_since(&user, "other", ahead).await.whole);
}

async fn since_ahead_of_the_newest_event_is_not_kept_as_a_position(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let first = stage.publish_plain(&user, "1").await;
    let ahead = EventId { ms: first.ms + 3_600_000, seq: 0 };
    assert!(!stage.connect_since(&user, "tab", ahead).await.whole);
    let second = stage.publish_plain(&user, "2").await;
    let page = stage.connect(&user, "tab").await;
    assert_eq!((ids(&page), page.whole), (vec![second], true));
}

async fn who_comes_back_gets_what_it_has_not_confirmed(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.publish_plain(&user, "1").await;
    stage.connect(&user, "tab").await;
    let second = stage.publish_plain(&user, "2").await;
    let third = stage.publish_plain(&user, "3").await;
    stage.disconnect(&user, "tab", Some(second)).await;
    let fourth = stage.publish_plain(&user, "4").await;
    let back = stage.connect(&user, "tab").await;
    assert_eq!((back.from, ids(&back), back.whole), (second, vec![third, fourth], true));
}

async fn who_confirmed_nothing_gets_all_since_its_first_welcome(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let welcome = stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    stage.disconnect(&user, "tab", None).await;
    let second = stage.publish_plain(&user, "2").await;
    for _ in 0..2 {
        let back = stage.connect(&user, "tab").await;
        assert_eq!((back.from, ids(&back), back.whole), (welcome.position, vec![first, second], true));
        stage.disconnect(&user, "tab", None).await;
    }
}

async fn who_first_came_with_since_0_gets_all_since_its_first_welcome(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let before = stage.publish_plain(&user, "1").await;
    let welcome = stage.connect_since(&user, "tab", EventId::ZERO).await;
    assert_eq!((welcome.position, ids(&welcome)), (before, vec![before]));
    stage.disconnect(&user, "tab", None).await;
    let missed = stage.publish_plain(&user, "2").await;
    let back = stage.connect(&user, "tab").await;
    assert!(ids(&back).ends_with(&[missed]), "what came after its first welcome is missing: {back:?}");
}

async fn since_moves_the_position_on(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    let second = stage.publish_plain(&user, "2").await;
    stage.disconnect(&user, "tab", None).await;
    // By its own word it has the first.
    stage.connect_since(&user, "tab", first).await;
    stage.disconnect(&user, "tab", None).await;
    let back = stage.connect(&user, "tab").await;
    assert_eq!((back.from, ids(&back)), (first, vec![second]));
}

async fn a_confirmed_position_never_goes_back(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    let second = stage.publish_plain(&user, "2").await;
    stage.disconnect(&user, "tab", Some(second)).await;
    stage.connect(&user, "tab").await;
    stage.disconnect(&user, "tab", Some(first)).await;
    assert_eq!(stage.connect(&user, "tab").await.from, second);
    // Nor by a client that asks for what it has confirmed already.
    stage.disconnect(&user, "tab", None).await;
    assert_eq!(ids(&stage.connect_since(&user, "tab", first).await), [second]);
    stage.disconnect(&user, "tab", None).await;
    assert_eq!(stage.connect(&user, "tab").await.from, second);
}

async fn since_wins_over_the_confirmed_position(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let first = stage.publish_plain(&user, "1").await;
    let second = stage.publish_plain(&user, "2").await;
    stage.connect(&user, "tab").await;
    stage.disconnect(&user, "tab", Some(second)).await;
    let back = stage.connect_since(&user, "tab", first).await;
    assert_eq!((back.from, ids(&back)), (first, vec![second]));
}

async fn a_heartbeat_keeps_what_was_confirmed(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    let second = stage.publish_plain(&user, "2").await;
    stage.heartbeat(&user, &[("tab", first)]).await;
    // As after a crash: the end of the session says nothing.
    stage.disconnect(&user, "tab", None).await;
    let back = stage.connect(&user, "tab").await;
    assert_eq!((back.from, ids(&back)), (first, vec![second]));
}

async fn a_heartbeat_takes_no_position_back(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    let second = stage.publish_plain(&user, "2").await;
    stage.disconnect(&user, "tab", Some(second)).await;
    // It asks for more than it has to, and confirms less than before.
    stage.connect_since(&user, "tab", EventId::ZERO).await;
    stage.heartbeat(&user, &[("tab", first), ("other", second)]).await;
    stage.disconnect(&user, "tab", None).await;
    assert_eq!(stage.connect(&user, "tab").await.from, second);
    assert_eq!(stage.connect(&user, "other").await.from, second);
}

async fn what_an_older_connection_confirmed_counts(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let welcome = stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    let second = stage.publish_plain(&user, "2").await;
    let newer = stage.connect_after(&user, "tab", None, first).await;
    assert_eq!((newer.from, ids(&newer), newer.replayed), (first, vec![second], 1));
    // It is kept; and what is known is not taken back.
    for confirmed in [None, Some(welcome.position)] {
        stage.disconnect(&user, "tab", None).await;
        let back = match confirmed {
            Some(older) => stage.connect_after(&user, "tab", None, older).await,
            None => stage.connect(&user, "tab").await,
        };
        assert_eq!((back.from, ids(&back)), (first, vec![second]));
    }
    // Of a client without a position, too: Redis may have lost it.
    assert_eq!(stage.connect_after(&user, "other", None, first).await.from, first);
    assert_eq!(stage.connect(&user, "other").await.from, first);
}

async fn what_an_older_connection_confirmed_is_kept_though_more_is_asked_for(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    let second = stage.publish_plain(&user, "2").await;
    let third = stage.publish_plain(&user, "3").await;
    let newer = stage.connect_after(&user, "tab", Some(first), second).await;
    assert_eq!((newer.from, ids(&newer)), (first, vec![second, third]));
    assert_eq!(stage.connect(&user, "tab").await.from, second);
    assert_eq!(stage.connect_after(&user, "tab", Some(third), first).await.from, third);
    assert_eq!(stage.connect(&user, "tab").await.from, third);
}

async fn who_resumes_moves_no_position_that_is_known(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let welcome = stage.connect(&user, "tab").await;
    let first = stage.publish_plain(&user, "1").await;
    for client in ["tab", "other"] {
        let resumed = Connect {
            user: user.clone(),
            client: client.parse().unwrap(),
            mode: RESUME,
            since: Some(first),
            confirmed: Some(first),
        };
        stage.engine.connect(resumed).await.unwrap();
    }
    // That is the heartbeat's. Only what is not known is taken.
    assert_eq!(stage.connect(&user, "tab").await.from, welcome.position);
    assert_eq!(stage.connect(&user, "other").await.from, first);
}

async fn each_client_has_its_own_position(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    stage.connect(&user, "a").await;
    let first = stage.publish(event(&user, "1")).await.id.unwrap();
    stage.connect(&user, "b").await;
    let second = stage.publish_plain(&user, "2").await;
    stage.disconnect(&user, "a", None).await;
    stage.disconnect(&user, "b", Some(second)).await;
    assert_eq!(ids(&stage.connect(&user, "a").await), [first, second]);
    assert_eq!(ids(&stage.connect(&user, "b").await), []);
}

/// Clients that come once and never again.
async fn passers_by(stage: &Stage, user: &UserId, numbers: Range<usize>) {
    for number in numbers {
        let id = format!("other-{number}");
        stage.connect(user, &id).await;
        stage.disconnect(user, &id, None).await;
    }
}

async fn many_others_do_not_push_a_position_out(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let _always_there = stage.connect(&user, "phone").await;
    stage.connect(&user, "tab").await;
    stage.disconnect(&user, "tab", None).await;
    let missed = stage.publish_plain(&user, "1").await;
    passers_by(&stage, &user, 0..500).await;
    let welcome = stage.connect(&user, "tab").await;
    assert_eq!((ids(&welcome), welcome.whole), (vec![missed], true));
}

async fn whose_position_may_have_been_dropped_is_told_a_gap(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let _always_there = stage.connect(&user, "phone").await;
    stage.connect(&user, "tab").await;
    stage.disconnect(&user, "tab", None).await;
    let missed = stage.publish_plain(&user, "1").await;
    passers_by(&stage, &user, 0..600).await;
    let newest = stage.publish_plain(&user, "2").await;
    passers_by(&stage, &user, 600..1100).await;
    let welcome = stage.connect(&user, "tab").await;
    assert!(!welcome.whole && welcome.from == newest, "what it has missed is not known: {welcome:?}");
    stage.disconnect(&user, "tab", None).await;
    assert!(stage.connect(&user, "tab").await.whole, "it has been told");
    for kept in ["other-600", "other-1099"] {
        assert!(stage.connect(&user, kept).await.whole, "newer positions are kept");
    }
    assert!(stage.connect_since(&user, "tab-2", missed).await.whole, "who says where it stands is not asked");
    assert!(!stage.connect(&user, "tab-3").await.whole, "it may have been one of them");
    // Nothing is kept for longer than a log, so who comes later than that has no position that was dropped.
    match kind {
        Kind::Memory => stage.time_passes(Options::default().log_ttl).await,
        Kind::Redis => assert_eq!(stage.ask::<i64>(&["HSET", "cursor:{user:42}", "@dropped", "1"]), 0),
    }
    assert!(stage.connect(&user, "tab-4").await.whole, "that was long ago");
}

/// Of a user who came while `presence` took nothing, only what it is owed is noted.
#[tokio::test]
async fn positions_are_bounded_though_presence_has_been_told_nothing() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let () = stage.ask(&["SET", "presence", "x"]);
    let _always_there = stage.connect(&user, "phone").await;
    passers_by(&stage, &user, 0..1100).await;
    let fields: usize = stage.ask(&["HLEN", "cursor:{user:42}"]);
    assert!(fields < 1024, "{fields}");
}

/// As if Redis' clock had been so far ahead while clients came, and had gone back since.
#[tokio::test]
async fn ids_come_after_the_positions_handed_out_though_the_clock_goes_back() {
    let (stage, user) = (Kind::Redis.stage().await, user("42"));
    let first = stage.connect(&user, "tab").await.position;
    let noted = |field: &str| -> Option<String> { stage.ask(&["HGET", "cursor:{user:42}", field]) };
    let plant = |field: &str, id: EventId| -> usize {
        stage.ask(&["HSET", "cursor:{user:42}", field, &id.to_string()])
    };
    assert_eq!((noted("@empty"), noted("@clock")), (Some(first.to_string()), None));
    let second = stage.connect(&user, "another").await.position;
    assert_eq!((noted("@empty"), noted("@clock")), (Some(first.to_string()), Some(second.to_string())));

    let ahead = EventId { ms: second.ms + 60_000, seq: 0 };
    plant("@clock", ahead);
    stage.connect(&user, "late").await;
    assert_eq!(noted("@clock"), Some(ahead.to_string()), "who comes after the clock went back");
    let id = stage.publish_plain(&user, "1").await;
    assert_eq!(id, EventId { seq: 1, ..ahead });
    assert_eq!((noted("@start"), noted("@empty"), noted("@clock")), (Some(first.to_string()), None, None));
    let next = stage.publish_plain(&user, "2").await;
    let page = stage.resume(&user, "tab", ahead).await;
    assert_eq!((ids(&page), page.whole), (vec![id, next], true));

    // The log lapses, and what is known is its newest event; or nobody knows since when a log has been empty.
    stage.ask::<usize>(&["DEL", "log:{user:42}"]);
    assert!(stage.publish_plain(&user, "3").await > next);
    let never = EventId { ms: 1 << 52, seq: 0 };
    stage.ask::<usize>(&["DEL", "log:{user:42}", "nodes:{user:42}", "cursor:{user:42}"]);
    plant("@empty", never);
    assert!(stage.publish_plain(&user, "4").await < ahead);
}
