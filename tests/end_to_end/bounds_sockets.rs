//! What one WebSocket may cost a node: bytes, and a share of its attention.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::pair::{Pair, Single};
use crate::support::raw::{FIN, PING, PONG, TEXT, frame, handshake};
use crate::support::{BOUND, Beside, Client, NodeBuilder, RawClient, Worker, eventually, http, within};

const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn a_worker_frame_that_is_too_big_closes_with_1009_whole_or_in_pieces() {
    let node = NodeBuilder::local("solo").set("--max-event", "64KiB").start().await;
    let mut beside = Beside::open(&node).await;
    // The event's own bound is told in an answer; beyond the rest of a frame there is nothing to answer.
    let mut worker = Worker::open(&node).await;
    for size in [70_000, 250_000] {
        let large = json!({"userId": "42", "event": "e", "data": "x".repeat(size)}).to_string();
        assert_eq!(worker.ask(&large).await["code"], "too_large");
    }
    for pieces in [1, 10] {
        let mut bad = RawClient::upgrade_at(node.worker_address(), "").await;
        let piece = vec![b' '; 600_000 / pieces];
        bad.send(pieces == 1, TEXT, &piece).await;
        for _ in 1..pieces {
            bad.send(false, 0, &piece).await;
        }
        assert_eq!(bad.closed().await.code, 1009);
    }
    beside.served().await;
}

