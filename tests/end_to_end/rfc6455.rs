//! The handshake and the close as RFC 6455 has them, seen by a client that shares no code with the node.

use std::time::{Duration, Instant};

use serde_json::Value;
use soketto::connection::{Error, Receiver, Sender};
use soketto::data::ByteSlice125;
use soketto::extension::deflate::Deflate;
use soketto::handshake::{Client, ServerResponse};
use soketto::{Data, Incoming, Mode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use crate::support::raw::{CLOSE, CONTINUATION, FIN, PING, TEXT, frame};
use crate::support::{BOUND, Beside, Node, NodeBuilder, RawClient, Worker, eventually, http, within};

type Stream = Compat<TcpStream>;

/// Connects with the independent client, which checks the answer to the handshake by itself.
async fn soketto(address: &str, path: &str, compressed: bool) -> (Sender<Stream>, Receiver<Stream>) {
    let stream = TcpStream::connect(address).await.expect("connecting");
    let mut client = Client::new(stream.compat(), address, path);
    if compressed {
        client.add_extension(Box::new(Deflate::new(Mode::Client)));
    }
    match client.handshake().await.expect("a handshake") {
        ServerResponse::Accepted { .. } => {}
        other => panic!("not accepted: {other:?}"),
    }
    client.into_builder().finish()
}

/// The next text; pongs before it are passed over.
async fn text(receiver: &mut Receiver<Stream>) -> String {
    let mut bytes = Vec::new();
    loop {
        let next = within(BOUND, "a frame", receiver.receive(&mut bytes)).await.expect("a frame");
        match next {
            Incoming::Data(Data::Text(_)) => return String::from_utf8(bytes).expect("UTF-8"),
            Incoming::Pong(_) => {}
            other => panic!("{other:?} instead of text"),
        }
    }
}

#[tokio::test]
async fn an_independent_client_is_served_with_and_without_an_offer_of_compression() {
    let node = NodeBuilder::local("solo").start().await;
    let mut worker = Worker::open(&node).await;
    for compressed in [false, true] {
        // Each a client of its own: what one has not confirmed would come again.
        let path = format!("/?userId=42&clientId={compressed}");
        let (mut sender, mut receiver) = soketto(node.client_address(), &path, compressed).await;
        assert!(text(&mut receiver).await.starts_with(r#"{"type":"welcome""#));
        // Long and repetitive: whoever compresses would compress this.
        let data = format!("\"{}\"", "abc".repeat(10_000));
        worker.event("42", &data).await;
        assert!(text(&mut receiver).await.contains(&data));
        sender.send_text(r#"{"type":"ping"}"#).await.unwrap();
        sender.flush().await.unwrap();
        assert_eq!(text(&mut receiver).await, r#"{"type":"pong"}"#);
        sender.close().await.unwrap();
        let end = within(BOUND, "the answer to a close", receiver.receive(&mut Vec::new())).await;
        assert!(
            matches!(&end, Ok(Incoming::Closed(reason)) if reason.code == 1000)
                || matches!(end, Err(Error::Closed)),
            "{end:?}"
        );
    }
}

#[tokio::test]
async fn an_independent_worker_is_served() {
    let node = NodeBuilder::local("solo").start().await;
    let (mut sender, mut receiver) = soketto(node.worker_address(), "/ws", true).await;
    sender.send_text(r#"{"ref":"1","userId":"42","event":"e"}"#).await.unwrap();
    sender.flush().await.unwrap();
    assert!(text(&mut receiver).await.starts_with(r#"{"type":"ack","ref":"1""#));
}

#[tokio::test]
async fn a_ping_comes_back_as_a_pong_with_its_payload() {
    let node = NodeBuilder::local("solo").start().await;
    for (address, path) in [(node.client_address(), "/?userId=42"), (node.worker_address(), "/")] {
        let (mut sender, mut receiver) = soketto(address, path, false).await;
        for payload in [&b""[..], b"are you there", &[0xff; 125]] {
            sender.send_ping(ByteSlice125::try_from(payload).unwrap()).await.unwrap();
            sender.flush().await.unwrap();
            let mut bytes = Vec::new();
            loop {
                match within(BOUND, "a pong", receiver.receive(&mut bytes)).await.expect("a pong") {
                    Incoming::Pong(echoed) => break assert_eq!(echoed, payload),
                    Incoming::Data(_) => bytes.clear(), // the welcome
                    other => panic!("{other:?} instead of a pong"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_frame_of_an_extension_that_was_declined_is_1002() {
    let node = NodeBuilder::local("solo").start().await;
    let offers = "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame";
    for address in node.addresses() {
        let url = format!("http://{address}/?userId=42");
        let answer = http::upgrade(&url, &[("sec-websocket-extensions", offers)]).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        assert!(answer.headers.get("sec-websocket-extensions").is_none(), "{answer:?}");
        let mut client = RawClient::upgrade_at(address, "userId=42").await;
        client.write(&frame(FIN | crate::support::raw::RSV1 | TEXT, b"\xaa\x56\x4a\x04\x00")).await;
        assert_eq!(client.closed().await.code, 1002);
    }
}

/// Sends a handshake of these lines to both ports, and gives the heads of the answers.
async fn answers(node: &Node, lines: &[&str]) -> [String; 2] {
    let request: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let mut heads = [String::new(), String::new()];
    for (head, address) in heads.iter_mut().zip(node.addresses()) {
        let mut client = RawClient::connect(address).await;
        client.write(format!("{request}\r\n").as_bytes()).await;
        *head = client.head("the answer to a handshake").await.expect("an answer");
    }
    heads
}

const GET: &str = "GET /?userId=42 HTTP/1.1";
const HOST: &str = "Host: a";
const UPGRADE: &str = "Upgrade: websocket";
const CONNECTION: &str = "Connection: Upgrade";
const VERSION: &str = "Sec-WebSocket-Version: 13";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

#[tokio::test]
async fn every_way_to_write_a_handshake_is_accepted() {
    let node = NodeBuilder::local("solo").set("--client-origin", "*").start().await;
    let handshakes: &[&[&str]] = &[
        &[GET, HOST, UPGRADE, CONNECTION, VERSION, KEY],
        &[GET, "hOsT: a", "UPGRADE: WebSocket", "CONNECTION: UPGRADE", "SEC-WEBSOCKET-VERSION: 13", KEY],
        &[GET, HOST, UPGRADE, "Connection: keep-alive, Upgrade", VERSION, KEY],
        &[GET, HOST, UPGRADE, "Connection: keep-alive", "Connection:upgrade", VERSION, KEY],
        &[GET, HOST, "Upgrade: h2c, websocket", "Connection:\tUpgrade ,keep-alive", VERSION, KEY],
        &[GET, HOST, KEY, VERSION, CONNECTION, UPGRADE, "Origin: https://a", "Sec-WebSocket-Protocol: chat"],
        &[GET, HOST, UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key:   dGhlIHNhbXBsZSBub25jZQ==  "],
    ];
    for handshake in handshakes {
        for head in answers(&node, handshake).await.map(|head| head.to_lowercase()) {
            assert!(head.starts_with("http/1.1 101 "), "{handshake:?} got {head}");
            // The example of RFC 6455.
            assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
            assert!(head.contains("upgrade: websocket\r\n"), "{head}");
            assert!(head.contains("connection: upgrade\r\n"), "{head}");
            assert!(!head.contains("sec-websocket-protocol"), "nothing was chosen of `chat`: {head}");
        }
    }
    for protocol in ["switchboard", "SwitchBoard"] {
        let offer = format!("Sec-WebSocket-Protocol: chat, {protocol}");
        for head in answers(&node, &[GET, HOST, UPGRADE, CONNECTION, VERSION, KEY, &offer]).await {
            assert!(head.contains(&format!("\r\nsec-websocket-protocol: {protocol}\r\n")), "{head}");
        }
    }
}

#[tokio::test]
async fn a_handshake_that_is_none_is_400() {
    let node = NodeBuilder::local("solo").start().await;
    let handshakes: &[&[&str]] = &[
        &["GET /?userId=42 HTTP/1.0", HOST, UPGRADE, CONNECTION, VERSION, KEY],
        &[GET, UPGRADE, CONNECTION, VERSION, KEY],
        &[GET, HOST, UPGRADE, VERSION, KEY],
        &[GET, HOST, UPGRADE, "Connection: close", VERSION, KEY],
        &[GET, HOST, UPGRADE, "Connection: Upgraded", VERSION, KEY],
        &[GET, HOST, UPGRADE, CONNECTION, VERSION],
        &[GET, HOST, UPGRADE, CONNECTION, VERSION, KEY, KEY],
        &[GET, HOST, UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key:"],
        &[GET, HOST, UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: c2hvcnQ="],
        &[GET, HOST, UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhpcyBpcyB0d2VudHkgYnl0ZXMh"],
        &[GET, HOST, UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25!ZQ=="],
    ];
    for handshake in handshakes {
        for head in answers(&node, handshake).await {
            assert_eq!(head.split(' ').nth(1), Some("400"), "{handshake:?} got {head}");
        }
    }
}

#[tokio::test]
async fn another_version_is_426_and_told_which_one_is_spoken() {
    let node = NodeBuilder::local("solo").start().await;
    for version in
        ["Sec-WebSocket-Version: 12", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 13, 8", "X: none"]
    {
        for head in answers(&node, &[GET, HOST, UPGRADE, CONNECTION, version, KEY]).await {
            let head = head.to_lowercase();
            assert!(head.starts_with("http/1.1 426 "), "{version} got {head}");
            assert!(head.contains("sec-websocket-version: 13\r\n"), "{head}");
            assert!(head.contains("connection: upgrade\r\n"), "{head}");
        }
    }
}

#[tokio::test]
async fn a_close_is_answered_with_its_own_code_and_the_connection_ends() {
    let node = NodeBuilder::local("solo").start().await;
    for address in node.addresses() {
        for close in [&b""[..], b"\x03\xe8", b"\x03\xe9going away", b"\x0f\xa0", b"\x13\x87mine"] {
            let mut client = RawClient::upgrade_at(address, "userId=42").await;
            // In the middle of a message as well.
            client.send(false, TEXT, b"{\"type\"").await;
            client.send(true, CLOSE, close).await;
            client.send(true, CONTINUATION, b":\"ping\"}").await;
            let mut seen = Vec::new();
            while let Some(frame) = client.frame("the answer to a close").await {
                seen.push((frame.opcode, frame.payload));
            }
            let (opcode, payload) = seen.last().expect("an answer before the end");
            assert_eq!((*opcode, payload.get(..2)), (CLOSE, close.get(..2)), "after {close:?}");
            let others = seen.iter().filter(|(opcode, payload)| {
                *opcode == TEXT && !payload.starts_with(b"{\"type\":\"welcome\"")
            });
            assert_eq!(others.count(), 0, "neither a bye nor an answer comes behind the peer's close");
        }
    }
}

/// By it an operator sees why a client keeps coming back: its library takes no frame as large as its next event, say.
#[tokio::test]
async fn the_code_of_a_clients_close_is_in_the_log() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = RawClient::upgrade_at(node.client_address(), "userId=42").await;
    client.send(true, CLOSE, b"\x03\xf1").await;
    node.log_line(BOUND, "the client's code", |line| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        line["fields"]["message"] == "disconnected" && line["fields"]["code"] == 1009
    })
    .await;
}

#[tokio::test]
async fn a_close_that_the_node_begins_is_a_bye_a_close_and_then_the_end_once_the_peer_agrees() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    for address in node.addresses() {
        // Again where the machine was so busy that the time that a peer has to agree was nearly over.
        let mut client = eventually(BOUND, "no early end", async || {
            let mut client = RawClient::upgrade_at(address, "userId=42").await;
            let begun = Instant::now();
            client.send(true, 2, b"\x00").await;
            assert_eq!(client.closed().await.code, 1003); // right behind its bye
            let early = tokio::time::timeout(Duration::from_millis(300), client.frame("nothing")).await;
            let took = begun.elapsed();
            assert!(early.is_err() || took > Duration::from_millis(1500), "the end came early");
            if early.is_err() { Ok(client) } else { Err(format!("the end, after {took:?}")) }
        })
        .await;
        // What was on its way is passed over.
        client.send(true, PING, b"").await;
        client.send(true, CLOSE, b"\x03\xeb").await;
        assert!(client.frame("the end").await.is_none(), "something came behind a close");
        // A peer that never agrees is let go all the same.
        let mut client = RawClient::upgrade_at(address, "userId=42").await;
        client.send(true, 2, b"\x00").await;
        assert_eq!(client.closed().await.code, 1003);
        assert!(client.frame("the end").await.is_none());
    }
    beside.served().await;
}

#[tokio::test]
async fn a_peer_that_shuts_its_side_without_a_close_is_gone() {
    let node = NodeBuilder::local("solo").start().await;
    let mut stream = TcpStream::connect(node.client_address()).await.unwrap();
    stream.write_all(crate::support::raw::handshake("userId=half", &[]).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    node.offline("half").await;
}
