//! Replay: what `since` brings back, what is said where something is gone, and the seam to live events.

use redis::cmd;

use crate::support::client::{data, ids, numbers};
use crate::support::{Client, Node, NodeBuilder, Pair, Worker, parse_id};

async fn since(node: &Node, id: &str) -> Client {
    Client::open(node, &format!("userId=42&since={id}")).await
}

#[tokio::test]
async fn since_brings_what_came_after_it_right_after_the_welcome() {
    let pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let published = worker.count("42", 1, 5).await;
    let mut client = since(&pair.a, &published[1]).await;
    assert_eq!(client.welcome["recovered"], true, "{}", client.welcome);
    assert_eq!(client.welcome["replayed"], 3, "{}", client.welcome);
    assert_eq!(client.welcomed("position"), published[4]);
    let live = worker.event("42", "6").await;
    let events = client.events(4).await;
    assert_eq!(data(&events), numbers(3, 6));
    assert_eq!(ids(&events)[3], live);
}

#[tokio::test]
async fn since_zero_brings_all_that_is_kept() {
    let pair = Pair::start().await;
    let published = Worker::open(&pair.b).await.count("42", 1, 5).await;
    let mut client = since(&pair.a, "0").await;
    assert_eq!(client.welcome["recovered"], true, "{}", client.welcome);
    assert_eq!(client.welcome["replayed"], 5, "{}", client.welcome);
    assert_eq!(ids(&client.events(5).await), published);
}

#[tokio::test]
async fn since_the_newest_brings_nothing_and_nothing_is_missing() {
    let pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let published = worker.count("42", 1, 3).await;
    let mut client = since(&pair.a, &published[2]).await;
    assert_eq!(client.welcome["recovered"], true, "{}", client.welcome);
    assert_eq!(client.welcome["replayed"], 0, "{}", client.welcome);
    assert_eq!(client.welcomed("position"), published[2]);
    worker.event("42", "4").await;
    assert_eq!(client.event().await.data, "4");
}

#[tokio::test]
async fn without_since_a_new_client_gets_only_what_comes_from_now_on() {
    let pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let published = worker.count("42", 1, 3).await;
    let mut client = Client::as_user(&pair.a, "42", "new").await;
    assert_eq!(client.welcome["replayed"], 0, "{}", client.welcome);
    assert_eq!(client.welcomed("position"), published[2]);
    worker.event("42", "4").await;
    assert_eq!(client.event().await.data, "4");
}

#[tokio::test]
async fn the_position_of_an_empty_log_is_a_good_since() {
    let pair = Pair::start().await;
    let client = Client::as_user(&pair.a, "42", "tab-1").await;
    let position = client.welcomed("position").to_owned();
    assert_eq!(parse_id(&position).1, 0, "the clock as <ms>-0");
    client.close().await;
    let mut again = since(&pair.b, &position).await;
    assert_eq!(again.welcome["recovered"], true, "{}", again.welcome);
    assert_eq!(again.welcome["replayed"], 0, "{}", again.welcome);
    again.round_trip().await; // And no gap came before the pong.
    drop(again);
    let id = Worker::open(&pair.a).await.event("42", "1").await;
    assert!(parse_id(&id) > parse_id(&position), "{id} against the position {position}");
    let mut last = since(&pair.b, &position).await;
    assert_eq!(last.welcome["recovered"], true, "{}", last.welcome);
    assert_eq!(last.event().await.id, Some(id));
}

#[tokio::test]
async fn where_events_are_gone_there_is_one_gap_and_then_what_is_kept() {
    let mut pair = Pair::with(&[("--log-length", "8")]).await;
    let mut worker = Worker::open(&pair.b).await;
    let published = worker.count("42", 1, 20).await;
    assert_eq!(pair.db.log_ids("42").await, published[12..], "the log keeps the last eight");

    let mut client = since(&pair.a, &published[0]).await;
    assert_eq!(client.welcome["recovered"], false, "{}", client.welcome);
    assert_eq!(client.welcome["replayed"], 8, "{}", client.welcome);
    let mut gaps = 0;
    let mut received = Vec::new();
    while received.len() < 8 || gaps == 0 {
        let frame = client.frame("eight events and a gap").await;
        match frame["type"].as_str() {
            Some("gap") => {
                gaps += 1;
                assert_eq!(frame["since"], *published[0], "{frame}");
                assert_eq!(frame["position"], *published[19], "{frame}");
            }
            Some("event") => received.push(frame["id"].as_str().unwrap().to_owned()),
            _ => panic!("awaiting eight events and a gap: {frame}"),
        }
    }
    assert_eq!(received, published[12..]);
    // Told once; what comes next is the next event.
    let id = worker.event("42", "21").await;
    assert_eq!(client.event().await.id, Some(id));
    assert_eq!(gaps, 1);
}

