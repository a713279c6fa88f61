//! A reader of an ingress stream that is late.

use std::sync::Mutex;

use bytes::Bytes;

use super::super::tests::{context, fake};
use super::*;

/// A reader of `events` on a connection of its own.
async fn reader<'a>(
    context: &'a Context,
    lease: &'a mut StreamLease,
    turn: &'a mut StreamTurn,
    past: &'a mut Past,
) -> Reader<'a> {
    Reader {
        context,
        connection: context.link.dedicated("events").await.unwrap(),
        name: "events",
        stream: "events".to_owned(),
        read: Read::default(),
        lease,
        turn,
        past,
        told: false,
    }
}

/// A lease of `events` that is held.
async fn leading(context: &Arc<Context>) -> StreamLease {
    let mut lease = StreamLease::new(context, "events");
    assert!(lease.take().await.unwrap());
    lease
}

/// What comes of entries at a reader that has just begun.
async fn once(
    context: &Context,
    lease: &mut StreamLease,
    past: &mut Past,
    entries: Vec<reply::Entry>,
) -> Result<(), Stopped> {
    let mut turn = StreamTurn::default();
    reader(context, lease, &mut turn, past).await.route(entries).await
}

/// An entry for this target.
fn entry(target: &str, whom: &str) -> reply::Entry {
    let fields = [(target, whom), ("event", "e")];
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    ("1-0".to_owned(), fields.map(|(field, value)| (bytes(field), bytes(value))).to_vec())
}

