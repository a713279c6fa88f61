//! Who is connecting: in the query string, or in a hello frame; and what a bad hello gets.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{BOUND, Client, NodeBuilder, Worker, within};

#[tokio::test]
async fn a_hello_frame_identifies_like_the_query_does() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::upgrade(&node, "").await;
    client.send(r#"{"userId":"42","clientId":"tab-1"}"#).await;
    client.read_welcome().await;
    assert_eq!(client.welcomed("userId"), "42");
    assert_eq!(client.welcomed("clientId"), "tab-1");
    let id = Worker::open(&node).await.event("42", "1").await;
    assert_eq!(client.event().await.id, Some(id));
}

#[tokio::test]
async fn a_hello_frame_may_leave_the_client_id_out() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::upgrade(&node, "").await;
    client.send(r#"{"userId":"42"}"#).await;
    client.read_welcome().await;
    assert_eq!(client.welcomed("clientId").len(), 26, "a ULID: {}", client.welcome);
}

#[tokio::test]
async fn a_hello_frame_may_ask_for_replay() {
    let node = NodeBuilder::local("solo").start().await;
    let ids = Worker::open(&node).await.count("42", 1, 3).await;
    let mut client = Client::upgrade(&node, "").await;
    client.send(&json!({"userId": "42", "since": ids[0]}).to_string()).await;
    client.read_welcome().await;
    assert_eq!(client.welcome["replayed"], 2, "{}", client.welcome);
    assert_eq!(client.event().await.id.as_ref(), Some(&ids[1]));
    assert_eq!(client.event().await.id.as_ref(), Some(&ids[2]));
}

#[tokio::test]
async fn what_the_query_says_holds_where_the_hello_leaves_it_out() {
    let node = NodeBuilder::local("solo").start().await;
    let ids = Worker::open(&node).await.count("42", 1, 3).await;
    let queries = [format!("clientId=tab-1&since={}", ids[0]), "clientId=tab-1".to_owned()];
    let hellos = [json!({"userId": "42"}), json!({"userId": "42", "clientId": "tab-1", "since": ids[0]})];
    for (query, hello) in [(&queries[0], &hellos[0]), (&queries[1], &hellos[1]), (&queries[0], &hellos[1])] {
        let mut client = Client::upgrade(&node, query).await;
        client.send(&hello.to_string()).await;
        client.read_welcome().await;
        assert_eq!(client.welcomed("clientId"), "tab-1", "{query} {hello}");
        assert_eq!(client.welcome["replayed"], 2, "{query} {hello}");
        assert_eq!(client.event().await.id.as_ref(), Some(&ids[1]));
    }
}

#[tokio::test]
async fn a_hello_that_contradicts_the_query_is_closed_with_4000() {
    let node = NodeBuilder::local("solo").start().await;
    for (hello, code) in [
        (r#"{"userId":"42","clientId":"tab-2"}"#, "invalid_client_id"),
        (r#"{"userId":"42","since":"7-0"}"#, "invalid_since"),
    ] {
        let mut client = Client::upgrade(&node, "clientId=tab-1&since=0").await;
        client.send(hello).await;
        assert_eq!(client.frame("the refusal").await["code"], code, "{hello}");
        assert_eq!(client.closed().await.code, 4000, "after {hello}");
    }
}

#[tokio::test]
async fn user_ids_of_every_documented_kind_are_taken_as_they_are() {
    let node = NodeBuilder::local("solo").start().await;
    let mut worker = Worker::open(&node).await;
    let longest = "x".repeat(128);
    let users = [
        ("jane.doe%2Btag%40example.com", "jane.doe+tag@example.com"),
        ("auth0%7C7", "auth0|7"),
        ("a%2Fb%3Fc%23d%25", "a/b?c#d%"),
        ("%22quoted%22%5C", "\"quoted\"\\"),
        (longest.as_str(), longest.as_str()),
    ];
    for (encoded, user) in users {
        let mut client = Client::open(&node, &format!("userId={encoded}")).await;
        assert_eq!(client.welcomed("userId"), user);
        let id = worker.event(user, "1").await;
        assert_eq!(client.event().await.id, Some(id), "of user {user}");
    }
}

#[tokio::test]
async fn a_client_that_never_says_hello_is_closed_with_4008() {
    let node = NodeBuilder::local("solo").set("--hello-timeout", "400ms").start().await;
    let mut client = Client::upgrade(&node, "").await;
    assert_eq!(client.closed().await.code, 4008);
}

#[tokio::test]
async fn a_client_that_said_hello_is_not_closed_by_the_hello_timeout() {
    let settings = [("--hello-timeout", "2s"), ("--ping-interval", "700ms")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let mut late = Client::upgrade(&node, "").await;
    late.send(r#"{"userId":"42"}"#).await;
    late.read_welcome().await;
    let mut query = Client::open(&node, "userId=42").await;
    // Four pings at 700 ms are more than the timeout, whatever their phase.
    for _ in 0..2 {
        tokio::join!(late.pinged_twice(), query.pinged_twice());
    }
    late.round_trip().await;
    query.round_trip().await;
}

#[tokio::test]
async fn a_bad_hello_is_closed_with_4000() {
    let node = NodeBuilder::local("solo").start().await;
    let hellos = [
        "who is there?",
        "[]",
        r#"{"type":"ping"}"#,
        r#"{"userId":42}"#,
        r#"{"userId":"a b"}"#,
        r#"{"userId":""}"#,
        r#"{"userId":"42","clientId":"a/b"}"#,
        r#"{"userId":"42","since":"yesterday"}"#,
    ];
    for hello in hellos {
        let mut client = Client::upgrade(&node, "").await;
        client.send(hello).await;
        assert_eq!(client.closed().await.code, 4000, "after {hello}");
    }
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_off() {
    let node = NodeBuilder::local("solo").set("--hello-timeout", "400ms").start().await;
    let mut stream = TcpStream::connect(node.client_address()).await.unwrap();
    stream.write_all(b"GET /?userId=42 HTTP/1.1\r\nHost: slow\r\n").await.unwrap();
    let mut answer = Vec::new();
    // With or without a 408 before it: the connection ends.
    within(BOUND, "the end of a half-sent request", stream.read_to_end(&mut answer)).await.ok();
}

#[tokio::test]
async fn a_slow_handshake_costs_the_others_nothing() {
    let node = NodeBuilder::local("solo").set("--hello-timeout", "10m").start().await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(node.client_address()).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        slow.push(stream);
    }
    let open = Client::as_user(&node, "42", "tab-1");
    within(Duration::from_secs(5), "a welcome beside slow handshakes", open).await;
}