#[tokio::test]
async fn a_hello_frame_that_is_too_big_closes_with_1009() {
    let node = NodeBuilder::local("solo").set("--max-message", "1KiB").start().await;
    let mut client = Client::upgrade(&node, "").await;
    client.send(&format!(r#"{{"userId":"42","token":"{}"}}"#, "t".repeat(2000))).await;
    assert_eq!(client.closed().await.code, 1009);
}

#[tokio::test]
async fn one_session_too_many_by_hello_frame_is_told_so_and_closed_with_1013() {
    let pair = Pair::with(&[("--max-sessions-per-user", "2")]).await;
    let _first = Client::as_user(&pair.a, "42", "tab-1").await;
    let _second = Client::as_user(&pair.b, "42", "tab-2").await;
    for node in [&pair.a, &pair.b] {
        let mut third = Client::upgrade(node, "").await;
        third.send(r#"{"userId":"42","clientId":"tab-3"}"#).await;
        assert_eq!(third.frame("an error").await["code"], "too_many_sessions");
        assert_eq!(third.closed().await.code, 1013);
    }
}

#[tokio::test]
async fn a_storm_of_upgrades_that_redis_does_not_answer_is_refused_and_forgotten() {
    let single = Single::start().await;
    single.redis.signal(Signal::STOP);
    // More than may be registered at once, so that some wait for their turn, and it is in vain.
    let storm = (0..400).map(async |number| {
        let mut client = RawClient::connect(single.a.client_address()).await;
        client.write(handshake(&format!("userId=storm-{number}"), &[]).as_bytes()).await;
        client.head("the answer to one of many upgrades").await.expect("an answer").to_lowercase()
    });
    let heads = within(2 * BOUND, "400 answers", futures_util::future::join_all(storm)).await;
    for head in heads {
        assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nretry-after: "), "{head}");
    }
    single.redis.signal(Signal::CONT);
    single.a.ready().await;
    Beside::open(&single.a).await.served().await;
    // The count goes out with the node's next beat.
    eventually(BOUND, "a node without sessions", async || {
        let nodes = http::try_get(&single.a.worker_http("/nodes")).await?.json();
        if nodes["nodes"][0]["sessions"] == 0 { Ok(()) } else { Err(nodes.to_string()) }
    })
    .await;
}

/// A client whose kernel buffers are full: it has been sent more than they take, and has read nothing.
async fn deaf(node: &crate::support::Node, worker: &mut Worker) -> RawClient {
    let (client, _) = RawClient::open(node, "userId=deaf&clientId=deaf").await;
    let large = format!(r#""{}""#, "x".repeat(256 * 1024));
    for _ in 0..64 {
        worker.event("deaf", &large).await;
    }
    client
}

#[tokio::test]
async fn a_client_that_asks_and_never_reads_is_cut_off() {
    let settings = [("--client-rate", "1000000"), ("--pong-timeout", "10m"), ("--log-length", "8")];
    for asks in [frame(FIN | TEXT, br#"{"type":"ping"}"#), frame(FIN | PING, &[0; 125])] {
        let node = NodeBuilder::local("solo").with(&settings).start().await;
        let mut beside = Beside::open(&node).await;
        let mut client = deaf(&node, &mut Worker::open(&node).await).await;
        // Ten thousand answers that nobody reads would be kept.
        tokio::time::timeout(Duration::from_secs(5), client.write(&asks.repeat(10_000))).await.ok();
        node.offline("deaf").await;
        beside.served().await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_waits_for_one_slow_socket_is_bounded_in_bytes() {
    // The queue alone would take all of it: the bytes do not.
    let pair =
        Pair::with(&[("--send-queue", "100000"), ("--pong-timeout", "10m"), ("--log-length", "1000")]).await;
    let mut worker = Worker::open(&pair.b).await;
    let mut slow = deaf(&pair.a, &mut worker).await;
    let before = pair.a.peak_memory();
    let large = format!(r#""{}""#, "x".repeat(256 * 1024));
    for _ in 0..256 {
        worker.event("deaf", &large).await;
    }
    let grown = pair.a.peak_memory().saturating_sub(before);
    assert!(grown < 16 * MIB, "64 MiB for a slow socket took {} MiB", grown / MIB);
    // Nothing is lost for all that.
    for number in 0..64 + 256 {
        let frame = slow.json("an event").await;
        assert_eq!(frame["type"], "event", "after {number}: {}", frame["type"]);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_event_costs_a_socket_nothing_once_it_is_written() {
    let single = Single::start().await;
    let mut worker = Worker::open(&single.a).await;
    let large = format!(r#""{}""#, "x".repeat(1000 * 1024));
    let mut clients = Vec::new();
    let mut before = 0;
    for number in 0..80 {
        let user = format!("u-{number}");
        let mut client = Client::as_user(&single.a, &user, "tab-1").await;
        worker.event(&user, &large).await;
        assert!(client.event().await.data == large);
        clients.push(client);
        if number == 15 {
            before = single.a.peak_memory(); // what one event takes on its way has been had by now
        }
    }
    let grown = single.a.peak_memory().saturating_sub(before);
    assert!(grown < 16 * MIB, "64 sockets that got 1 MiB each grew by {} MiB", grown / MIB);
}

#[tokio::test]
async fn large_events_and_answers_to_pings_do_not_mix() {
    let settings = [("--client-rate", "100000"), ("--send-queue", "1000"), ("--pong-timeout", "10m")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let mut worker = Worker::open(&node).await;
    let (client, _) = RawClient::open(&node, "userId=42&clientId=tab-1").await;
    let mut client = client.reading(1500);
    // Around every bound: of the library's buffer, of a frame's three ways to say its length.
    let sizes = [10, 110, 126, 4_000, 16_300, 16_400, 60_000, 65_480, 65_560, 300_000];
    for number in 0..100 {
        let size = sizes[number % sizes.len()];
        worker.event("42", &format!(r#"[{number},"{}"]"#, "x".repeat(size))).await;
        client.write(&frame(FIN | PING, number.to_string().as_bytes())).await;
    }
    let (mut events, mut pongs) = (0, 0);
    while events < 100 {
        let next = client.frame("events and pongs").await.expect("an open connection");
        match next.opcode {
            TEXT => {
                let event: serde_json::Value = serde_json::from_slice(&next.payload).expect("JSON");
                assert_eq!(event["data"][0], events);
                assert_eq!(event["data"][1].as_str().unwrap().len(), sizes[events % sizes.len()]);
                events += 1;
            }
            PONG => pongs += 1,
            other => assert_eq!(other, PING, "{next:?}"),
        }
    }
    assert!(pongs > 0, "no pong came between");
    client.write(&frame(FIN | PING, b"last")).await;
    while client.frame("the last pong").await.expect("an open connection").payload != b"last" {}
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_one_worker_may_have_on_its_way_is_bounded_in_bytes() {
    let single = Single::start().await;
    let before = single.a.peak_memory();
    single.redis.signal(Signal::STOP);
    let mut worker = RawClient::upgrade_at(single.a.worker_address(), "").await;
    let large = frame(
        FIN | TEXT,
        format!(r#"{{"userId":"42","event":"e","data":"{}"}}"#, "x".repeat(512 * 1024)).as_bytes(),
    );
    let flood = async {
        for _ in 0..400 {
            worker.write(&large).await;
        }
    };
    // Redis fails it again and again, so it may well get rid of all 200 MiB: never of much at once.
    tokio::time::timeout(Duration::from_secs(3), flood).await.ok();
    let grown = single.a.peak_memory().saturating_sub(before);
    single.redis.signal(Signal::CONT);
    assert!(grown < 80 * MIB, "one worker took {} MiB", grown / MIB);
}
