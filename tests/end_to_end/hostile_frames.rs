//! Frames that break RFC 6455, on both ports: a clear answer, and nothing that a healthy peer would notice.

use crate::support::raw::{CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, frame};
use crate::support::{BOUND, Beside, Node, NodeBuilder, RawClient, within};

/// The header of a frame that claims to be this long.
fn claims(length: u64) -> Vec<u8> {
    let mut header = vec![FIN | TEXT, 0x80 | 127];
    header.extend(length.to_be_bytes());
    header.extend([0; 8]);
    header
}

/// What is sent, and the close codes that answer it.
fn abuses() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let (binary, text, ping) = (FIN | 2, FIN | TEXT, FIN | PING);
    let mut unmasked = vec![text, 2];
    unmasked.extend(b"{}");
    let mut long_close = 1000u16.to_be_bytes().to_vec();
    long_close.extend([b'x'; 124]);
    vec![
        ("a binary frame", frame(binary, b"\x00"), &[1003]),
        ("a binary frame in pieces", [frame(2, b"\x00"), frame(FIN, b"\x00")].concat(), &[1003]),
        ("text that is no UTF-8", frame(text, b"\xff"), &[1007]),
        ("an overlong form", frame(text, b"\xc0\xaf"), &[1007]),
        ("half a surrogate pair", frame(text, b"\xed\xa0\x80"), &[1007]),
        ("a character cut off by the end", [frame(TEXT, b"\xe2\x82"), frame(FIN, b"")].concat(), &[1007]),
        (
            "a broken character in two frames",
            [frame(TEXT, b"\xe2"), frame(FIN, b"\x28\xa1")].concat(),
            &[1007],
        ),
        ("a ping in pieces", frame(PING, b"half"), &[1002]),
        ("a ping above 125 bytes", frame(ping, &[0; 126]), &[1002]),
        ("a pong above 125 bytes", frame(FIN | PONG, &[0; 300]), &[1002]),
        ("a close above 125 bytes", frame(FIN | CLOSE, &long_close), &[1002]),
        ("a close with half a code", frame(FIN | CLOSE, b"\x03"), &[1002]),
        ("a close whose reason is no UTF-8", frame(FIN | CLOSE, b"\x03\xe8\xff"), &[1002, 1007]),
        ("a close in pieces", frame(CLOSE, b"\x03\xe8"), &[1002]),
        ("a reserved bit, as of compression", frame(text | RSV1, b"{}"), &[1002]),
        ("another reserved bit", frame(text | 0x20, b"{}"), &[1002]),
        ("the third reserved bit on a ping", frame(ping | 0x10, b""), &[1002]),
        ("a reserved kind of data", frame(FIN | 3, b""), &[1002]),
        ("a reserved kind of control", frame(FIN | 0xb, b""), &[1002]),
        ("a frame without a mask", unmasked, &[1002]),
        ("the middle of nothing", frame(FIN | CONTINUATION, b"x"), &[1002]),
        ("a second beginning", [frame(TEXT, b"a"), frame(text, b"b")].concat(), &[1002]),
        ("a claim of 2^63 bytes", claims(1 << 63), &[1002, 1009]),
        ("a claim of 2^64 - 1 bytes", claims(u64::MAX), &[1002, 1009]),
        ("a claim of 4 GiB", claims(1 << 32), &[1009]),
        (
            "pieces without an end",
            [frame(TEXT, b"x"), frame(CONTINUATION, &[b'x'; 60_000]).repeat(30)].concat(),
            &[1009],
        ),
        (
            "empty pieces without an end",
            [frame(TEXT, b""), frame(CONTINUATION, b"").repeat(300_000)].concat(),
            &[1009],
        ),
        ("a second request", b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n".to_vec(), &[1002]),
    ]
}

