//! A session's shared part, without a session.

use std::time::Duration;

use super::*;

fn handle() -> Handle {
    let handle = Handle::new("u".parse().unwrap(), "c".parse().unwrap());
    assert!(handle.caught_up(EventId::ZERO));
    handle
}

fn event(ms: u64, size: usize) -> Outgoing {
    let logged = Some(Logged { id: EventId { ms, seq: 0 }, prev: EventId { ms: ms - 1, seq: 0 } });
    Outgoing { logged, frame: Some("x".repeat(size).into()) }
}

#[test]
fn a_full_outbox_is_dropped_and_caught_up_from_the_log() {
    for (count, size) in [(5, 1), (3, 500_000)] {
        let handle = handle();
        for ms in 1..=count {
            handle.push(&event(ms, size), 4);
        }
        assert!(handle.take().is_empty());
        assert!(!handle.caught_up(EventId { ms: 2, seq: 0 }), "something newer was heard of");
        assert!(handle.caught_up(EventId { ms: count, seq: 0 }));
        handle.push(&event(count + 1, 1), 4);
        assert_eq!(handle.take().len(), 1);
    }
}

#[test]
fn what_the_log_has_lost_is_not_waited_for() {
    let handle = handle();
    let (old, lost) = (EventId { ms: 2, seq: 0 }, EventId { ms: 9, seq: 0 });
    handle.push(&event(9, 1), 4);
    handle.look();
    handle.begin_look();
    assert_eq!(handle.heard_before_look(), lost);
    assert!(!handle.caught_up(old), "it has been heard of");
    handle.confirm(lost);
    handle.went_back(old);
    assert!(handle.caught_up(old));
    assert_eq!(handle.confirmed(), Some(old));
}

#[test]
fn one_large_event_passes_an_empty_outbox() {
    let handle = handle();
    handle.push(&event(1, 2 * OUTBOX_BYTES), 4);
    assert_eq!(handle.take().len(), 1);
}

#[test]
fn transient_events_are_dropped_first() {
    let handle = handle();
    for ms in 1..=4 {
        handle.push(&event(ms, 1), 4);
    }
    handle.push(&Outgoing { logged: None, frame: Some("t".into()) }, 4);
    assert_eq!(handle.take().len(), 4, "what is logged still waits");
}

#[test]
fn who_should_be_waited_for_has_much_waiting_and_may_take_it_yet() {
    let transient = Outgoing { logged: None, frame: Some("t".into()) };
    let (deaf, slow, large, leaving) = (handle(), handle(), handle(), handle());
    assert!(!deaf.is_crowded(2 * OUTBOX_BYTES, 4), "nothing waits: there is nothing to wait for");
    for (count, crowded) in [(1, false), (2, false), (3, true), (4, true), (5, false)] {
        deaf.push(&transient, 4);
        slow.push(&event(count, 1), 4);
        leaving.push(&transient, 4);
        assert_eq!(deaf.is_crowded(1, 4), crowded, "{count}; it has lost the fifth");
        assert_eq!(slow.is_crowded(1, 4), crowded, "{count}; it is behind with the fifth");
    }
    assert_eq!(deaf.take().len(), 4);
    for _ in 0..3 {
        deaf.push(&transient, 4);
    }
    assert!(deaf.is_crowded(1, 4), "it reads again");
    large.push(&event(1, 1000), 4);
    assert!(!large.is_crowded(1000, 4) && large.is_crowded(OUTBOX_BYTES / 2, 4));
    leaving.take();
    leaving.push(&event(9, OUTBOX_BYTES), 4);
    assert!(leaving.is_crowded(1, 4));
    leaving.close(Close::SignedOut);
    assert!(!leaving.is_crowded(1, 4));
}

#[test]
fn what_is_transient_waits_for_a_look_but_not_for_who_is_slow() {
    let transient = Outgoing { logged: None, frame: Some("t".into()) };
    let (looking, slow) = (handle(), handle());
    looking.push(&transient, 4);
    looking.look();
    for ms in 1..=5 {
        slow.push(&event(ms, 1), 4);
    }
    for (handle, waiting) in [(looking, 2), (slow, 0)] {
        handle.push(&transient, 4);
        handle.push(&event(6, 1), 4);
        let waits = handle.take();
        assert!(
            waits.len() == waiting && waits.iter().all(|outgoing| outgoing.logged.is_none()),
            "{waits:?}"
        );
        handle.begin_look();
        assert!(handle.caught_up(EventId { ms: 6, seq: 0 }));
        handle.push(&transient, 4);
        assert_eq!(handle.take().len(), 1, "it keeps up again");
    }
}

#[test]
fn what_is_held_waits_for_more() {
    let handle = handle();
    let mut cx = Context::from_waker(Waker::noop());
    handle.hold([event(3, 10)].into());
    assert_eq!(handle.poll(&mut cx), Poll::Pending);
    handle.push(&event(2, 10), 4);
    assert_eq!(handle.poll(&mut cx), Poll::Ready(Signal::Send));
    assert_eq!(handle.state().bytes, 20);
    assert_eq!(handle.take().len(), 2);
    handle.push(&event(5, 10), 4);
    handle.hold([event(4, 10)].into());
    assert_eq!(handle.poll(&mut cx), Poll::Ready(Signal::Send), "more came meanwhile");
    handle.look();
    handle.hold([event(4, 10)].into());
    assert!(handle.take().is_empty(), "the log has it");
}

