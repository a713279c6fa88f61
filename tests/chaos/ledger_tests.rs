//! The checker, checked: made-up records with one fault each, which it must find, and one without, which it must
//! pass.

use crate::ledger::{Fate, Gaps, Kind, Ledger, REMEMBERED, Record, Seen, Sent, To, Verdict};

fn sent(user: usize, ms: u64) -> Sent {
    Sent {
        user,
        to: To::All,
        collapse: false,
        transient: false,
        lane: 0,
        once: true,
        keyed: true,
        fate: Fate::Acknowledged((ms, 0)),
        answered_ms: Some(ms),
    }
}

/// Events 1 to 4 for user 0, with ids 10-0 to 40-0.
fn ledger() -> Ledger {
    Ledger {
        events: (1..=4).map(|number| (number, sent(0, number * 10))).collect(),
        first: 1,
        ..Ledger::default()
    }
}

fn welcome(since: Option<u64>) -> Seen {
    Seen::Welcome { since: since.map(|ms| (ms, 0)) }
}

fn event(number: u64) -> Seen {
    Seen::Event { id: Some((number * 10, 0)), number, at_ms: number * 10 + 5 }
}

fn gap(since: u64, position: u64) -> Seen {
    Seen::Gap { since: (since, 0), position: (position, 0), at_ms: 1_000 }
}

fn record(kind: Kind, seen: Vec<Seen>) -> Record {
    Record { session: (0, 0), kind, seen, last: (0, 0) }
}

fn check(kind: Kind, seen: Vec<Seen>) -> Verdict {
    ledger().check(&[record(kind, seen)], &Gaps::None)
}

#[test]
fn a_whole_record_passes() {
    let verdict = check(Kind::Since, vec![welcome(None), event(1), event(2), event(3), event(4)]);
    assert_eq!(verdict.findings(), [""; 0]);
    assert_eq!((verdict.sent, verdict.delivered, verdict.longest_wait_ms), (4, 4, 5));
}

#[test]
fn a_lost_event_is_found() {
    let verdict = check(Kind::Since, vec![welcome(None), event(1), event(3), event(4)]);
    assert_eq!(verdict.lost.len(), 1, "{verdict:?}");
    assert!(verdict.findings()[0].starts_with("lost: session 0/0: 2 "));
}

#[test]
fn an_event_that_nobody_saw_is_lost_if_it_was_answered() {
    let mut ledger = ledger();
    let seen = vec![welcome(None), event(1), event(2), event(3)];
    ledger.events.get_mut(&4).unwrap().fate = Fate::Added((40, 0));
    assert_eq!(ledger.check(&[record(Kind::Since, seen.clone())], &Gaps::None).lost.len(), 1);
    ledger.events.get_mut(&4).unwrap().fate = Fate::Unknown;
    assert_eq!(ledger.check(&[record(Kind::Since, seen.clone())], &Gaps::None).findings(), [""; 0]);
    // Published after all, as another session shows: then it is owed to this one too.
    let other = Record { session: (0, 1), ..record(Kind::Since, vec![welcome(None), event(4)]) };
    let verdict = ledger.check(&[record(Kind::Since, seen), other], &Gaps::None);
    assert!(verdict.lost.iter().any(|lost| lost.starts_with("session 0/0: 4 ")), "{verdict:?}");
}

#[test]
fn a_doubled_event_is_found() {
    let twice = vec![welcome(None), event(1), event(2), event(2), event(3), event(4)];
    assert_eq!(check(Kind::Stable, twice).doubled.len(), 1);
    let again = vec![welcome(None), event(1), event(2), welcome(Some(20)), event(2), event(3), event(4)];
    assert_eq!(check(Kind::Since, again.clone()).doubled.len(), 1, "a client that gives since sees it once");
    let verdict = check(Kind::Stable, again);
    assert_eq!((verdict.findings().len(), verdict.again), (0, 1), "one with a stable id at least once");
}

#[test]
fn an_event_that_was_published_twice_is_found() {
    let mut seen = vec![welcome(None), event(1), event(2), event(3), event(4)];
    seen.push(Seen::Event { id: Some((50, 0)), number: 4, at_ms: 51 });
    assert_eq!(check(Kind::Since, seen).doubled.len(), 1);
}

#[test]
fn a_disordered_event_is_found() {
    let verdict = check(Kind::Since, vec![welcome(None), event(1), event(3), event(2), event(4)]);
    assert_eq!(verdict.disordered.len(), 1, "{verdict:?}");
}