fn ports(node: &Node) -> [(&str, &'static str); 2] {
    [(node.client_address(), "userId=42&clientId=bad"), (node.worker_address(), "workerId=bad")]
}

#[tokio::test]
async fn every_abuse_of_frames_is_answered_with_its_close_code_on_both_ports() {
    let node = NodeBuilder::local("solo").set("--max-event", "64KiB").start().await;
    let mut beside = Beside::open(&node).await;
    for (address, query) in ports(&node) {
        for (what, bytes, codes) in abuses() {
            let mut bad = RawClient::upgrade_at(address, query).await;
            bad.write(&bytes).await;
            let closed = bad.closed().await;
            assert!(codes.contains(&closed.code), "{what} at {address}: {closed:?}");
            beside.served().await;
        }
    }
}

#[tokio::test]
async fn abuse_instead_of_a_hello_is_answered_like_abuse_after_it() {
    let node = NodeBuilder::local("solo").start().await;
    for (what, bytes, codes) in abuses() {
        let mut bad = RawClient::upgrade(&node, "").await;
        bad.write(&bytes).await;
        let closed = bad.closed().await;
        assert!(codes.contains(&closed.code), "{what}: {closed:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn pings_before_a_hello_are_few_and_what_answers_them_is_bounded() {
    let node = NodeBuilder::local("solo").start().await;
    let mut polite = RawClient::upgrade(&node, "").await;
    polite.write(&frame(FIN | PING, b"there?").repeat(20)).await;
    polite.send(true, TEXT, br#"{"userId":"42"}"#).await;
    while polite.frame("a welcome after 20 pongs").await.expect("an open connection").opcode == PONG {}

    let before = node.peak_memory();
    let mut flood = RawClient::upgrade(&node, "").await;
    let pings = frame(FIN | PING, &[0; 125]).repeat(1000);
    let write = async {
        for _ in 0..400 {
            if !flood.write(&pings).await {
                break; // 50 MB, unless the node has had enough
            }
        }
    };
    within(BOUND, "the node to take pings, or to break off", write).await;
    let grown = node.peak_memory().saturating_sub(before);
    assert!(grown < 8 << 20, "the node has grown by {grown} bytes");
    let mut flood = RawClient::upgrade(&node, "").await;
    flood.write(&frame(FIN | PING, b"").repeat(200)).await;
    assert_eq!(flood.closed().await.code, 4100);
}

#[tokio::test]
async fn a_close_with_a_code_that_may_not_be_sent_is_answered_with_1002() {
    let node = NodeBuilder::local("solo").start().await;
    for (address, query) in ports(&node) {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535u16] {
            let mut bad = RawClient::upgrade_at(address, query).await;
            bad.send(true, CLOSE, &code.to_be_bytes()).await;
            let answer = loop {
                let next = bad.frame("the answer to a close").await.expect("a close frame");
                if next.opcode == CLOSE {
                    break next.payload;
                }
            };
            assert_eq!(answer[..2], 1002u16.to_be_bytes(), "after {code} at {address}");
        }
    }
}

#[tokio::test]
async fn a_flood_of_pings_ends_in_4100_and_nobody_else_notices() {
    let node = NodeBuilder::local("solo").set("--client-rate", "20").start().await;
    let mut beside = Beside::open(&node).await;
    for (kind, payload) in [(PING, &[0; 125][..]), (PONG, b"")] {
        let (mut flooding, _) = RawClient::open(&node, "userId=42&clientId=flood").await;
        flooding.write(&frame(FIN | kind, payload).repeat(1000)).await;
        let closed = flooding.closed().await;
        assert_eq!(closed.code, 4100, "{closed:?}");
        beside.served().await;
    }
}

#[tokio::test]
async fn a_worker_that_pings_without_end_holds_nobody_up() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    let mut flooding = RawClient::upgrade_at(node.worker_address(), "").await;
    let pings = frame(FIN | PING, &[0; 125]).repeat(100);
    for _ in 0..20 {
        // Unread pongs fill the buffers some time: then it blocks, alone.
        let sent = tokio::time::timeout(std::time::Duration::from_millis(50), flooding.write(&pings));
        sent.await.ok();
        beside.served().await;
    }
}

#[tokio::test]
async fn empty_pieces_without_end_hold_nobody_up() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    for (address, query) in ports(&node) {
        let mut bad = RawClient::upgrade_at(address, query).await;
        bad.send(false, TEXT, b"").await;
        let pieces = frame(CONTINUATION, b"").repeat(10_000);
        for _ in 0..20 {
            within(BOUND, "sending empty pieces", bad.write(&pieces)).await;
            beside.served().await;
        }
    }
}

#[tokio::test]
async fn a_peer_that_writes_byte_by_byte_is_understood() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    let (mut slow, _) = RawClient::open(&node, "userId=42&clientId=slow").await;
    let bytes = [frame(TEXT, b"{\"type\""), frame(FIN | PING, b""), frame(FIN, b":\"ping\"}")].concat();
    for byte in bytes {
        slow.write(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(slow.frame("the pong to a slow ping").await.unwrap().opcode, PONG);
    assert_eq!(slow.json("the answer to a slow frame").await["type"], "pong");
    let mut worker = RawClient::upgrade_at(node.worker_address(), "").await;
    for byte in frame(FIN | TEXT, br#"{"ref":"1","userId":"42","event":"e"}"#) {
        worker.write(&[byte]).await;
    }
    assert_eq!(worker.json("the answer to a slow worker").await["type"], "ack");
    assert_eq!(slow.json("the slow worker's event").await["type"], "event");
    beside.served().await;
}

#[tokio::test]
async fn whoever_is_gone_in_the_middle_of_a_frame_leaves_nothing_behind() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    for cut in [1, 5, 9] {
        let (mut gone, _) = RawClient::open(&node, &format!("userId=gone-{cut}")).await;
        gone.write(&frame(FIN | TEXT, br#"{"type":"ping"}"#)[..cut]).await;
        drop(gone);
        node.offline(&format!("gone-{cut}")).await;
    }
    beside.served().await;
}