#[test]
fn who_drains_may_still_be_signed_out_and_is_told_each_reason_once() {
    let handle = handle();
    let mut cx = Context::from_waker(Waker::noop());
    let mut told = || match handle.poll_close(&mut cx) {
        Poll::Ready(close) => Some(close),
        Poll::Pending => None,
    };
    let drain = Close::Drain(Duration::from_secs(1));
    for (asked, wanted) in [
        (drain, Some(drain)),
        (Close::Drain(Duration::ZERO), None),
        (Close::SignedOut, Some(Close::SignedOut)),
        (Close::LeaseLost, None),
        (drain, None),
    ] {
        handle.close(asked);
        assert_eq!(told(), wanted, "asked for {asked:?}");
    }
}

#[test]
fn what_is_in_the_log_can_be_left_to_it() {
    let handle = handle();
    handle.push(&event(1, 10), 4);
    handle.push(&Outgoing { logged: None, frame: Some("t".into()) }, 4);
    handle.keep_transient();
    assert_eq!(handle.state().bytes, 1);
    let left = handle.take();
    assert!(left.len() == 1 && left[0].logged.is_none(), "{left:?}");
}

#[test]
fn an_older_connection_is_told_to_go_a_newer_one_is_not() {
    let handle = handle();
    handle.replaced(7);
    assert!(handle.state().close.is_none(), "not registered yet: nobody knows which is newer");
    handle.set_order(7);
    assert!(handle.state().close.is_none());
    handle.replaced(8);
    assert_eq!(handle.state().close, Some(Close::Replaced));
    let late = self::handle();
    late.replaced(9);
    late.set_order(8);
    assert_eq!(late.state().close, Some(Close::Replaced));
}

#[test]
fn events_that_redis_lost_before_they_were_got_are_noticed_by_the_next() {
    let handle = handle();
    let hint = |ms, prev| {
        let logged = Some(Logged { id: EventId { ms, seq: 0 }, prev: EventId { ms: prev, seq: 0 } });
        Outgoing { logged, frame: Some("x".into()) }
    };
    let id = |ms| EventId { ms, seq: 0 };
    // Who stands at Redis' clock, where the log was empty, has heard of no event.
    assert!(handle.caught_up(id(5)));
    handle.look();
    handle.push(&hint(6, 0), 4);
    assert!(!handle.told(EventId::ZERO).is_lost);
    // Two publishers' hints may cross.
    handle.push(&hint(8, 7), 4);
    handle.push(&hint(7, 6), 4);
    assert!(!handle.told(EventId::ZERO).is_lost);
    // The log ends at 6 again: 7 and 8 are gone, and 9 follows.
    handle.push(&hint(9, 6), 4);
    handle.push(&hint(10, 9), 4);
    assert_eq!(handle.told(id(7)), Told { event: id(8), is_lost: true, knows: EventId::ZERO });
    // Who has got it, and went on, has not missed that one, whatever came after it.
    assert_eq!(handle.told(id(10)), Told { event: id(8), is_lost: true, knows: id(8).next() });
    // Once that was told, ids may begin anew.
    handle.told_gap(id(10));
    handle.push(&hint(9, 0), 4);
    assert_eq!(handle.told(EventId::ZERO), Told { event: id(9), is_lost: false, knows: id(10) });
    // Who has got what was lost looks as well: those who were away must hear of it.
    handle.begin_look();
    assert!(handle.caught_up(id(12)));
    handle.read(id(12));
    handle.push(&hint(14, 6), 4);
    assert_eq!((handle.told(EventId::ZERO).event, handle.told(EventId::ZERO).is_lost), (id(12), true));
    assert!(!handle.caught_up(id(12)), "it is to look");
    // Once the engine knows, the next loss is news.
    handle.looked(id(10));
    assert!(handle.told(EventId::ZERO).is_lost, "the look had begun before");
    handle.begin_look();
    handle.looked(id(10));
    assert_eq!(handle.told(EventId::ZERO), Told { knows: id(10), ..Told::default() });
}

#[test]
fn a_session_looks_for_what_was_lost_until_it_knows_of_it() {
    let id = |ms| EventId { ms, seq: 0 };
    let handle = handle();
    handle.looked(id(5)); // it began there
    let looks = || {
        handle.look_for_lost(id(9));
        let looks = !handle.caught_up(id(12));
        handle.begin_look();
        assert!(handle.caught_up(id(12)));
        looks
    };
    assert!(looks(), "what it has read since says nothing");
    handle.told_gap(id(12));
    assert!(!looks());
    handle.looked(id(8));
    assert!(looks());
    handle.looked(id(9));
    assert!(!looks());
}

#[test]
fn what_an_older_connection_confirmed_while_this_one_waited_is_yet_to_be_saved() {
    let (older, newer) = (handle(), handle());
    let (before, since) = (EventId { ms: 1, seq: 0 }, EventId { ms: 2, seq: 0 });
    older.confirm(since);
    newer.confirm_as(&older);
    newer.begin(before);
    assert_eq!(newer.unsaved(), Some(since));
    newer.saved(since);
    assert_eq!((newer.confirmed(), newer.unsaved()), (Some(since), None));
}
