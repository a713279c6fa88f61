//! The worker port behind a bearer token.

use serde_json::json;

use crate::support::{Client, Node, NodeBuilder, Worker, http};

async fn locked() -> Node {
    // Two tokens are valid during a rotation.
    NodeBuilder::local("solo").set("--worker-token", "s3cret-new,s3cret-old").start().await
}

#[tokio::test]
async fn without_a_good_token_the_upgrade_is_401() {
    let node = locked().await;
    let url = format!("{}/ws", node.worker_url);
    let attempts = [
        (url.clone(), None),
        (url.clone(), Some("Bearer wrong")),
        (url.clone(), Some("Bearer ")),
        (url.clone(), Some("Bearer s3cret-new,s3cret-old")),
        (url.clone(), Some("Basic s3cret-new")),
        (format!("{url}?token=wrong"), None),
        (format!("{url}?token="), None),
        (format!("{url}?token=wrong&token=s3cret-new"), None),
        (format!("{url}?token=s3cret-new&workerId=w&token=s3cret-new"), None),
    ];
    for (url, authorization) in attempts {
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
        let answer = http::upgrade(&url, &headers).await;
        assert_eq!(answer.refused(401), "unauthorized", "{url} with {authorization:?}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

#[tokio::test]
async fn each_of_the_tokens_opens_by_header_and_by_query() {
    let node = locked().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    for token in ["s3cret-new", "s3cret-old"] {
        let url = format!("{}/", node.worker_url);
        let mut by_header = Worker::open_with(&url, Some(token)).await.expect("opened by header");
        let mut by_query = Worker::open_with(&format!("{url}?workerId=w&token={token}"), None)
            .await
            .expect("opened by ?token=");
        for worker in [&mut by_header, &mut by_query] {
            let id = worker.event("42", "1").await;
            assert_eq!(client.event().await.id, Some(id));
        }
    }
}

#[tokio::test]
async fn post_publish_asks_for_the_token_too() {
    let node = locked().await;
    let url = node.worker_http("/publish");
    let body = json!({"userId": "42", "event": "e"}).to_string();
    assert_eq!(http::post(&url, &body).await.refused(401), "unauthorized");
    assert_eq!(http::post(&format!("{url}?token=s3cret-old"), &body).await.status, 200);
    let headers = [("authorization", "Bearer s3cret-new"), ("content-type", "application/json")];
    let answer = http::request(reqwest::Method::POST, &url, &headers, Some(&body)).await;
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn no_token_appears_in_the_log() {
    let mut node = NodeBuilder::local("solo")
        .set("--worker-token", "s3cret-new")
        .set("--log-level", "trace")
        .start()
        .await;
    let url = format!("{}/?token=s3cret-new", node.worker_url);
    Worker::open_with(&url, None).await.unwrap().event("42", "1").await;
    let url = format!("{}/?token=guessed-t0ken", node.worker_url);
    assert!(Worker::open_with(&url, None).await.is_err());
    for line in node.whole_log().await {
        assert!(!line.contains("s3cret-new") && !line.contains("guessed-t0ken"), "in the log: {line}");
    }
}