#[tokio::test]
async fn nothing_goes_out_once_the_lease_is_over() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = asked.clone();
    let place = fake(move |command| {
        notes.lock().unwrap().push(command.to_owned());
        let is_lead = command.contains(scripts::LEAD.get_hash());
        Some(if is_lead { ":1" } else { "+OK" })
    });
    // A lease that is over as soon as it is had.
    let context = context(place.await, Duration::ZERO);
    let mut lease = leading(&context).await;
    let (mut turn, mut past) = (StreamTurn::default(), Past::default());
    let mut reader = reader(&context, &mut lease, &mut turn, &mut past).await;
    asked.lock().unwrap().clear();
    for (target, whom) in [("broadcast", "1"), ("user", "42")] {
        let outcome = reader.route(vec![entry(target, whom)]).await;
        assert!(matches!(outcome, Err(Stopped::NotHeld(NotHeld::Over))), "{outcome:?}");
    }
    assert_eq!(*asked.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn what_was_broadcast_is_not_broadcast_again_where_that_could_not_be_noted() {
    let sent = Arc::new(Mutex::new(0));
    let count = sent.clone();
    let place = fake(move |command| match command.split(' ').next() {
        _ if command.contains(scripts::LEAD.get_hash()) => Some(":1"),
        Some("ZRANGE") => Some("*2\r\n$5\r\nother\r\n$13\r\n9999999999999"),
        Some("XADD") => {
            *count.lock().unwrap() += 1;
            Some("$3\r\n1-0")
        }
        _ if command.contains(scripts::FINISH.get_hash()) => Some("-OOM, so no"),
        _ => Some("+OK"),
    });
    let context = context(place.await, Duration::from_secs(3600));
    let mut lease = leading(&context).await;
    let mut past = Past::default();
    for _ in 0..2 {
        once(&context, &mut lease, &mut past, vec![entry("broadcast", "1")]).await.unwrap_err();
    }
    assert_eq!(*sent.lock().unwrap(), 1);
}

/// How many events were counted as published by the ingress stream.
fn counted(context: &Context) -> u64 {
    let text = context.metrics.text().unwrap();
    let series = "switchboard_events_published_total{via=\"ingress\"} ";
    text.lines().find_map(|line| line.strip_prefix(series)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_is_tried_again_counts_once_and_what_another_process_published_there() {
    const FIRST: &str = "$8\r\n\n5-0 4-0";
    const BY_ITS_KEY: &str = "$6\r\n\n5-0 -";
    const BY_ITS_ENTRY: &str = "$4\r\n\n- -";
    const REFUSED: &str = "$13\r\n\n! OOM, so no";
    for (answers, wanted) in [
        ([FIRST, BY_ITS_ENTRY, BY_ITS_ENTRY], [1, 1, 1]),
        ([BY_ITS_KEY, BY_ITS_KEY, BY_ITS_KEY], [1, 1, 1]),
        ([BY_ITS_ENTRY, BY_ITS_ENTRY, BY_ITS_ENTRY], [0, 0, 0]),
        // As where it was appended, and then something was refused.
        ([REFUSED, BY_ITS_ENTRY, BY_ITS_ENTRY], [0, 1, 1]),
    ] {
        let mut left = answers.into_iter();
        let place = fake(move |command| match command.split(' ').next() {
            _ if command.contains(scripts::LEAD.get_hash()) => Some(":1"),
            _ if command.contains(scripts::PUBLISH.get_hash()) => left.next(),
            _ if command.contains(scripts::FINISH.get_hash()) => Some("-OOM, so no"),
            _ => Some("+OK"),
        });
        let context = context(place.await, Duration::from_secs(3600));
        let mut lease = leading(&context).await;
        let mut past = Past::default();
        for (at, wanted) in wanted.into_iter().enumerate() {
            once(&context, &mut lease, &mut past, vec![entry("user", "42")]).await.unwrap_err();
            assert_eq!(counted(&context), wanted, "try {at} of {answers:?}");
        }
    }
}

#[tokio::test]
async fn what_was_put_aside_is_not_put_aside_again_where_it_cannot_be_let_go_of() {
    let added = Arc::new(Mutex::new(0));
    let count = added.clone();
    let place = fake(move |command| match command.split(' ').next() {
        _ if command.contains(scripts::LEAD.get_hash()) => Some(":1"),
        Some("XADD") => {
            let mut count = count.lock().unwrap();
            *count += 1;
            Some(if *count == 2 { "-OOM, so no" } else { "$3\r\n1-0" })
        }
        _ if command.contains(scripts::FINISH.get_hash()) => Some("-OOM, so no"),
        _ => Some("+OK"),
    });
    let context = context(place.await, Duration::from_secs(3600));
    let mut lease = leading(&context).await;
    let mut past = Past::default();
    let bad = entry("user", "4 2");
    let entries = [bad.clone(), ("2-0".to_owned(), bad.1)];
    for (asked, put_aside) in [(2, 1), (3, 2), (3, 2)] {
        let stopped = once(&context, &mut lease, &mut past, entries.to_vec()).await.unwrap_err();
        assert!(matches!(stopped, Stopped::Unavailable(_)), "they are put aside by then: {stopped}");
        assert_eq!((*added.lock().unwrap(), context.metrics.dead.get()), (asked, put_aside));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_was_over_for_a_moment_begins_with_what_is_pending() {
    let mut takes = 0;
    let place = fake(move |command| match command.split(' ').next() {
        _ if command.contains(scripts::LEAD.get_hash()) => Some(":1"),
        _ if command.contains(scripts::TAKE.get_hash()) => {
            takes += 1;
            const NONE: &str = "*2\r\n$3\r\n0-0\r\n*0";
            const ONE: &str = "*2\r\n$3\r\n0-0\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*4\r\n$4\r\nuser\r\n$2\r\n42\r\n$5\r\nevent\r\n$1\r\ne";
            [NONE, ONE].get(takes - 1).copied() // else the connection ends
        }
        _ if command.contains(scripts::PUBLISH.get_hash()) => Some("$8\r\n\n5-0 4-0"),
        _ if command.contains(scripts::FINISH.get_hash()) => {
            tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(400)));
            Some(":1")
        }
        _ => Some(":1"),
    });
    let context = context(place.await, Duration::from_millis(300));
    context.link.trust(tokio::time::Instant::now() + Duration::from_secs(3600));
    let mut lease = leading(&context).await;
    let (mut turn, mut past) = (StreamTurn::default(), Past::default());
    let (_kept, wanted) = watch::channel(true);
    let outcome = reader(&context, &mut lease, &mut turn, &mut past).await.run(&wanted).await;
    assert!(matches!(outcome, Err(Stopped::NotHeld(NotHeld::Over))), "{outcome:?}");
}