#[test]
fn a_sender_whose_order_was_not_kept_is_found() {
    let mut ledger = ledger();
    ledger.events.get_mut(&2).unwrap().fate = Fate::Acknowledged((35, 0));
    let seen = vec![
        welcome(None),
        event(1),
        event(3),
        Seen::Event { id: Some((35, 0)), number: 2, at_ms: 40 },
        event(4),
    ];
    let verdict = ledger.check(&[record(Kind::Since, seen.clone())], &Gaps::None);
    assert_eq!(verdict.disordered.len(), 1, "{verdict:?}");
    ledger.events.get_mut(&2).unwrap().once = false;
    assert_eq!(ledger.check(&[record(Kind::Since, seen)], &Gaps::None).findings(), [""; 0]);
}

#[test]
fn a_false_gap_is_found() {
    let seen = vec![welcome(None), event(1), event(2), welcome(Some(20)), gap(20, 20), event(3), event(4)];
    assert_eq!(check(Kind::Since, seen.clone()).false_gaps.len(), 1);
    let of_another = ledger().check(&[record(Kind::Since, seen)], &Gaps::Of(vec![1]));
    assert_eq!(of_another.false_gaps.len(), 1);
}

#[test]
fn a_missing_gap_is_found_and_one_that_was_told_excuses_what_it_covers() {
    let without = vec![welcome(None), event(1), welcome(Some(10)), event(3), event(4)];
    let verdict = ledger().check(&[record(Kind::Since, without)], &Gaps::All);
    assert_eq!(verdict.lost.len(), 1, "{verdict:?}");
    let told = vec![welcome(None), event(1), welcome(Some(10)), gap(10, 20), event(3), event(4)];
    let verdict = ledger().check(&[record(Kind::Since, told)], &Gaps::All);
    assert_eq!((verdict.findings().len(), verdict.gaps), (0, 1), "{verdict:?}");
    let too_small = vec![welcome(None), event(1), welcome(Some(10)), gap(10, 20), event(4)];
    assert_eq!(ledger().check(&[record(Kind::Since, too_small)], &Gaps::All).lost.len(), 1);
}

#[test]
fn what_is_for_others_is_not_owed_and_may_not_come() {
    let mut ledger = ledger();
    ledger.events.get_mut(&2).unwrap().to = To::Only(1);
    ledger.events.get_mut(&3).unwrap().to = To::Except(0);
    let right = record(Kind::Since, vec![welcome(None), event(1), event(4)]);
    assert_eq!(ledger.check(&[right], &Gaps::None).findings(), [""; 0]);
    let wrong = record(Kind::Since, vec![welcome(None), event(1), event(2), event(4)]);
    assert_eq!(ledger.check(&[wrong], &Gaps::None).strange.len(), 1);
}

#[test]
fn of_a_collapse_key_the_newest_is_owed() {
    let mut ledger = ledger();
    for number in [2, 3] {
        ledger.events.get_mut(&number).unwrap().collapse = true;
    }
    let newest = record(Kind::Since, vec![welcome(None), event(1), event(3), event(4)]);
    assert_eq!(ledger.check(&[newest], &Gaps::None).findings(), [""; 0]);
    let oldest = record(Kind::Since, vec![welcome(None), event(1), event(2), event(4)]);
    assert_eq!(ledger.check(&[oldest], &Gaps::None).lost.len(), 1);
}

#[test]
fn two_tabs_of_one_id_see_everything_between_them() {
    let tabs = [
        record(Kind::Stable, vec![welcome(None), event(1), welcome(None), event(4)]),
        record(Kind::Stable, vec![welcome(None), event(2), event(3)]),
    ];
    assert_eq!(ledger().check(&tabs, &Gaps::None).findings(), [""; 0]);
    assert_eq!(ledger().check(&tabs[..1], &Gaps::None).lost.len(), 2);
}

#[test]
fn older_events_may_be_seen_again_and_are_owed_no_more() {
    let mut ledger = ledger();
    ledger.begin(3, &[record(Kind::Stable, vec![welcome(None), event(1), event(2)])]);
    let again = vec![welcome(None), event(2), event(3), event(4)];
    assert_eq!(ledger.check(&[record(Kind::Stable, again)], &Gaps::None).findings(), [""; 0]);
    let without = vec![welcome(None), event(3), event(4)];
    assert_eq!(ledger.check(&[record(Kind::Stable, without)], &Gaps::None).findings(), [""; 0]);
}

#[test]
fn what_is_phases_old_may_be_seen_again_but_not_for_ever() {
    let mut ledger = ledger();
    let again = [record(Kind::Stable, vec![welcome(None), event(1)])];
    let mut phases = 0;
    while ledger.check(&again, &Gaps::None).strange.is_empty() {
        ledger.begin(5 + phases, &[]);
        phases += 1;
    }
    assert_eq!(phases as usize, REMEMBERED + 1);
}
