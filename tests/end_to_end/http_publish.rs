//! `POST /publish`: one object, an array, lines of JSON.

use serde_json::{Value, json};

use crate::support::client::data;
use crate::support::pair::Single;
use crate::support::{BOUND, Client, NodeBuilder, Pair, RawClient, eventually, http, parse_id};

#[tokio::test]
async fn one_object_gets_200_and_its_ack() {
    let pair = Pair::start().await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let body = json!({"ref": "7", "userId": "42", "event": "progress", "data": {"percent": 40}});
    let answer = http::post(&pair.b.worker_http("/publish"), &body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let ack = answer.json();
    assert_eq!((&ack["type"], &ack["ref"], &ack["nodes"]), (&json!("ack"), &json!("7"), &json!(["node-a"])));
    let event = client.event().await;
    assert_eq!(event.id.as_deref(), ack["id"].as_str());
    assert_eq!(event.data, r#"{"percent":40}"#);
}

#[tokio::test]
async fn who_says_no_more_after_a_request_hears_what_came_of_it() {
    let single = Single::with(&[("--hello-timeout", "10m")]).await;
    let body = json!({"userId": "42", "event": "e"}).to_string();
    let length = body.len();
    for (head, body) in [
        ("GET /users/42 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), ""),
        (format!("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"), body.as_str()),
    ] {
        let mut caller = RawClient::connect(single.a.worker_address()).await;
        assert!(caller.write(format!("{head}{body}").as_bytes()).await);
        caller.say_no_more().await;
        // And the connection ends: nothing more can come on it.
        let answer = caller.ended("the answer and the end").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{head}: {answer}");
    }
}

#[tokio::test]
async fn without_a_ref_the_answer_is_an_ack_all_the_same() {
    let node = NodeBuilder::local("solo").start().await;
    let body = json!({"userId": "42", "event": "e"}).to_string();
    let ack = http::post(&node.worker_http("/publish"), &body).await.json();
    assert_eq!(ack["type"], "ack", "{ack}");
    assert_eq!(ack.get("ref"), None, "{ack}");
    parse_id(ack["id"].as_str().unwrap());
}

#[tokio::test]
async fn a_bad_object_gets_400_and_the_same_codes_as_a_frame() {
    let node = NodeBuilder::local("solo").start().await;
    let cases = [
        ("publish!".to_owned(), "invalid_frame"),
        (String::new(), "invalid_frame"),
        (json!({"userId": "42", "event": "e", "bogus": 1}).to_string(), "invalid_frame"),
        (json!({"userId": 42, "event": "e"}).to_string(), "invalid_frame"),
        (json!({"userId": "a b", "event": "e"}).to_string(), "invalid_user_id"),
        (json!({"userId": "42", "clientId": "a/b", "event": "e"}).to_string(), "invalid_client_id"),
        (json!({"userId": "42", "event": "a b"}).to_string(), "invalid_event"),
        (json!({"userId": "42", "event": "e", "key": ""}).to_string(), "invalid_key"),
        (json!({"event": "e"}).to_string(), "invalid_target"),
    ];
    for (body, code) in cases {
        let answer = http::post(&node.worker_http("/publish"), &body).await;
        assert_eq!(answer.refused(400), code, "for {body}");
    }
}

#[tokio::test]
async fn an_array_that_is_broken_is_told_where() {
    let node = NodeBuilder::local("solo").start().await;
    for (body, column) in [(r#"[{"userId":"42","event":"e"}"#, 28), ("[1,", 3), ("[{} {}]", 5)] {
        let answer = http::post(&node.worker_http("/publish"), body).await;
        assert_eq!(answer.refused(400), "invalid_frame", "for {body}");
        assert!(answer.body.contains(&format!("not JSON, near line 1 column {column}")), "{}", answer.body);
    }
}

#[tokio::test]
async fn an_object_that_is_too_large_gets_413() {
    let node = NodeBuilder::local("solo").set("--max-event", "1KiB").start().await;
    let body = json!({"userId": "42", "event": "e", "data": "x".repeat(4096)}).to_string();
    let answer = http::post(&node.worker_http("/publish"), &body).await;
    assert_eq!(answer.refused(413), "too_large");
}

#[tokio::test]
async fn while_redis_is_away_it_is_503_unavailable() {
    let mut stage = Single::start().await;
    let url = stage.a.worker_http("/publish");
    let body = json!({"userId": "42", "event": "e"}).to_string();
    assert_eq!(http::post(&url, &body).await.status, 200);
    stage.redis.kill();
    eventually(BOUND, "503 from POST /publish", async || {
        let answer = http::post(&url, &body).await;
        // Nothing is ever accepted that no Redis has.
        if answer.status == 200 {
            panic!("accepted without Redis: {answer:?}");
        }
        if answer.status == 503 { Ok(answer.refused(503)) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert_eq!(http::post(&url, &body).await.refused(503), "unavailable");
}

/// Three items of which the second is bad, and what has to come back for them.
fn items() -> [Value; 3] {
    [
        json!({"ref": "a", "userId": "42", "event": "e", "data": 1}),
        json!({"ref": "b", "userId": "42", "event": "not a name", "data": 2}),
        json!({"userId": "42", "event": "e", "data": 3}),
    ]
}

fn check_answers(answers: &[Value]) {
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert_eq!((&answers[0]["type"], &answers[0]["ref"]), (&json!("ack"), &json!("a")));
    assert_eq!((&answers[1]["type"], &answers[1]["ref"]), (&json!("error"), &json!("b")));
    assert_eq!(answers[1]["code"], "invalid_event");
    assert_eq!(answers[2]["type"], "ack");
    let id = |position: usize| parse_id(answers[position]["id"].as_str().expect("an id"));
    assert!(id(0) < id(2), "{answers:?}");
}

#[tokio::test]
async fn an_array_gets_an_array_and_one_bad_item_does_not_stop_the_others() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let body = json!(items()).to_string();
    let answer = http::post(&node.worker_http("/publish"), &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    check_answers(answer.json().as_array().expect("an array"));
    assert_eq!(data(&client.events(2).await), ["1", "3"]);
}

#[tokio::test]
async fn lines_get_lines() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let lines: Vec<String> = items().iter().map(Value::to_string).collect();
    let url = node.worker_http("/publish");
    // With and without a line end at the end: both are lines.
    for end in ["", "\n"] {
        let body = format!("{}{end}", lines.join("\n"));
        let answer = http::post_as(&url, "application/x-ndjson", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answers = answer.body.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        check_answers(&answers.collect::<Vec<Value>>());
        assert_eq!(data(&client.events(2).await), ["1", "3"]);
    }
    for none in ["", "\n \n"] {
        assert_eq!(http::post_as(&url, "application/x-ndjson", none).await.body, "", "no lines");
    }
}

#[tokio::test]
async fn whoever_sends_all_of_a_body_that_is_too_large_gets_the_answer() {
    let node = NodeBuilder::local("solo").start().await;
    for _ in 0..4 {
        let answer = http::post(&node.worker_http("/publish"), &" ".repeat(40 << 20)).await;
        assert_eq!(answer.refused(413), "too_large");
    }
}

#[tokio::test]
async fn a_line_that_is_no_json_or_no_text_does_not_stop_the_others() {
    let node = NodeBuilder::local("solo").start().await;
    let lines = [items()[0].to_string().as_bytes(), b"not json", b"\xff", items()[2].to_string().as_bytes()]
        .join(&b"\n"[..]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(node.worker_http("/publish")).header("content-type", "application/x-ndjson");
    let answer = request.body(lines).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{answer:?}");
    let types: Vec<Value> = answer
        .text()
        .await
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["type"].clone())
        .collect();
    assert_eq!(types, ["ack", "error", "error", "ack"]);
}

#[tokio::test]
async fn a_thousand_items_are_published_in_order_and_one_more_is_too_many() {
    let pair = Pair::with(&[("--log-length", "2000")]).await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let items: Vec<Value> =
        (0..1000).map(|number| json!({"userId": "42", "event": "e", "data": number})).collect();
    let url = pair.b.worker_http("/publish");
    let answers = http::post(&url, &json!(items).to_string()).await.json();
    assert_eq!(answers.as_array().map(Vec::len), Some(1000));
    let received = data(&client.events(1000).await);
    assert_eq!(received, (0..1000).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    let too_many = json!(vec![items[0].clone(); 1001]).to_string();
    assert_eq!(http::post(&url, &too_many).await.refused(400), "too_many_items");
}
