//! A worker's frames: the shape of an answer, and the code of every refusal.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::pair::Single;
use crate::support::{Client, Node, NodeBuilder, Worker, parse_id};

async fn stage() -> (Node, Worker) {
    let node = NodeBuilder::local("solo").start().await;
    let worker = Worker::open(&node).await;
    (node, worker)
}

/// Sends a frame that has to be refused with this code.
async fn refused(worker: &mut Worker, frame: &str, code: &str) -> Value {
    let answer = worker.ask(frame).await;
    assert_eq!(answer["type"], "error", "{frame} got {answer}");
    assert_eq!(answer["code"], code, "{frame} got {answer}");
    assert!(answer["message"].is_string(), "{frame} got {answer}");
    answer
}

#[tokio::test]
async fn an_ack_has_type_ref_id_and_nodes() {
    let (node, mut worker) = stage().await;
    let _client = Client::as_user(&node, "42", "tab-1").await;
    let answer = worker.ask(r#"{"ref":"7","userId":"42","event":"progress","data":{"percent":40}}"#).await;
    let names: BTreeSet<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["type", "ref", "id", "nodes"]), "{answer}");
    assert_eq!((&answer["type"], &answer["ref"]), (&json!("ack"), &json!("7")));
    assert_eq!(answer["nodes"], json!(["solo"]));
    parse_id(answer["id"].as_str().unwrap());
}

#[tokio::test]
async fn nodes_is_empty_where_the_user_is_offline() {
    let (_node, mut worker) = stage().await;
    let ack = worker.publish(json!({"userId": "nobody", "event": "e"})).await;
    assert_eq!(ack["nodes"], json!([]));
    parse_id(ack["id"].as_str().unwrap());
}

#[tokio::test]
async fn any_string_is_a_good_ref() {
    let (_node, mut worker) = stage().await;
    for reference in ["", "a \"quoted\" ref", "\u{e9}\n\u{1f600}", &"x".repeat(300)] {
        let frame = json!({"ref": reference, "userId": "42", "event": "e"}).to_string();
        let answer = worker.ask(&frame).await;
        assert_eq!((&answer["type"], &answer["ref"]), (&json!("ack"), &json!(reference)), "{answer}");
    }
}