#[tokio::test]
async fn an_event_that_someone_has_deleted_from_the_log_is_a_gap() {
    let mut pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let published = worker.count("42", 1, 5).await;
    let deleted: u64 = pair.db.run(cmd("XDEL").arg("log:{user:42}").arg(&published[2])).await;
    assert_eq!(deleted, 1);
    for (from, recovered) in
        [("0", false), (&published[1], false), (&published[2], true), (&published[3], true)]
    {
        let client = since(&pair.a, from).await;
        assert_eq!(client.welcome["recovered"], recovered, "since {from}: {}", client.welcome);
    }
    let mut client = since(&pair.a, &published[0]).await;
    let kinds = [client.frame("a gap or an event").await, client.frame("a gap or an event").await];
    assert!(kinds.iter().any(|frame| frame["type"] == "gap"), "{kinds:?}");
}

#[tokio::test]
async fn a_since_at_the_edge_of_what_is_kept_is_no_gap() {
    let pair = Pair::with(&[("--log-length", "8")]).await;
    let published = Worker::open(&pair.b).await.count("42", 1, 20).await;
    // The newest that is gone: everything after it is there.
    let mut client = since(&pair.a, &published[11]).await;
    assert_eq!(client.welcome["recovered"], true, "{}", client.welcome);
    assert_eq!(ids(&client.events(8).await), published[12..]);
    // One more is missing.
    let client = since(&pair.a, &published[10]).await;
    assert_eq!(client.welcome["recovered"], false, "{}", client.welcome);
}

#[tokio::test]
async fn a_gap_is_told_in_local_mode_as_well() {
    let node = NodeBuilder::local("solo").set("--log-length", "8").start().await;
    let published = Worker::open(&node).await.count("42", 1, 20).await;
    let complete = since(&node, &published[11]).await;
    assert_eq!(complete.welcome["recovered"], true, "{}", complete.welcome);
    assert_eq!(complete.welcome["replayed"], 8, "{}", complete.welcome);
    let mut partial = since(&node, &published[0]).await;
    assert_eq!(partial.welcome["recovered"], false, "{}", partial.welcome);
    let mut kinds = Vec::new();
    for _ in 0..9 {
        kinds.push(partial.frame("eight events and a gap").await["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(kinds.iter().filter(|kind| *kind == "gap").count(), 1, "{kinds:?}");
}

#[tokio::test]
async fn a_long_log_is_replayed_whole_and_in_order() {
    let pair = Pair::with(&[("--log-length", "1500"), ("--send-queue", "16")]).await;
    let mut worker = Worker::open(&pair.b).await;
    let published = worker.count("42", 1, 1200).await;
    let mut client = since(&pair.a, "0").await;
    // Far more than the queue holds, and new ones join behind.
    let live = worker.count("42", 1201, 1230).await;
    let events = client.events(1230).await;
    assert_eq!(client.welcome["recovered"], true, "{}", client.welcome);
    assert_eq!(ids(&events), [published, live].concat());
}

#[tokio::test]
async fn a_client_that_keeps_the_last_id_gets_every_event_exactly_once_while_it_moves() {
    let pair = Pair::with(&[("--log-length", "1000")]).await;
    let mut worker = Worker::open(&pair.a).await;
    let publishing = tokio::spawn(async move { worker.count("42", 1, 600).await });
    // Since the beginning: the first connection may be later than the first event.
    let mut last = "0".to_owned();
    let mut received = Vec::new();
    let mut round = 0;
    while received.len() < 600 {
        round += 1;
        let node = if round % 2 == 0 { &pair.a } else { &pair.b };
        let query = format!("userId=42&clientId=tab-1&since={last}");
        let mut client = Client::open(node, &query).await;
        assert_eq!(client.welcome["recovered"], true, "{}", client.welcome);
        // A different number each time; the connection breaks in the middle of the traffic.
        let some = (7 + 13 * (round % 5)).min(600 - received.len());
        let events = client.events(some).await;
        last = events.last().unwrap().id.clone().unwrap();
        received.extend(events);
    }
    assert_eq!(data(&received), numbers(1, 600));
    assert_eq!(ids(&received), publishing.await.unwrap());
}
