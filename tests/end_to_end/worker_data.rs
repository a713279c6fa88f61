//! `data` arrives byte for byte as it was sent, by every way in, in both modes.

use serde_json::json;

use crate::support::pair::Single;
use crate::support::{Client, NodeBuilder, Worker, http};

/// JSON texts that a parse into a tree and a print again would change, or that a careless script would trip over.
fn delicate() -> Vec<String> {
    let texts = [
        "null",
        "true",
        "0",
        "-0",
        "-0.0",
        "1.0",
        "1E+2",
        "1e400",
        "12345678901234567890123",
        "0.1000000000000000055511151231257827",
        r#""""#,
        r#""\u0041\u00e9\ud83d\ude00""#,
        r#""\u0000\b\f\n\r\t\/\\\"""#,
        r#""\ud800""#,
        "\"\u{e9}\u{1f600}\u{2028}\u{7f}\"",
        r#"{"b":1,"a":2,"b":3}"#,
        r#"{ "z" : [ 1 , 2 ,3],  "a":{ } }"#,
        "{\"a\":\t1,\n\r\n \"b\":2}",
        "[]",
        "{}",
        "[[],{},[{}]]",
        r#"{"__proto__":{"x":1},"":0}"#,
        r#"{"id":"1-1","type":"bye","prev":"0","@last":"9-9"}"#,
        r#"{"%s":"%d","$1":"\\0","{user:42}":"${x}"}"#,
    ];
    let mut texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    texts.push(format!("{}{}", "[".repeat(100), "]".repeat(100)));
    texts.push(format!("[{}0]", "0,".repeat(9_000)));
    texts
}

async fn check(client: &mut Client, sent: &[String]) {
    for text in sent {
        let event = client.event().await;
        assert_eq!(&event.data, text);
    }
}

#[tokio::test]
async fn through_a_workers_frame_in_memory() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    for text in delicate() {
        worker.event("42", &text).await;
    }
    check(&mut client, &delicate()).await;
    let mut replayed = Client::open(&node, "userId=42&clientId=tab-2&since=0").await;
    check(&mut replayed, &delicate()).await;
}

#[tokio::test]
async fn through_a_workers_frame_and_redis() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let mut worker = Worker::open(&stage.a).await;
    for text in delicate() {
        worker.event("42", &text).await;
    }
    check(&mut client, &delicate()).await;
    let logged = stage.db.stream("log:{user:42}").await;
    let logged: Vec<&str> = logged.iter().map(|entry| entry.get("data")).collect();
    assert_eq!(logged, delicate());
    let mut replayed = Client::open(&stage.a, "userId=42&clientId=tab-2&since=0").await;
    check(&mut replayed, &delicate()).await;
}

#[tokio::test]
async fn through_post_publish() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let url = node.worker_http("/publish");
    for text in delicate() {
        let body = format!(r#"{{"userId":"42","event":"e","data":{text}}}"#);
        let answer = http::post(&url, &body).await;
        assert_eq!(answer.status, 200, "{text}: {answer:?}");
    }
    check(&mut client, &delicate()).await;
}

#[tokio::test]
async fn through_the_ingress_stream() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    for text in delicate() {
        stage.db.xadd("events", &[("user", "42"), ("event", "e"), ("data", &text)]).await;
    }
    check(&mut client, &delicate()).await;
}

#[tokio::test]
async fn white_space_and_field_order_around_the_data_do_not_matter() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    worker
        .ask("\n{ \"data\" :\t{ \"a\" : 1.50 } , \"event\":\"e\",\"userId\" : \"42\", \"ref\":\"1\" } ")
        .await;
    assert_eq!(client.event().await.data, r#"{ "a" : 1.50 }"#);
}

#[tokio::test]
async fn escapes_in_the_other_fields_are_understood() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    let ack = worker.ask(r#"{"ref":"\u0037","\u0075serId":"\u00342","event":"pro\u0067ress"}"#).await;
    assert_eq!((&ack["type"], &ack["ref"]), (&json!("ack"), &json!("7")), "{ack}");
    assert_eq!(client.event().await.event, "progress");
}

#[tokio::test]
async fn missing_data_is_null() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    Worker::open(&stage.a).await.publish(json!({"userId": "42", "event": "e"})).await;
    stage.db.xadd("events", &[("user", "42"), ("event", "e")]).await;
    assert_eq!(client.event().await.data, "null");
    assert_eq!(client.event().await.data, "null");
}
