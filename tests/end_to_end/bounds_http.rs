//! What HTTP connections may cost: time, headers, bodies, and files.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use crate::support::raw::handshake;
use crate::support::{BOUND, Beside, Client, NodeBuilder, RawClient, eventually, http, within};

/// A hello timeout that a test can wait for.
const SHORT: (&str, &str) = ("--hello-timeout", "500ms");

#[tokio::test]
async fn a_head_that_does_not_come_in_time_ends_the_connection_on_both_ports() {
    let node = NodeBuilder::local("solo").with(&[SHORT]).start().await;
    for address in node.addresses() {
        for begun in ["", "G", "GET / HTTP/1.1\r\nHost: slow\r\n"] {
            let mut slow = RawClient::connect(address).await;
            slow.write(begun.as_bytes()).await;
            slow.ended(&format!("the end of {begun:?} at {address}")).await;
        }
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_has_no_more_time_than_another() {
    let node = NodeBuilder::local("solo").with(&[SHORT]).start().await;
    let mut slow = RawClient::connect(node.client_address()).await;
    let trickle = async {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        slow.write(b"GET / HTTP/1.1\r\nHost: ").await;
        loop {
            tick.tick().await;
            if !slow.write(b"x").await {
                return;
            }
        }
    };
    within(BOUND, "the end of a head that trickles", trickle).await;
}

#[tokio::test]
async fn an_idle_connection_is_not_kept_beyond_the_hello_timeout() {
    // Time for two requests, one after the other.
    let node = NodeBuilder::local("solo").set("--hello-timeout", "2s").start().await;
    let idle = node.addresses().map(async |address| {
        let mut idle = RawClient::connect(address).await;
        for _ in 0..2 {
            idle.write(b"GET /healthz HTTP/1.1\r\nHost: idle\r\n\r\n").await;
            let head = idle.head("the answer to a request on a kept connection").await.unwrap();
            assert!(head.contains("HTTP/1.1 200 "), "{head}"); // the body of the one before may come first
        }
        idle.ended("the end of an idle connection").await;
    });
    join_all(idle).await;
}

#[tokio::test]
async fn half_a_body_ends_the_request_in_time() {
    let node = NodeBuilder::local("solo").with(&[SHORT]).start().await;
    for path in ["/publish", "/users/online"] {
        let mut slow = RawClient::connect(node.worker_address()).await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: slow\r\nContent-Length: 100\r\n\r\n");
        slow.write(format!("{head}{{\"userId\"").as_bytes()).await;
        let answer = slow.ended(&format!("the end of half a body for {path}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("too slowly"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_body_that_keeps_coming_has_time_in_proportion() {
    let node = NodeBuilder::local("solo").with(&[SHORT]).start().await;
    let mut steady = RawClient::connect(node.worker_address()).await;
    let body = format!(r#"{{"userId":"42","event":"e","data":"{}"}}"#, "x".repeat(160_000));
    let head = format!("POST /publish HTTP/1.1\r\nHost: steady\r\nContent-Length: {}\r\n\r\n", body.len());
    steady.write(head.as_bytes()).await;
    // At 16 KiB a second the first half is good for four: the hello timeout passes unnoticed.
    let (first, rest) = body.as_bytes().split_at(body.len() / 2);
    assert!(steady.write(first).await, "half of a body was cut off");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(steady.write(rest).await, "a body at a good rate was cut off");
    let head = steady.head("the answer to a slow body").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn too_many_and_too_large_headers_are_431() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    let many: String = (0..100).map(|number| format!("X-{number}: x\r\n")).collect();
    let large = format!("X-Large: {}\r\n", "x".repeat(20_000));
    for address in node.addresses() {
        for headers in [&many, &large] {
            let mut client = RawClient::connect(address).await;
            client.write(format!("GET / HTTP/1.1\r\nHost: test\r\n{headers}\r\n").as_bytes()).await;
            let answer = client.ended("the answer to heavy headers").await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?} at {address}");
        }
        let mut long = RawClient::connect(address).await;
        long.write(format!("GET /?{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(70_000)).as_bytes()).await;
        let answer = long.ended("the answer to a long target").await;
        assert!(answer.starts_with("HTTP/1.1 414 ") || answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    }
    beside.served().await;
}

#[tokio::test]
async fn a_long_token_and_many_cookies_fit() {
    let node = NodeBuilder::local("solo").start().await;
    let cookies = format!("Cookie: {}", "c".repeat(4000));
    let mut client = RawClient::connect(node.client_address()).await;
    let query = format!("userId=42&token={}", "t".repeat(8000));
    client.write(handshake(&query, &[&cookies]).as_bytes()).await;
    let head = client.head("the answer to a heavy handshake").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

#[tokio::test]
async fn connections_without_a_request_use_up_neither_port() {
    // 512 files leave 32 seats on each port.
    let node = NodeBuilder::local("solo").open_files(512).set("--hello-timeout", "10m").start().await;
    let mut beside = Beside::open(&node).await;
    for address in node.addresses() {
        let mut idle = Vec::new();
        for number in 0..150 {
            let mut connection = RawClient::connect(address).await;
            if number % 2 == 0 {
                connection.write(b"GET / HT").await;
            }
            idle.push(connection);
        }
        beside.served().await;
        // Both ports go on answering, a new client and a new worker get in.
        for url in [node.client_http("/healthz"), node.worker_http("/healthz")] {
            assert_eq!(http::get(&url).await.status, 200);
        }
        within(BOUND, "a welcome beside idle connections", Client::as_user(&node, "42", "tab-1")).await;
        // Those who have waited the longest had to go.
        idle[0].ended("the end of the oldest idle connection").await;
    }
    beside.served().await;
}

/// Asks again and again, on one connection for as long as it is kept; an answer that ends it comes whole all the same.
async fn ask_on_and_on(address: &str, answers: &AtomicUsize) {
    loop {
        let mut asks = RawClient::connect(address).await;
        let mut tick = tokio::time::interval(Duration::from_millis(300));
        loop {
            tick.tick().await;
            asks.write(b"GET /healthz HTTP/1.1\r\nHost: busy\r\n\r\n").await;
            // On a very slow machine it may have been silent for long enough to make room.
            let Some(head) = asks.head("an answer among many").await else { break };
            answers.fetch_add(1, Ordering::Relaxed);
            if head.contains("connection: close") {
                assert_eq!(asks.ended("the rest of a last answer").await, "ok\n");
                break;
            }
        }
    }
}

#[tokio::test]
async fn connections_that_ask_on_and_on_use_up_neither_port() {
    let node = NodeBuilder::local("solo").open_files(512).start().await;
    let mut beside = Beside::open(&node).await;
    let answers = AtomicUsize::new(0);
    // More than the 32 seats.
    let askers = node.addresses().into_iter().flat_map(|address| std::iter::repeat_n(address, 34));
    let others = async {
        eventually(BOUND, "all seats to be taken", async || match answers.load(Ordering::Relaxed) {
            200.. => Ok(()),
            few => Err(format!("{few} answers")),
        })
        .await;
        for _ in 0..3 {
            for url in [node.client_http("/healthz"), node.worker_http("/healthz")] {
                assert_eq!(within(BOUND, "an answer to another", http::get(&url)).await.status, 200);
            }
            let client = Client::as_user(&node, "42", "tab-1");
            within(BOUND, "a welcome beside busy connections", client).await;
            beside.served().await;
        }
    };
    tokio::select! {
        _ = join_all(askers.map(|address| ask_on_and_on(address, &answers))) => {}
        () = others => {}
    }
}

#[tokio::test]
async fn as_many_as_there_are_seats_may_wait_where_nobody_else_comes() {
    let node = NodeBuilder::local("solo").open_files(512).start().await;
    let mut waiting = Vec::new();
    for _ in 0..32 {
        waiting.push(RawClient::connect(node.worker_address()).await);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await; // beyond the time that each has at least
    for peer in &mut waiting {
        peer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(peer.head("an answer to one of those who waited").await.is_some());
    }
}

#[tokio::test]
async fn whoever_does_not_take_the_answers_is_let_go() {
    let node = NodeBuilder::local("solo").with(&[SHORT]).start().await;
    for (address, path) in [(node.client_address(), "/"), (node.worker_address(), "/nodes")] {
        let mut deaf = RawClient::connect(address).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: deaf\r\n\r\n").repeat(100);
        let flood = async { while deaf.write(request.as_bytes()).await {} };
        within(2 * BOUND, "the end of a connection that reads no answers", flood).await;
    }
}

#[tokio::test]
async fn one_client_too_many_is_told_when_to_come_back_and_the_worker_port_does_not_care() {
    let node = NodeBuilder::local("solo").set("--max-connections", "1").start().await;
    let _only = Client::open_soon(&node, "userId=42").await;
    for query in ["userId=43", ""] {
        let answer = http::upgrade(&node.client_ws(query), &[]).await;
        assert_eq!(answer.refused(503), "unavailable");
        assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
    }
    assert_eq!(http::get(&node.client_http("/healthz")).await.status, 200);
    assert_eq!(http::get(&node.worker_http("/nodes")).await.status, 200);
    let frame = r#"{"userId":"42","event":"e"}"#;
    assert_eq!(http::post(&node.worker_http("/publish"), frame).await.status, 200);
}

#[tokio::test]
async fn who_sends_all_of_a_large_body_first_finds_a_refusal_whatever_it_is() {
    let settings = [("--worker-token", "s3cret"), ("--client-origin", "https://app.example")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    // More than the systems of both sides hold.
    let body = vec![b'x'; 16 * 1024 * 1024];
    for (target, header, status) in [
        ("POST /publish", "", 401),
        ("POST /publish?token=s3cret", "Origin: https://evil.example\r\n", 403),
        ("POST /nothing?token=s3cret", "", 404),
        ("PATCH /publish?token=s3cret", "", 405),
        ("PUT /users/a%20b/trace?token=s3cret", "", 400),
        ("PUT /users/42/trace?token=s3cret", "", 413),
    ] {
        let length = body.len();
        let head = format!("{target} HTTP/1.1\r\nHost: a\r\n{header}Content-Length: {length}\r\n\r\n");
        // It is read on for a second: again where the machine was too busy.
        eventually(BOUND, target, async || {
            let mut caller = RawClient::connect(node.worker_address()).await;
            let sent = caller.write(head.as_bytes()).await && caller.write(&body).await;
            let answer = caller.head("a refusal").await.unwrap_or_default();
            let refused = sent && answer.starts_with(&format!("HTTP/1.1 {status} "));
            if refused { Ok(()) } else { Err(format!("sent: {sent}; {answer}")) }
        })
        .await;
    }
}

/// What a node has to say at the end of a request's body that it did not read: no other request can follow.
const CLOSE: &str = "connection: close";

#[tokio::test]
async fn an_answer_before_the_end_of_a_body_says_that_the_connection_ends() {
    let settings = [SHORT, ("--worker-token", "s3cret")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let (client, worker) = (node.client_address(), node.worker_address());
    let known = "?token=s3cret";
    for (address, target, rest, status) in [
        // Asks first, and so sends nothing.
        (
            worker,
            format!("POST /publish{known}"),
            "Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n",
            413,
        ),
        (worker, "POST /publish".into(), "Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", 401),
        (worker, format!("POST /nothing{known}"), "Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", 404),
        // Stops in the middle.
        (worker, format!("POST /nothing{known}"), "Content-Length: 9\r\n\r\n{", 404),
        (worker, format!("POST /publish{known}"), "Content-Length: 9\r\n\r\n{", 400),
        (worker, format!("GET /nodes{known}"), "Content-Length: 9\r\n\r\n{", 200),
        (client, "POST /nothing".into(), "Content-Length: 9\r\n\r\n", 404),
        (client, "GET /healthz".into(), "Transfer-Encoding: chunked\r\n\r\n", 200),
    ] {
        let mut caller = RawClient::connect(address).await;
        caller.write(format!("{target} HTTP/1.1\r\nHost: a\r\n{rest}").as_bytes()).await;
        let head = caller.head(&target).await.unwrap_or_default();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && head.contains(CLOSE), "{target}: {head}");
        caller.ended("the end of a connection that was told to end").await;
    }
}

#[tokio::test]
async fn an_answer_to_a_whole_request_leaves_the_connection_open() {
    let node = NodeBuilder::local("solo").start().await;
    for (target, rest, status) in [
        ("POST /publish", "Content-Length: 1\r\n\r\n{", 400),
        ("POST /publish", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n", 400),
        ("POST /users/online", "Transfer-Encoding: chunked\r\n\r\ne\r\n{\"userIds\":[]}\r\n0\r\n\r\n", 200),
        ("POST /nothing", "Content-Length: 1\r\n\r\n{", 404),
        ("DELETE /users/42/sessions", "Content-Length: 2\r\n\r\n{}", 204),
        ("GET /nodes", "\r\n", 200),
    ] {
        let mut caller = RawClient::connect(node.worker_address()).await;
        caller.write(format!("{target} HTTP/1.1\r\nHost: a\r\n{rest}").as_bytes()).await;
        let head = caller.head(target).await.unwrap_or_default();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")) && !head.contains(CLOSE),
            "{target}: {head}"
        );
        caller.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let next = caller.head("the answer to a next request").await.unwrap_or_default();
        assert!(next.contains("HTTP/1.1 200 "), "after {target}: {next}"); // the body of the one before may come first
    }
    // Asks first, and is asked for it.
    let mut caller = RawClient::connect(node.worker_address()).await;
    let head = "POST /users/online HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    caller.write(head.as_bytes()).await;
    let go_on = caller.head("leave to go on").await.unwrap_or_default();
    assert!(go_on.starts_with("HTTP/1.1 100 "), "{go_on}");
    caller.write(b"e\r\n{\"userIds\":[]}\r\n0\r\n\r\n").await;
    let head = caller.head("an answer").await.unwrap_or_default();
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains(CLOSE), "{head}");
}