#[tokio::test]
async fn without_a_ref_only_errors_are_answered() {
    let (node, mut worker) = stage().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    worker.send(r#"{"userId":"42","event":"e","data":1}"#).await;
    worker.send(r#"{"userId":"42","event":"e","data":2}"#).await;
    let error = refused(&mut worker, r#"{"userId":"42","event":"not a name"}"#, "invalid_event").await;
    assert_eq!(error.get("ref"), None, "{error}");
    // Both were published, although nobody said so.
    assert_eq!((client.event().await.data, client.event().await.data), ("1".into(), "2".into()));
}

#[tokio::test]
async fn frames_that_are_no_frames_are_invalid_frame() {
    let (_node, mut worker) = stage().await;
    let frames = [
        "publish!",
        "",
        "42",
        r#"{"ref":"1","userId":"42","event":"e","data":}"#,
        r#"{"ref":"1","userId":"42","event":"e","data":{"a":1}"#,
        r#"{"ref":"1","userId":42,"event":"e"}"#,
        r#"{"ref":"1","userId":"42","event":["e"]}"#,
        r#"{"ref":7,"userId":"42","event":"e"}"#,
        r#"{"ref":"1","userId":"42","event":"e","transient":"yes"}"#,
        r#"{"ref":"1","userIds":"42","event":"e"}"#,
        r#"{"ref":"1","userId":"42","event":"e","key":7}"#,
    ];
    for frame in frames {
        refused(&mut worker, frame, "invalid_frame").await;
    }
    worker.publish(json!({"userId": "42", "event": "e"})).await;
}

#[tokio::test]
async fn an_unknown_field_is_invalid_frame() {
    let (_node, mut worker) = stage().await;
    let frame = r#"{"ref":"7","userId":"42","event":"e","priority":"high"}"#;
    let error = refused(&mut worker, frame, "invalid_frame").await;
    assert_eq!(error["ref"], "7", "{error}");
    assert!(error["message"].as_str().unwrap().contains("priority"), "which field it was: {error}");
}

#[tokio::test]
async fn every_bad_field_has_its_code_and_the_ref_comes_back() {
    let (_node, mut worker) = stage().await;
    let cases = [
        (json!({"userId": "a b", "event": "e"}), "invalid_user_id"),
        (json!({"userId": "", "event": "e"}), "invalid_user_id"),
        (json!({"userId": "a{b", "event": "e"}), "invalid_user_id"),
        (json!({"userId": "x".repeat(129), "event": "e"}), "invalid_user_id"),
        (json!({"userId": "\u{e9}", "event": "e"}), "invalid_user_id"),
        (json!({"userIds": ["42", "a b"], "event": "e"}), "invalid_user_id"),
        (json!({"userId": "42", "clientId": "a/b", "event": "e"}), "invalid_client_id"),
        (json!({"userId": "42", "clientId": "x".repeat(65), "event": "e"}), "invalid_client_id"),
        (json!({"userId": "42", "exceptClientId": "a@b", "event": "e"}), "invalid_client_id"),
        (json!({"userId": "42", "event": ""}), "invalid_event"),
        (json!({"userId": "42", "event": "two words"}), "invalid_event"),
        (json!({"userId": "42", "event": "x".repeat(65)}), "invalid_event"),
        (json!({"userId": "42", "event": "e", "key": ""}), "invalid_key"),
        (json!({"userId": "42", "event": "e", "key": "k".repeat(129)}), "invalid_key"),
        (json!({"userId": "42", "event": "e", "key": "\u{e9}"}), "invalid_key"),
        (json!({"event": "e"}), "invalid_target"),
        (json!({"userId": "42", "userIds": ["43"], "event": "e"}), "invalid_target"),
        (json!({"userId": "42", "broadcast": true, "event": "e"}), "invalid_target"),
        (json!({"broadcast": false, "event": "e"}), "invalid_target"),
        (json!({"broadcast": true, "clientId": "tab-1", "event": "e"}), "invalid_target"),
        (json!({"userIds": ["42"], "clientId": "tab-1", "event": "e"}), "invalid_target"),
        (json!({"userIds": vec!["42"; 1001], "event": "e"}), "too_many_items"),
    ];
    for (mut frame, code) in cases {
        frame["ref"] = json!("r");
        let error = refused(&mut worker, &frame.to_string(), code).await;
        assert_eq!(error["ref"], "r", "{frame} got {error}");
    }
}

#[tokio::test]
async fn a_missing_event_is_refused() {
    let (_node, mut worker) = stage().await;
    let answer = worker.ask(r#"{"ref":"1","userId":"42","data":1}"#).await;
    assert_eq!(answer["type"], "error", "{answer}");
    // Both readings of the table are fair: a bad event, or a frame that lacks a field.
    let code = answer["code"].as_str().unwrap();
    assert!(["invalid_event", "invalid_frame"].contains(&code), "{answer}");
}

#[tokio::test]
async fn the_longest_names_are_accepted() {
    let (node, mut worker) = stage().await;
    let event = format!("a.B_c:d-{}", "9".repeat(56));
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    worker.publish(json!({"userId": "42", "event": event, "key": "k".repeat(128)})).await;
    assert_eq!(client.event().await.event, event);
}

#[tokio::test]
async fn an_event_beyond_the_limit_is_too_large_and_the_worker_stays() {
    let node = NodeBuilder::local("solo").set("--max-event", "1KiB").start().await;
    let mut worker = Worker::open(&node).await;
    let frame = json!({"ref": "1", "userId": "42", "event": "e", "data": "x".repeat(4096)});
    let error = refused(&mut worker, &frame.to_string(), "too_large").await;
    assert_eq!(error["ref"], "1", "{error}");
    worker.publish(json!({"userId": "42", "event": "e", "data": "x".repeat(512)})).await;
}

#[tokio::test]
async fn an_event_of_the_default_limit_arrives_whole() {
    let stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let mut worker = Worker::open(&stage.a).await;
    // A little below 1 MiB: whether the frame around the data counts is left open.
    let data = format!("\"{}\"", "x".repeat(1_040_000));
    worker.event("42", &data).await;
    assert!(client.event().await.data == data, "a large event arrived changed");
}

#[tokio::test]
async fn answers_to_many_frames_come_back_with_their_refs() {
    let (_node, mut worker) = stage().await;
    for number in 0..300 {
        let user = number % 7;
        let frame = json!({"ref": number.to_string(), "userId": user.to_string(), "event": "e"});
        worker.send(&frame.to_string()).await;
    }
    let mut refs = BTreeSet::new();
    for _ in 0..300 {
        let answer = worker.answer().await;
        assert_eq!(answer["type"], "ack", "{answer}");
        refs.insert(answer["ref"].as_str().unwrap().parse::<u32>().unwrap());
    }
    assert_eq!(refs, (0..300).collect());
}
