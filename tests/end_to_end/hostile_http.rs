//! Requests that two programs on the way could read in two ways: refused, or read in one way and nothing after it.

use crate::support::raw::{TEXT, handshake};
use crate::support::{Beside, Client, Node, NodeBuilder, RawClient, Worker};

/// Sends a text, and gives all that comes until the node ends the connection.
async fn say(address: &str, text: &str) -> String {
    let mut peer = RawClient::connect(address).await;
    peer.write(text.as_bytes()).await;
    peer.ended(&format!("the end of a connection that said {text:?}")).await
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_connection_ends() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    let requests = [
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /healthz\r\n\r\n",
        "GET /healthz HTTP/3.0\r\nHost: a\r\n\r\n",
        "GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\r\n\tfolded\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n",
    ];
    for address in node.addresses() {
        for request in requests {
            let answer = say(address, request).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{request:?} got {answer:?}");
        }
    }
    beside.served().await;
}

#[tokio::test]
async fn a_request_for_no_host_or_for_two_is_400() {
    let node = NodeBuilder::local("solo").start().await;
    for address in node.addresses() {
        for hosts in ["", "Host: a\r\nHost: b\r\n", "Host: a\r\nHost: a\r\n"] {
            let request = format!("GET /healthz HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
            let answer = say(address, &request).await;
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Host"), "{hosts:?}: {answer}");
        }
        // Before HTTP/1.1 there was none.
        let answer = say(address, "GET /healthz HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    }
}

#[tokio::test]
async fn a_request_from_two_origins_is_400() {
    let node = NodeBuilder::local("solo").set("--client-origin", "https://a.com").start().await;
    let told = async |origins: &str| {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{origins}Connection: close\r\n\r\n");
        say(node.client_address(), &request).await
    };
    let one = "Origin: https://a.com\r\n";
    assert!(told(one).await.starts_with("HTTP/1.1 200 "));
    let answer = told(&format!("{one}Origin: https://b.com\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Origin"), "{answer}");
}

/// A request to publish for `user`, with these headers for its body's length, and its body in one chunk.
fn chunked(lengths: &str, user: &str) -> String {
    let event = format!(r#"{{"userId":"{user}","event":"e"}}"#);
    format!("POST /publish HTTP/1.1\r\nHost: a\r\n{lengths}\r\n\r\n{:x}\r\n{event}\r\n0\r\n\r\n", event.len())
}

/// The next event is the first that this user got.
async fn got_nothing(node: &Node, user: &str) {
    let mut client = Client::open(node, &format!("userId={user}&since=0")).await;
    assert_eq!(client.welcome["replayed"], 0, "{}", client.welcome);
    let id = Worker::open(node).await.event(user, "1").await;
    assert_eq!(client.event().await.id, Some(id));
}

#[tokio::test]
async fn a_body_of_two_lengths_hides_no_second_request() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    let hidden = chunked("Transfer-Encoding: chunked", "smuggled");
    let lengths = [
        "Content-Length: 0\r\nContent-Length: 4",
        "Content-Length: 4, 0",
        "Content-Length: +0",
        "Content-Length: 0x0",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999999",
        "Content-Length: 0x0\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: , chunked",
        "Transfer-Encoding: identity, chunked\r\nContent-Length: 4",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding:\x0bchunked",
    ];
    for length in lengths {
        let answer = say(node.worker_address(), &(chunked(length, "smuggled") + &hidden)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{length:?} got {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{length:?} got two answers: {answer}");
    }
    got_nothing(&node, "smuggled").await;
    beside.served().await;
}

#[tokio::test]
async fn beside_chunks_a_length_does_not_count_and_nothing_is_read_behind_them() {
    let node = NodeBuilder::local("solo").start().await;
    let hidden = chunked("Transfer-Encoding: chunked", "smuggled");
    for lengths in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: Chunked\r\nContent-Length: 0\r\nContent-Length: 4",
    ] {
        let answer = say(node.worker_address(), &(chunked(lengths, "42") + &hidden)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{lengths:?} got {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{lengths:?} got two answers: {answer}");
    }
    got_nothing(&node, "smuggled").await;
    // Without the length there are two requests.
    let both = chunked("Transfer-Encoding: chunked", "42")
        + &chunked("Transfer-Encoding: chunked\r\nConnection: close", "42");
    let answer = say(node.worker_address(), &both).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
}

#[tokio::test]
async fn a_line_that_ends_without_a_carriage_return_hides_no_second_request() {
    let node = NodeBuilder::local("solo").set("--hello-timeout", "500ms").start().await;
    let hidden = "GET /nodes HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let length = hidden.len();
    for address in node.addresses() {
        // What another program may take for one header is two here, and never no header.
        for head in [
            format!("POST /publish HTTP/1.1\nHost: a\nConnection: close\nContent-Length: {length}\n\n"),
            format!("POST /publish HTTP/1.1\r\nHost: a\r\nX: a\nContent-Length: {length}\r\n\r\n"),
            format!("POST /publish HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: {length}\r\n\r\n"),
            format!("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\n\r\n"),
        ] {
            let answer = say(address, &format!("{head}{hidden}")).await;
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(["400", "404"].contains(&status), "{head:?} at {address}: {answer}");
            assert!(!answer.contains("\"nodes\""), "{head:?} at {address}: {answer}");
        }
    }
}

#[tokio::test]
async fn broken_chunks_are_refused() {
    let node = NodeBuilder::local("solo").start().await;
    let chunks = [
        "FFFFFFFFFFFFFFFFF\r\n",
        "x\r\n",
        "-1\r\n",
        "1\r\nxx\r\n",
        "1\nx\n0\n\n",
        &format!("1;{}\r\n", "e".repeat(20_000)),
    ];
    for chunk in chunks {
        let head = "POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = say(node.worker_address(), &format!("{head}{chunk}")).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{chunk:.20?} got {answer}");
    }
}

#[tokio::test]
async fn what_stands_behind_an_upgrade_is_frames_and_nothing_else() {
    let node = NodeBuilder::local("solo").start().await;
    let hidden = "GET /nodes HTTP/1.1\r\nHost: a\r\n\r\n";
    for (address, query) in [(node.client_address(), "userId=42"), (node.worker_address(), "")] {
        let mut peer = RawClient::connect(address).await;
        peer.write(format!("{}{hidden}", handshake(query, &[])).as_bytes()).await;
        let head = peer.head("the answer to an upgrade").await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(peer.closed().await.code, 1002);
        // Frames that came with the handshake are read.
        let mut peer = RawClient::connect(address).await;
        let mut bytes = handshake(query, &[]).into_bytes();
        bytes.extend(crate::support::raw::frame(0x80 | TEXT, b"not JSON"));
        peer.write(&bytes).await;
        peer.head("the answer to an upgrade").await.unwrap();
        let answer = loop {
            let frame = peer.json("the answer to a frame behind the handshake").await;
            if frame["type"] != "welcome" {
                break frame;
            }
        };
        assert_eq!(answer["code"], "invalid_frame", "{answer}");
    }
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_400() {
    let node = NodeBuilder::local("solo").start().await;
    for (address, query) in [(node.client_address(), "userId=42"), (node.worker_address(), "")] {
        for (length, body) in [("Content-Length: 2", "{}"), ("Transfer-Encoding: chunked", "0\r\n\r\n")] {
            let request = format!("{}{body}", handshake(query, &[length, "Connection: close"]));
            let answer = say(address, &request).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{length}: {answer}");
        }
        let head = handshake(query, &["Content-Length: 0"]);
        let mut peer = RawClient::connect(address).await;
        peer.write(head.as_bytes()).await;
        assert!(peer.head("the answer").await.unwrap().starts_with("HTTP/1.1 101 "), "an empty body is none");
    }
}

#[tokio::test]
async fn nothing_is_a_tunnel() {
    let node = NodeBuilder::local("solo").start().await;
    for address in node.addresses() {
        for request in [
            "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\
             Connection: Upgrade, HTTP2-Settings, close\r\n\r\n",
            "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        ] {
            let answer = say(address, request).await;
            let status = answer.split(' ').nth(1).unwrap_or_default();
            let console = request.starts_with("GET") && address == node.client_address();
            assert!(status.starts_with('4') || console && status == "200", "{request:?} got {answer}");
        }
    }
}
