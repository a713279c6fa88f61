//! The client port is public, the worker port is not: nothing of the one can be reached through the other.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::tokens::{Issuer, SECRET};
use crate::support::{BOUND, Client, Node, NodeBuilder, Worker, http, within};

const TOKEN: &str = "worker-token-1";

async fn node() -> Node {
    NodeBuilder::local("solo").set("--worker-token", TOKEN).start().await
}

/// Every request of the worker port.
const REQUESTS: [(Method, &str, &str); 9] = [
    (Method::POST, "/publish", r#"{"userId":"42","event":"e","data":1}"#),
    (Method::POST, "/publish", r#"[{"userId":"42","event":"e","data":1}]"#),
    (Method::GET, "/users/42", ""),
    (Method::POST, "/users/online", r#"{"userIds":["42"]}"#),
    (Method::DELETE, "/users/42/sessions", ""),
    (Method::DELETE, "/users/42/sessions/tab-1", ""),
    (Method::GET, "/nodes", ""),
    (Method::GET, "/metrics", ""),
    (Method::PUT, "/publish", ""),
];

/// The same path for a careless reader.
fn spellings(path: &str) -> Vec<String> {
    let encoded = format!("/%{:02x}{}", path.as_bytes()[1], &path[2..]);
    let disguises = ["/ws", "/client.js/..", "/healthz/..", "/.", "/ws/%2e%2e"];
    let disguised = disguises.iter().map(|before| format!("{before}{path}"));
    [path.to_owned(), format!("/{path}"), format!("{path}/"), encoded, path.to_uppercase()]
        .into_iter()
        .chain(disguised)
        .collect()
}

/// Sends a request as it is, where a well-behaved client would tidy it up first, and gives the answer's status.
async fn raw(node: &Node, method: &Method, target: &str, body: &str) -> u16 {
    let mut stream = TcpStream::connect(node.client_address()).await.unwrap();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(BOUND, "an answer", stream.read_to_end(&mut answer)).await.ok();
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("{method} {target} was answered {answer:?}"))
}

#[tokio::test]
async fn no_request_of_the_worker_port_is_served_on_the_client_port() {
    let node = node().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    for (method, path, body) in &REQUESTS {
        for target in spellings(path) {
            let status = raw(&node, method, &target, body).await;
            assert!([400, 404, 405].contains(&status), "{method} {target}: {status}");
        }
        // A request that names the other port has still come to this one.
        let absolute = format!("{}{path}", node.worker_url.replacen("ws://", "http://", 1));
        let status = raw(&node, method, &absolute, body).await;
        assert!([400, 404, 405].contains(&status), "{method} {absolute}: {status}");
    }
    // Nothing was published, and nobody was signed out.
    let mut worker = Worker::open_with(&format!("{}/", node.worker_url), Some(TOKEN)).await.unwrap();
    let id = worker.event("42", "\"the first\"").await;
    assert_eq!(client.event().await.id, Some(id));
    client.round_trip().await;
}

/// Methods that anyone might try.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];

#[tokio::test]
async fn every_path_that_the_worker_port_describes_is_closed_on_the_client_port() {
    let node = node().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let bearer = format!("Bearer {TOKEN}");
    let described = http::get_with(&node.worker_http("/openapi.json"), &[("authorization", &bearer)]).await;
    let described = described.json();
    let paths: Vec<&String> = described["paths"].as_object().unwrap().keys().collect();
    assert!(paths.len() > 10, "{paths:?}");
    for path in paths.into_iter().filter(|path| !["/healthz", "/readyz", "/ws"].contains(&path.as_str())) {
        let path = path.replace("{id}", "42").replace("{clientId}", "tab-1");
        for method in &METHODS {
            let status = raw(&node, method, &path, r#"{"userId":"42","event":"e"}"#).await;
            assert!([404, 405].contains(&status), "{method} {path}: {status}");
        }
        let upgrade = http::upgrade(&node.client_http(&path), &[("authorization", &bearer)]).await;
        assert_eq!(upgrade.status, 404, "{path}: {upgrade:?}");
    }
    client.round_trip().await;
}

#[tokio::test]
async fn every_path_of_the_client_port_is_closed_on_the_worker_port() {
    let node = node().await;
    let bearer = format!("Bearer {TOKEN}");
    let files = ["/client.js", "/client.d.ts", "/console.css", "/console.js", "/console-session.js"];
    for path in files.into_iter().chain(["/", "/console-convert.js", "/events", "/events?userId=42"]) {
        for method in METHODS {
            let headers = [("authorization", bearer.as_str())];
            let answer =
                http::request(method.clone(), &node.worker_http(path), &headers, None).await.unwrap();
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
        }
    }
    // Without the token not even that is told.
    assert_eq!(http::get(&node.worker_http("/client.js")).await.refused(401), "unauthorized");
}

#[tokio::test]
async fn no_frame_of_a_worker_is_taken_from_a_client() {
    let node = node().await;
    let mut other = Client::as_user(&node, "43", "tab-1").await;
    let mut client = Client::open(&node, &format!("userId=42&clientId=tab-1&token={TOKEN}&workerId=w")).await;
    let frames = [
        json!({"ref": "1", "userId": "43", "event": "e", "data": 1}),
        json!({"userId": "43", "event": "e"}),
        json!({"ref": "1", "userIds": ["42", "43"], "event": "e"}),
        json!({"ref": "1", "broadcast": true, "event": "e"}),
        json!({"type": "event", "userId": "43", "event": "e", "data": 1}),
        json!({"type": "message", "userId": "43", "event": "e", "data": 1}),
        json!({"type": "message", "event": "e", "clientId": "tab-1"}),
        json!({"type": "publish", "userId": "43", "event": "e"}),
    ];
    for frame in frames {
        client.send(&frame.to_string()).await;
        assert_eq!(client.frame("a refusal").await["code"], "invalid_frame", "{frame}");
    }
    // As a hello a worker's frame is no better.
    let mut stranger = Client::upgrade(&node, "").await;
    stranger.send(&json!({"ref": "1", "userId": "43", "event": "e"}).to_string()).await;
    assert_eq!(stranger.closed().await.code, 4000);
    let mut worker = Worker::open_with(&format!("{}/", node.worker_url), Some(TOKEN)).await.unwrap();
    let id = worker.event("43", "\"the first\"").await;
    assert_eq!(other.event().await.id, Some(id));
}

#[tokio::test]
async fn a_worker_that_names_a_user_and_a_client_is_no_session_of_theirs() {
    let node = node().await;
    let url = format!("{}/?userId=42&clientId=tab-1&since=0", node.worker_url);
    let mut worker = Worker::open_with(&url, Some(TOKEN)).await.unwrap();
    for frame in [json!({"type": "ping"}), json!({"userId": "42", "clientId": "tab-1", "since": "0"})] {
        assert_eq!(worker.ask(&frame.to_string()).await["type"], "error", "{frame}");
    }
    let authorization = format!("Bearer {TOKEN}");
    let headers = [("authorization", authorization.as_str())];
    let answer = http::get_with(&node.worker_http("/users/42"), &headers).await;
    assert_eq!(answer.json()["online"], false);
}

#[tokio::test]
async fn the_keys_of_one_port_do_not_open_the_other() {
    let node = NodeBuilder::local("solo")
        .with(&[("--auth", "jwt"), ("--worker-token", TOKEN)])
        .env("JWT_SECRET", SECRET)
        .start()
        .await;
    let token = Issuer::hs256().token_of("42");
    let with = |token: &str| format!("Bearer {token}");
    let as_client = http::upgrade(&node.client_ws("userId=42"), &[("authorization", &with(TOKEN))]).await;
    assert_eq!(as_client.refused(401), "unauthorized");
    let as_worker =
        http::upgrade(&format!("{}/", node.worker_url), &[("authorization", &with(&token))]).await;
    assert_eq!(as_worker.refused(401), "unauthorized");
    assert_eq!(
        http::get(&node.worker_http(&format!("/nodes?token={token}"))).await.refused(401),
        "unauthorized"
    );
}
