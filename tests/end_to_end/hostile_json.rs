//! JSON that is not what it should be, or almost: lists for objects, doubled fields, numbers beyond every type, half
//! characters, depth. What is `data` passes through as it is; everything else is refused, and nobody else notices.

use serde_json::json;

use crate::support::client::parse_event;
use crate::support::{Beside, Client, NodeBuilder, Worker, http};

/// Values of no field's type.
const ODD: &[&str] = &[
    "null",
    "true",
    "7",
    "-0",
    "1e400",
    "-1e400",
    "123456789012345678901234567890",
    "[]",
    "{}",
    "[\"42\"]",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\u12\"",
    "\"\\x\"",
    "\"\u{1}\"",
    "NaN",
    "'42'",
    "01",
    "+1",
    ".5",
    "\"42",
];

/// Texts that are no frames of anyone's.
fn no_frames() -> Vec<String> {
    let mut texts: Vec<String> = [
        "[]",
        "[[]]",
        "[{}]",
        "null",
        "\"{}\"",
        "{}{}",
        "{},",
        "{\"a\":1,}",
        "\u{feff}{\"type\":\"ping\"}",
        "/**/{\"type\":\"ping\"}",
        "{\"type\":\"ping\"}\0",
        "{type:\"ping\"}",
        // The values that a frame, a worker's frame and a hello would have, without their names.
        "[\"ping\",null,null,null,null]",
        "[\"ack\",\"1-0\",null,null,null]",
        "[\"1\",\"42\",null,null,null,null,\"e\",1,null,null,null]",
        "[\"42\",\"tab-1\",\"0\",null]",
        "[\"42\"]",
    ]
    .map(str::to_owned)
    .into();
    texts.push("[".repeat(50_000));
    texts.push("{\"type\":".repeat(6_000));
    texts.push(format!("{{\"type\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000)));
    texts
}

fn twice(frame: &str, field: &str, value: &str) -> String {
    format!("{},\"{field}\":{value}}}", frame.strip_suffix('}').unwrap())
}

#[tokio::test]
async fn from_a_client_it_is_invalid_frame() {
    let node = NodeBuilder::local("solo").set("--client-rate", "100000").start().await;
    let mut beside = Beside::open(&node).await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut frames = no_frames();
    let message = r#"{"type":"message","event":"e","data":1}"#;
    let ack = r#"{"type":"ack","id":"1-0"}"#;
    for (good, field, value) in [
        (message, "type", "\"message\""),
        (message, "event", "\"e\""),
        (message, "data", "1"),
        (ack, "id", "\"1-0\""),
    ] {
        frames.push(twice(good, field, value));
    }
    for odd in ODD {
        frames.push(format!(r#"{{"type":{odd}}}"#));
        frames.push(format!(r#"{{"type":"ack","id":{odd}}}"#));
        frames.push(format!(r#"{{"type":"message","event":{odd}}}"#));
        frames.push(format!(r#"{{"type":"ping","{}":1}}"#, odd.replace('"', "")));
    }
    for frame in frames {
        client.send(&frame).await;
        let error = client.frame("an error").await;
        assert_eq!(error["code"], "invalid_frame", "{frame:.80}: {error}");
    }
    client.round_trip().await;
    beside.served().await;
}

#[tokio::test]
async fn as_a_hello_it_is_invalid_frame_and_4000() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    let mut hellos = no_frames();
    hellos.push(r#"{"userId":"42","userId":"42"}"#.to_owned());
    hellos.push(r#"{"userId":"42","type":"ping"}"#.to_owned());
    // A field that is null is left out.
    for odd in ODD.iter().filter(|odd| **odd != "null") {
        hellos.push(format!(r#"{{"userId":{odd}}}"#));
        hellos.push(format!(r#"{{"userId":"42","since":{odd}}}"#));
    }
    for hello in hellos {
        let mut client = Client::upgrade(&node, "").await;
        client.send(&hello).await;
        let error = client.frame("an error").await;
        assert_eq!(error["code"], "invalid_frame", "{hello:.80}: {error}");
        assert_eq!(client.closed().await.code, 4000);
    }
    beside.served().await;
}

#[tokio::test]
async fn from_a_worker_it_is_invalid_frame_by_socket_and_by_http() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    let mut worker = Worker::open(&node).await;
    let mut frames = no_frames();
    let good = r#"{"userId":"42","event":"e","data":1}"#;
    for (field, value) in [("userId", "\"42\""), ("event", "\"e\""), ("data", "1")] {
        frames.push(twice(good, field, value));
    }
    // A field that is null is left out.
    for odd in ODD.iter().filter(|odd| **odd != "null") {
        frames.push(format!(r#"{{"userId":{odd},"event":"e"}}"#));
        frames.push(format!(r#"{{"userId":"42","event":{odd}}}"#));
        frames.push(format!(r#"{{"userId":"42","event":"e","ref":{odd}}}"#));
        frames.push(format!(r#"{{"userIds":["42",{odd}],"event":"e"}}"#));
        if *odd != "true" {
            frames.push(format!(r#"{{"userId":"42","event":"e","transient":{odd}}}"#));
        }
    }
    let url = node.worker_http("/publish");
    for frame in &frames {
        let error = worker.ask(frame).await;
        assert_eq!(error["code"], "invalid_frame", "{frame:.80}: {error}");
        // A list is a batch there, of items that are no better.
        let answer = http::post(&url, frame).await;
        match answer.status {
            200 => assert!(!answer.body.contains("\"ack\""), "{frame:.80}: {answer:?}"),
            _ => assert_eq!(answer.refused(400), "invalid_frame", "{frame:.80}"),
        }
        if !frame.contains('\u{1}') {
            let batch = http::post(&url, &format!("[{frame}]")).await;
            assert!(!batch.body.contains("\"ack\""), "{frame:.80}: {batch:?}");
        }
    }
    for body in [r#"[["42"]]"#, "[]", "{}", r#"{"userIds":["42"],"userIds":["42"]}"#, r#"{"userIds":[42]}"#] {
        let answer = http::post(&node.worker_http("/users/online"), body).await;
        assert_eq!(answer.refused(400), "invalid_frame", "{body}");
    }
    for body in ["[600000]", "[]", r#"{"forMs":1e400}"#, r#"{"forMs":-1}"#, r#"{"forMs":1,"forMs":1}"#] {
        let url = node.worker_http("/users/42/trace");
        let answer = http::request(reqwest::Method::PUT, &url, &[], Some(body)).await.unwrap();
        assert_eq!(answer.refused(400), "invalid_frame", "{body}");
    }
    beside.served().await;
}

#[tokio::test]
async fn whatever_is_json_passes_through_as_data() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    for data in [&deep, "1e400", "123456789012345678901234567890", "\"\\ud800\"", r#"{"a":1,"a":2}"#, "-0"] {
        // No tree is built of the frame: this one is deeper than JSON readers go.
        worker.send(&format!(r#"{{"ref":"1","userId":"42","event":"e","data":{data}}}"#)).await;
        assert_eq!(worker.answer().await["type"], "ack", "{data:.40}");
        assert!(parse_event(&client.text("an event").await).unwrap().data == *data, "{data:.40}");
        client.send(&format!(r#"{{"type":"message","event":"e","data":{data}}}"#)).await;
        client.round_trip().await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_body_of_tiny_items_takes_no_more_than_its_bytes() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    let url = node.worker_http("/publish");
    let tiny = |item: &str, between: &str| [item, between].concat().repeat(8 << 20) + item;
    http::post(&url, &format!("[\"{}\"]", "x".repeat(24 << 20))).await;
    let before = node.peak_memory();
    for (kind, body) in [
        ("application/json", format!("[{}]", tiny("1", ","))),
        ("application/x-ndjson", tiny("1", "\n")),
        (
            "application/json",
            format!(
                r#"{{"event":"e","userIds":[{}]}}"#,
                tiny("\"\"", ",").split_at(16 << 20).0.rsplit_once(',').unwrap().0
            ),
        ),
    ] {
        let headers = [("content-type", kind)];
        let answer = http::request(reqwest::Method::POST, &url, &headers, Some(&body)).await.unwrap();
        assert_eq!(answer.refused(400), "too_many_items", "{kind}");
    }
    let grown = node.peak_memory().saturating_sub(before); // the system counts by the page and the thread
    assert!(grown < 64 << 20, "bodies of 16 MiB took {} MiB", grown >> 20);
    beside.served().await;
    let users = json!({"userIds": vec!["1"; 1001]}).to_string();
    assert_eq!(http::post(&node.worker_http("/users/online"), &users).await.refused(400), "too_many_items");
}
