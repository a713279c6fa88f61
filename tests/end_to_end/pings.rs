//! WebSocket pings: who answers stays, who is silent goes.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::pair::Single;
use crate::support::raw::{PING, PONG};
use crate::support::{BOUND, Client, NodeBuilder, RawClient, Worker, eventually};

/// Short enough for a test, long enough for a busy machine to answer in.
const SETTINGS: [(&str, &str); 2] = [("--ping-interval", "300ms"), ("--pong-timeout", "1500ms")];

#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed_with_4200() {
    let node = NodeBuilder::local("solo").with(&SETTINGS).start().await;
    let (mut silent, welcome) = RawClient::open(&node, "userId=42").await;
    assert_eq!(welcome["pingInterval"], 300);
    assert_eq!(silent.closed().await.code, 4200);
}

#[tokio::test]
async fn clients_and_workers_that_answer_pings_stay() {
    let node = NodeBuilder::local("solo").with(&SETTINGS).start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    // Eight pings at 300 ms are longer than the timeout.
    for _ in 0..4 {
        client.pinged_twice().await;
    }
    let id = worker.event("42", "1").await;
    assert_eq!(client.event().await.id, Some(id));
}

#[tokio::test]
async fn a_pong_with_the_pings_payload_is_an_answer() {
    let node = NodeBuilder::local("solo").with(&SETTINGS).start().await;
    let (mut client, _) = RawClient::open(&node, "userId=42").await;
    for _ in 0..8 {
        let frame = client.frame("a ping").await.expect("an open connection");
        assert_eq!(frame.opcode, PING, "{frame:?}");
        client.send(true, PONG, &frame.payload).await;
    }
    client.round_trip().await;
}

#[tokio::test]
async fn a_silent_session_leaves_the_users_other_sessions_alone() {
    let node = NodeBuilder::local("solo").with(&SETTINGS).start().await;
    let mut good = Client::as_user(&node, "42", "good").await;
    let (mut silent, _) = RawClient::open(&node, "userId=42&clientId=silent").await;
    assert_eq!(silent.closed().await.code, 4200);
    let id = Worker::open(&node).await.event("42", "1").await;
    assert_eq!(good.event().await.id, Some(id));
}

#[tokio::test]
async fn whoever_talks_is_not_silent_pong_or_not() {
    let node = NodeBuilder::local("solo").with(&SETTINGS).start().await;
    let (mut client, _) = RawClient::open(&node, "userId=42").await;
    let mut worker = RawClient::upgrade_at(node.worker_address(), "").await;
    let begun = Instant::now();
    // A ping comes within 300 ms: longer than that and the timeout.
    while begun.elapsed() < Duration::from_millis(3000) {
        client.round_trip().await;
        worker.send_text(r#"{"ref":"r","userId":"1","event":"e"}"#).await;
        assert_eq!(worker.json("an answer").await["type"], "ack");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(client.closed().await.code, 4200);
}

/// Whose answers are late has as much on its way as it may have, and no pong of its is read until some come.
#[tokio::test]
async fn a_worker_whose_pongs_are_not_read_is_not_silent() {
    // Redis may take its time: what is on its way waits for it, and is not refused.
    let single = Single::with(&[SETTINGS[0], SETTINGS[1], ("--wait-timeout", "1m")]).await;
    let mut worker = Worker::open(&single.a).await;
    single.redis.signal(Signal::STOP);
    const FRAMES: usize = 1100;
    for number in 0..FRAMES {
        worker.send(&format!(r#"{{"ref":"{number}","userId":"42","event":"e"}}"#)).await;
    }
    // A ping comes within 300 ms: twice as long as that and the timeout.
    let begun = Instant::now();
    eventually(BOUND, "the time for several pongs", async || {
        let waited = begun.elapsed();
        if waited > Duration::from_millis(3600) { Ok(()) } else { Err(format!("{waited:?}")) }
    })
    .await;
    single.redis.signal(Signal::CONT);
    for number in 0..FRAMES {
        assert_eq!(worker.answer().await["ref"], number.to_string());
    }
    assert_eq!(worker.ask(r#"{"ref":"last","userId":"42","event":"e"}"#).await["ref"], "last");
}

#[tokio::test]
async fn a_pong_that_answers_no_ping_confirms_nothing() {
    let node = NodeBuilder::local("solo").with(&SETTINGS).start().await;
    let (mut client, _) = RawClient::open(&node, "userId=42&clientId=tab-1").await;
    // What it has not read yet is not confirmed by whatever else it sends, while a ping is out.
    let id = Worker::open(&node).await.event("42", "1").await;
    let mut is_told = false;
    loop {
        let frame = client.frame("a ping after the event").await.expect("an open connection");
        match frame.opcode {
            PING if is_told => break,
            // On a busy machine there may be one before the event.
            PING => client.send(true, PONG, &frame.payload).await,
            _ => is_told = true,
        }
    }
    for payload in ["", "beat"] {
        client.send(true, PONG, payload.as_bytes()).await;
    }
    client.round_trip().await;
    drop(client);
    let mut again = Client::as_user(&node, "42", "tab-1").await;
    assert_eq!(again.welcome["replayed"], 1, "{}", again.welcome);
    assert_eq!(again.event().await.id, Some(id));
}
