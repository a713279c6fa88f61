//! A peer that stops reading: it costs the others nothing, and itself no event.

use std::time::Duration;

use serde_json::Value;

use crate::support::client::{data, numbers};
use crate::support::raw::{self, FIN, PING, PONG, TEXT};
use crate::support::{Client, NodeBuilder, Pair, RawClient, Worker};

/// Events of about 4 KiB each, 8 MiB together: more than the queue of 16 and the kernel's buffers take.
const EVENTS: usize = 2000;
const PADDING: usize = 4096;

fn padded(number: usize) -> String {
    format!(r#"[{number},"{}"]"#, "x".repeat(PADDING))
}

/// Reads the events of a client that has not read since its welcome, and gives their numbers.
async fn read_numbers(client: &mut RawClient) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < EVENTS {
        let frame = client.json("an event").await;
        assert_eq!(frame["type"], "event", "after {} events: {frame}", numbers.len());
        numbers.push(frame["data"][0].as_u64().expect("a number"));
    }
    numbers
}

#[tokio::test]
async fn a_reader_that_pauses_gets_everything_later_and_the_others_get_it_at_once() {
    let settings = [("--send-queue", "16"), ("--log-length", "4000"), ("--pong-timeout", "10m")];
    let pair = Pair::with(&settings).await;
    let (mut slow, _) = RawClient::open(&pair.a, "userId=42&clientId=slow").await;
    let mut quick = Client::as_user(&pair.a, "42", "quick").await;
    let mut worker = Worker::open(&pair.b).await;
    for number in 0..EVENTS {
        worker.event("42", &padded(number)).await;
    }
    // The quick one is served while the slow one has not read a byte.
    for number in 0..EVENTS {
        assert!(quick.event().await.data == padded(number), "event {number} at the quick reader");
    }
    let all: Vec<u64> = (0..EVENTS as u64).collect();
    assert_eq!(read_numbers(&mut slow).await, all);
    worker.event("42", "\"last\"").await;
    assert_eq!(slow.json("the last event").await["data"], "last");
}

#[tokio::test]
async fn a_reader_that_pauses_for_longer_than_the_log_is_told_of_the_gap() {
    let settings = [("--send-queue", "16"), ("--log-length", "50"), ("--pong-timeout", "10m")];
    let pair = Pair::with(&settings).await;
    let (mut slow, _) = RawClient::open(&pair.a, "userId=42&clientId=slow").await;
    let mut worker = Worker::open(&pair.b).await;
    for number in 0..EVENTS {
        worker.event("42", &padded(number)).await;
    }
    // What is not said to be missing has come: between two events that do not follow one another is a gap.
    let mut next = 0;
    let mut told = false;
    let mut gaps = 0;
    while next < EVENTS as u64 {
        let frame = slow.json("events and gaps up to the last one").await;
        match frame["type"].as_str() {
            Some("gap") => {
                told = true;
                gaps += 1;
            }
            Some("event") => {
                let number = frame["data"][0].as_u64().expect("a number");
                assert!(number >= next, "{number} came after {next} was due: twice or out of order");
                assert!(number == next || told, "{next} to {number} are missing and nobody said so");
                next = number + 1;
                told = false;
            }
            _ => panic!("awaiting events and gaps: {frame}"),
        }
    }
    assert!(gaps > 0, "2,000 events of 4 KiB cannot all have waited in a log of 50 and a queue of 16");
}

#[tokio::test]
async fn a_reader_that_never_reads_again_is_closed_and_forgotten() {
    let settings = [("--send-queue", "16"), ("--ping-interval", "300ms"), ("--pong-timeout", "1500ms")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let (_stuck, _) = RawClient::open(&node, "userId=42&clientId=stuck").await;
    let mut worker = Worker::open(&node).await;
    for number in 0..EVENTS {
        worker.event("42", &padded(number)).await;
    }
    // Its socket cannot even take the bye: the session has to end all the same.
    worker.nobody_left("42").await;
    let mut good = Client::as_user(&node, "43", "tab-1").await;
    worker.count("43", 1, 3).await;
    assert_eq!(data(&good.events(3).await), numbers(1, 3));
}

#[tokio::test]
async fn a_reader_that_is_slow_is_not_silent() {
    let settings = [("--ping-interval", "1s"), ("--pong-timeout", "1s")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let mut worker = Worker::open(&node).await;
    let pad = "x".repeat(900 * 1024);
    for number in 0..2 {
        worker.event("42", &format!(r#"[{number},"{pad}"]"#)).await;
    }
    // Some 320 KiB a second: its pong waits behind a large event for longer than it may take.
    let (slow, _) = RawClient::open_narrow(&node, "userId=42&clientId=slow&since=0").await;
    read_slowly(slow, Duration::from_millis(12), 2).await;
}

#[tokio::test]
async fn a_reader_that_is_slower_than_the_systems_buffer_is_not_silent() {
    let settings = [("--ping-interval", "1s"), ("--pong-timeout", "3s")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    Worker::open(&node).await.event("42", &format!(r#"[0,"{}"]"#, "x".repeat(400 * 1024))).await;
    // Some 32 KiB a second: the ping is written long before the quarter of a megabyte ahead of it has arrived.
    let (slow, _) = RawClient::open_with_buffer(&node, "userId=42&clientId=slow&since=0", 16 * 1024).await;
    read_slowly(slow, Duration::from_millis(125), 1).await;
}

/// Reads events of a line, and answers pings at once.
async fn read_slowly(slow: RawClient, pause: Duration, events: usize) {
    let mut slow = slow.pausing(pause);
    let (mut next, mut answered) = (0, 0);
    while next < events || answered == 0 {
        let frame = slow.frame("an event or a ping").await.expect("an open connection");
        match frame.opcode {
            PING => {
                assert!(slow.write(&raw::frame(FIN | PONG, &frame.payload)).await);
                answered += 1;
            }
            TEXT => {
                let event: Value = serde_json::from_slice(&frame.payload).unwrap();
                assert_eq!(event["data"][0], next, "{}", frame.payload.len());
                next += 1;
            }
            other => panic!("frame type {other}: {}", String::from_utf8_lossy(&frame.payload)),
        }
    }
}
