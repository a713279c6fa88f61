//! A node that was frozen says nothing stale, and nothing for who has given up on it.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::time::timeout;

use crate::support::db::set;
use crate::support::raw::{CLOSE, FIN, TEXT, frame, handshake};
use crate::support::wait::same;
use crate::support::{BOUND, Client, Pair, RawClient, Scrape, Worker, eventually, http};

/// Large enough that the kernel's buffers are soon full.
const EVENT: usize = 32 * 1024;
/// Whoever has not taken an event by then has no room for it.
const MOMENT: Duration = Duration::from_millis(300);
/// What is in the kernel's buffers is there by then, however busy the machine is.
const BUFFERED: Duration = Duration::from_secs(2);

/// Reads what there is; the number of each event, and the code of a `bye`.
async fn read(client: &mut RawClient, patience: Duration) -> (Vec<u64>, Option<u64>) {
    let (mut numbers, mut bye) = (Vec::new(), None);
    while let Ok(Some(frame)) = timeout(patience, client.frame("what there is")).await {
        if frame.opcode == CLOSE {
            break;
        }
        if frame.opcode == TEXT {
            let frame: serde_json::Value = serde_json::from_slice(&frame.payload).expect("JSON");
            numbers.extend(frame["data"][0].as_u64());
            bye = bye.or(frame["code"].as_u64());
        }
    }
    (numbers, bye)
}

#[tokio::test]
async fn who_was_signed_out_while_the_node_was_frozen_is_closed_when_it_thaws() {
    let mut pair = Pair::with(&[("--node-ttl", "1500ms"), ("--pong-timeout", "10m")]).await;
    let (mut one, mut other) =
        (Client::open(&pair.a, "userId=42&clientId=one").await, Client::open(&pair.a, "userId=43").await);
    pair.a.signal(Signal::STOP);
    pair.db.offline("42").await;
    let answer = http::delete(&pair.b.worker_http("/users/42/sessions")).await;
    assert_eq!(answer.status, 204);
    pair.a.signal(Signal::CONT);
    assert_eq!(one.closed().await.code, 4010);
    eventually(BOUND, "the other registered anew", async || same(pair.db.exists("user:43").await, true))
        .await;
    assert!(!pair.db.exists("user:42").await);
    Worker::open(&pair.b).await.event("43", "1").await;
    assert_eq!(other.event().await.data, "1");
}

#[tokio::test]
async fn what_waited_for_a_socket_when_the_node_froze_is_not_sent_when_it_thaws() {
    let settings = [("--node-ttl", "1500ms"), ("--log-length", "4000"), ("--pong-timeout", "10m")];
    let mut pair = Pair::with(&settings).await;
    let (mut slow, _) = RawClient::open_narrow(&pair.a, "userId=42&clientId=tab-1").await;
    let mut worker = Worker::open(&pair.a).await;
    let delivered = async || Scrape::of(&pair.a).await.get("events_delivered_total");
    let (mut published, mut waiting) = (0_u32, 0);
    while waiting < 4 {
        worker.event("42", &format!(r#"[{published},"{}"]"#, "x".repeat(EVENT))).await;
        published += 1;
        let taken = async {
            while delivered().await < f64::from(published) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        waiting = if timeout(MOMENT, taken).await.is_ok() { 0 } else { waiting + 1 };
    }

    pair.a.signal(Signal::STOP);
    pair.db.offline("42").await;
    // Its client has gone to another node, which has given it everything.
    let mut back = Client::open(&pair.b, "userId=42&clientId=tab-1&since=0").await;
    assert_eq!(back.events(published as usize).await.len(), published as usize);
    // The old socket has room again, and the frozen node something to say.
    let (before, _) = read(&mut slow, BUFFERED).await;
    pair.a.signal(Signal::CONT);
    let (after, bye) = read(&mut slow, BOUND).await;
    assert_eq!(bye, Some(4009), "the client is elsewhere");
    let next = before.len() as u64;
    assert_eq!(before, (0..next).collect::<Vec<_>>(), "what had left the node before it froze");
    assert!(next + 1 < u64::from(published), "nothing waited for the socket");
    // One may have been half in the kernel's buffers: its rest has to follow.
    assert!(after.is_empty() || after == [next], "{after:?} after {next}: sent after the lease was lost");
    assert_eq!(pair.db.members("user:42").await, set(["tab-1@node-b"]));
    worker.event("42", "\"last\"").await;
    assert_eq!(back.event().await.data, "\"last\"");
}

#[tokio::test]
async fn who_gave_up_on_a_frozen_node_and_is_elsewhere_stays_there_when_it_thaws() {
    let pair = Pair::start().await;
    let ping = frame(FIN | TEXT, br#"{"type":"ping"}"#);
    for way in ["query", "event stream", "hello", "hello and more"] {
        let user = way.replace(' ', "-");
        let query = format!("userId={user}&clientId=tab-1");
        let events = format!("GET /events?{query} HTTP/1.1\r\nhost: {}\r\n\r\n", pair.a.client_address());
        let hello = json!({"type": "hello", "userId": user, "clientId": "tab-1"}).to_string();
        let hello = frame(FIN | TEXT, hello.as_bytes());
        let (mut given_up, asks) = match way {
            "query" => {
                (RawClient::connect(pair.a.client_address()).await, handshake(&query, &[]).into_bytes())
            }
            "event stream" => (RawClient::connect(pair.a.client_address()).await, events.into_bytes()),
            "hello" => (RawClient::upgrade(&pair.a, "").await, hello),
            _ => (RawClient::upgrade(&pair.a, "").await, [hello, ping.clone()].concat()),
        };
        pair.a.signal(Signal::STOP);
        assert!(given_up.write(&asks).await);
        drop(given_up);
        let mut client = Client::as_user(&pair.b, &user, "tab-1").await;
        pair.a.signal(Signal::CONT);
        // These pass the same ways, behind whatever comes of the attempt.
        Client::as_user(&pair.a, "43", "tab-1").await.close().await;
        Worker::open(&pair.a).await.event(&user, "1").await;
        let frame = client.frame("the event").await;
        assert_eq!(frame["data"], 1, "{way}: {frame}");
    }
}
