//! Peers that write or read byte by byte, wherever they may: bounded in time where they hold something up, understood
//! where they do not; and a healthy pair beside them that notices nothing.

use std::time::Duration;

use futures_util::future::join_all;

use crate::support::raw::{FIN, PING, TEXT, frame, handshake};
use crate::support::{BOUND, Beside, Node, NodeBuilder, RawClient, http, within};

/// Times that a test can wait for, and that a healthy pair keeps on a busy machine.
const SHORT: [(&str, &str); 3] =
    [("--hello-timeout", "500ms"), ("--ping-interval", "300ms"), ("--pong-timeout", "3s")];
const STEP: Duration = Duration::from_millis(40);

/// Writes bytes one at a time until they are out or the connection is broken; says whether they are out.
async fn trickle(peer: &mut RawClient, bytes: &[u8]) -> bool {
    for byte in bytes {
        if !peer.write(&[*byte]).await {
            return false;
        }
        tokio::time::sleep(STEP).await;
    }
    true
}

/// Writes bytes one at a time without end: it has to be cut off.
async fn trickle_on(address: &str, begun: &[u8], what: &str) {
    let mut peer = RawClient::connect(address).await;
    peer.write(begun).await;
    let endless = async { while trickle(&mut peer, b"                ").await {} };
    within(2 * BOUND, &format!("the end of {what}"), endless).await;
}

async fn node() -> Node {
    NodeBuilder::local("solo").with(&SHORT).start().await
}

#[tokio::test]
async fn a_handshake_byte_by_byte_is_cut_off_and_one_that_is_quick_enough_is_understood() {
    // Time for some two hundred writes.
    let node = NodeBuilder::local("solo").with(&SHORT).set("--hello-timeout", "2s").start().await;
    let mut beside = Beside::open(&node).await;
    let ports = [(node.client_address(), "userId=42"), (node.worker_address(), "")];
    let slow = ports.map(async |(address, query)| {
        trickle_on(address, &handshake(query, &[]).as_bytes()[..30], "a slow handshake").await;
    });
    tokio::join!(join_all(slow), beside.served());
    beside.served().await;
    for (address, query) in ports {
        let head = handshake(query, &[]);
        let mut quick = RawClient::connect(address).await;
        for byte in head.as_bytes() {
            quick.write(&[*byte]).await;
        }
        let head = quick.head("the answer to single bytes").await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }
}

#[tokio::test]
async fn a_frame_byte_by_byte_is_cut_off_with_4200_because_no_pong_comes_between() {
    let node = node().await;
    let mut beside = Beside::open(&node).await;
    // A header that does not end, and a body that does not.
    let header = &[FIN | TEXT, 0x80 | 127, 0, 0, 0][..];
    let body = &frame(FIN | TEXT, &[b' '; 60_000])[..20];
    let slow = [
        (node.client_address(), "userId=42&clientId=header", header, false),
        (node.client_address(), "userId=42&clientId=body", body, true),
        (node.worker_address(), "", header, false),
        (node.worker_address(), "", body, true),
    ];
    let closed = slow.map(async |(address, query, begun, goes_on)| {
        let mut slow = RawClient::upgrade_at(address, query).await;
        slow.write(begun).await;
        let writing = goes_on.then(|| tokio::time::interval(STEP));
        let Some(mut tick) = writing else { return slow.closed().await };
        loop {
            tick.tick().await;
            slow.write(b" ").await;
            if let Ok(closed) = tokio::time::timeout(STEP, slow.closed()).await {
                return closed;
            }
        }
    });
    let closed = within(2 * BOUND, "the end of all slow frames", join_all(closed));
    let (closed, ()) = tokio::join!(closed, beside.served());
    for closed in closed {
        assert_eq!(closed.code, 4200, "{closed:?}");
    }
    beside.served().await;
}

#[tokio::test]
async fn a_hello_byte_by_byte_is_cut_off_with_4008() {
    let node = node().await;
    let mut beside = Beside::open(&node).await;
    let mut slow = RawClient::upgrade(&node, "").await;
    slow.write(&frame(FIN | TEXT, br#"{"userId":"42"}"#)[..10]).await;
    // Pings are no hello.
    let mut other = RawClient::upgrade(&node, "").await;
    for _ in 0..5 {
        other.write(&frame(FIN | PING, b"")).await;
    }
    assert_eq!(slow.closed().await.code, 4008);
    assert_eq!(other.closed().await.code, 4008);
    beside.served().await;
}

#[tokio::test]
async fn a_body_byte_by_byte_is_cut_off() {
    let node = node().await;
    let mut beside = Beside::open(&node).await;
    for length in ["Content-Length: 10000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n2710\r\n"] {
        for path in ["/publish", "/users/online"] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: slow\r\n{length}");
            let slow = trickle_on(node.worker_address(), head.as_bytes(), "a slow body");
            tokio::join!(slow, beside.served());
            beside.served().await;
        }
    }
    // Where a body has no business it is not waited for at all.
    let head = "POST /healthz HTTP/1.1\r\nHost: slow\r\nContent-Length: 10000\r\n\r\n";
    let slow = trickle_on(node.client_address(), head.as_bytes(), "a body at the client port");
    tokio::join!(slow, beside.served());
    beside.served().await;
}

#[tokio::test]
async fn answers_and_events_that_are_read_byte_by_byte_arrive_whole() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    let whole = http::get(&node.worker_http("/openapi.json")).await.body;
    let mut slow = RawClient::connect(node.worker_address()).await.reading(1);
    slow.write(b"GET /openapi.json HTTP/1.1\r\nHost: slow\r\nConnection: close\r\n\r\n").await;
    let reading = async {
        let answer = slow.ended("an answer, byte by byte").await;
        assert!(answer.ends_with(&whole), "{} bytes", answer.len());
    };
    tokio::join!(reading, beside.served());
    let (slow, _) = RawClient::open(&node, "userId=healthy&clientId=slow").await;
    let mut slow = slow.reading(1);
    let worker = RawClient::upgrade_at(node.worker_address(), "").await;
    let mut worker = worker.reading(1);
    for number in 0..20 {
        let text = format!(
            r#"{{"ref":"{number}","userId":"healthy","event":"slow","data":"{}"}}"#,
            "x".repeat(2000)
        );
        worker.write(&frame(FIN | TEXT, text.as_bytes())).await;
    }
    for number in 0..20 {
        assert_eq!(worker.json("an answer, byte by byte").await["ref"], number.to_string());
        assert_eq!(slow.json("an event, byte by byte").await["event"], "slow");
    }
}
