//! What an operator or a back end may ask the worker port: who is online, where, on which nodes; and sign-out.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::wait::same;
use crate::support::{BOUND, Client, NodeBuilder, Pair, eventually, http};

/// The sessions of an answer, in an order that can be compared.
fn sessions(answer: &Value) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let sessions = answer["sessions"].as_array().unwrap_or_else(|| panic!("no sessions in {answer}"));
    sessions.iter().map(|session| (text(&session["clientId"]), text(&session["nodeId"]))).collect()
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeSet<(String, String)> {
    pairs.into_iter().map(|(client, node)| (client.to_owned(), node.to_owned())).collect()
}

#[tokio::test]
async fn a_users_sessions_are_told_by_every_node() {
    let pair = Pair::start().await;
    let _on_a = Client::as_user(&pair.a, "42", "tab-a").await;
    let _on_b = Client::as_user(&pair.b, "42", "tab-b").await;
    for node in [&pair.a, &pair.b] {
        let answer = http::get(&node.worker_http("/users/42")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!((&answer["userId"], &answer["online"]), (&json!("42"), &json!(true)));
        assert_eq!(sessions(&answer), pairs([("tab-a", "node-a"), ("tab-b", "node-b")]));
    }
}

#[tokio::test]
async fn a_user_who_is_offline_has_no_sessions() {
    let node = NodeBuilder::local("solo").start().await;
    let answer = http::get(&node.worker_http("/users/nobody")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json(), json!({"userId": "nobody", "online": false, "sessions": []}));
}

#[tokio::test]
async fn a_bad_user_id_is_400() {
    let node = NodeBuilder::local("solo").start().await;
    for id in ["a%20b", "a,b", "%C3%A9", &"x".repeat(129)] {
        let answer = http::get(&node.worker_http(&format!("/users/{id}"))).await;
        assert_eq!(answer.refused(400), "invalid_user_id", "for {id}");
    }
}

#[tokio::test]
async fn ids_are_percent_decoded() {
    let node = NodeBuilder::local("solo").start().await;
    for (encoded, user) in [("auth0%7C7", "auth0|7"), ("a%2Fb%3Fc%25", "a/b?c%"), ("x%2By", "x+y")] {
        let _client = Client::open(&node, &format!("userId={encoded}&clientId=tab-1")).await;
        let answer = http::get(&node.worker_http(&format!("/users/{encoded}"))).await.json();
        assert_eq!(answer["userId"], user);
        assert_eq!(sessions(&answer), pairs([("tab-1", "solo")]));
    }
}

#[tokio::test]
async fn of_several_users_the_online_ones_are_told() {
    let pair = Pair::start().await;
    let _on_a = Client::as_user(&pair.a, "u1", "tab-1").await;
    let _on_b = Client::as_user(&pair.b, "u3", "tab-1").await;
    let body = json!({"userIds": ["u1", "u2", "u3", "u4"]}).to_string();
    for node in [&pair.a, &pair.b] {
        let answer = http::post(&node.worker_http("/users/online"), &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        let online: BTreeSet<&str> =
            answer["online"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(online, BTreeSet::from(["u1", "u3"]));
    }
}

#[tokio::test]
async fn too_many_users_in_one_question_are_refused() {
    let node = NodeBuilder::local("solo").start().await;
    let users = |count: usize| json!({"userIds": vec!["u"; count]}).to_string();
    let url = node.worker_http("/users/online");
    assert_eq!(http::post(&url, &users(1000)).await.status, 200);
    assert_eq!(http::post(&url, &users(1001)).await.refused(400), "too_many_items");
}

#[tokio::test]
async fn signing_a_user_out_closes_all_sessions_on_every_node_with_4010() {
    let mut pair = Pair::start().await;
    let mut on_a = Client::as_user(&pair.a, "42", "tab-a").await;
    let mut on_b = Client::as_user(&pair.b, "42", "tab-b").await;
    let mut other = Client::as_user(&pair.b, "43", "tab-b").await;
    let answer = http::delete(&pair.a.worker_http("/users/42/sessions")).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    assert_eq!(on_a.closed().await.code, 4010);
    assert_eq!(on_b.closed().await.code, 4010);
    pair.db.offline("42").await;
    other.round_trip().await;
}

#[tokio::test]
async fn signing_one_session_out_leaves_the_others() {
    let pair = Pair::start().await;
    let mut on_a = Client::as_user(&pair.a, "42", "tab-a").await;
    let mut on_b = Client::as_user(&pair.b, "42", "tab-b").await;
    let answer = http::delete(&pair.a.worker_http("/users/42/sessions/tab-b")).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    assert_eq!(on_b.closed().await.code, 4010);
    on_a.round_trip().await;
    eventually(BOUND, "the session that is left", async || {
        let answer = http::get(&pair.b.worker_http("/users/42")).await.json();
        same(sessions(&answer), pairs([("tab-a", "node-a")]))
    })
    .await;
}

#[tokio::test]
async fn the_live_nodes_are_listed_with_their_sessions() {
    let mut pair = Pair::with(&[("--node-ttl", "1500ms"), ("--drain-timeout", "500ms")]).await;
    let _clients =
        [Client::as_user(&pair.a, "42", "tab-1").await, Client::as_user(&pair.a, "43", "tab-1").await];
    let url = pair.b.worker_http("/nodes");
    // The one that is asked knows its own; the number of another's comes with its heartbeat.
    let own = http::get(&pair.a.worker_http("/nodes")).await.json();
    let counted = own["nodes"].as_array().unwrap().iter().find(|node| node["nodeId"] == "node-a");
    assert_eq!(counted.map(|node| &node["sessions"]), Some(&json!(2)), "{own}");
    let nodes = eventually(BOUND, "two nodes, with two sessions and none", async || {
        let mut nodes = http::get(&url).await.json()["nodes"].as_array().cloned().unwrap_or_default();
        nodes.sort_by_key(|node| node["nodeId"].to_string());
        let seen: Vec<_> = nodes.iter().map(|node| (&node["nodeId"], &node["sessions"])).collect();
        same(&*seen, &[(&json!("node-a"), &json!(2)), (&json!("node-b"), &json!(0))][..])?;
        Ok(nodes)
    })
    .await;
    for (told, node) in nodes.iter().zip([&pair.a, &pair.b]) {
        let names: BTreeSet<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
        let documented = ["nodeId", "sessions", "version", "started", "clientUrl", "workerUrl"];
        assert_eq!(names, BTreeSet::from(documented), "{told}");
        assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(told["clientUrl"].as_str().unwrap().trim_end_matches('/'), node.client_url);
        assert_eq!(told["workerUrl"].as_str().unwrap().trim_end_matches('/'), node.worker_url);
    }
    pair.a.signal(rustix::process::Signal::TERM);
    pair.a.exit(BOUND).await;
    let nodes = http::get(&url).await.json();
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(1), "{nodes}");
}

#[tokio::test]
async fn a_question_that_cannot_be_read_says_what_is_expected() {
    let node = NodeBuilder::local("solo").start().await;
    let url = node.worker_http("/users/online");
    for body in ["", "[]", "{}", r#"{"userIds":"42"}"#, r#"{"userIds":[42]}"#, r#"{"userIds":[],"more":1}"#] {
        let answer = http::post(&url, body).await;
        assert_eq!(answer.refused(400), "invalid_frame", "{body}");
        assert!(answer.body.contains("userIds"), "{answer:?}");
    }
    assert_eq!(http::post(&url, r#"{"userIds":["a b"]}"#).await.refused(400), "invalid_user_id");
    let answer = http::delete(&node.worker_http("/users/42/sessions/@")).await;
    assert_eq!(answer.refused(400), "invalid_client_id");
}

#[tokio::test]
async fn a_wrong_method_is_405_and_names_the_right_ones() {
    let node = NodeBuilder::local("solo").start().await;
    for (path, allowed) in [
        ("/publish", "POST"),
        ("/nodes", "GET, HEAD"),
        ("/users/42", "GET, HEAD"),
        ("/users/online", "POST, GET, HEAD"),
        ("/users/42/sessions", "DELETE"),
        ("/users/42/sessions/tab-1", "DELETE"),
        ("/healthz", "GET, HEAD"),
        ("/ws", "GET"),
    ] {
        let url = node.worker_http(path);
        let answer = http::request(Method::PATCH, &url, &[], None).await.unwrap();
        assert_eq!(answer.refused(405), "method_not_allowed", "{path}");
        assert_eq!(answer.header("allow"), allowed, "{path}");
    }
    assert_eq!(http::get(&node.worker_http("/users")).await.refused(404), "not_found");
}

#[tokio::test]
async fn head_is_answered_as_get_is_without_the_body() {
    let node = NodeBuilder::local("solo").set("--worker-token", "s3cret").start().await;
    let worker = |path: &str| node.worker_http(path);
    for url in [
        node.client_http("/healthz"),
        node.client_http("/readyz"),
        node.client_http("/"),
        node.client_http("/client.js"),
        worker("/healthz"),
        worker("/readyz"),
        worker("/nodes?token=s3cret"),
        worker("/users/42?token=s3cret"),
    ] {
        let (get, head) = (http::get(&url).await, asked(Method::HEAD, &url).await);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{url}");
        for name in ["content-type", "content-length"] {
            assert_eq!(head.header(name), get.header(name), "{url}");
        }
    }
    assert_eq!(asked(Method::HEAD, &worker("/nodes")).await.status, 401);
    let not_here = [
        (Method::HEAD, node.client_http("/events?userId=42"), "GET"),
        (Method::HEAD, node.client_http("/ws"), "GET"),
        (Method::HEAD, worker("/ws?token=s3cret"), "GET"),
        (Method::HEAD, worker("/publish?token=s3cret"), "POST"),
        (Method::POST, node.client_http("/"), "GET, HEAD"),
        (Method::POST, node.client_http("/client.js"), "GET, HEAD"),
        (Method::POST, node.client_http("/healthz"), "GET, HEAD"),
    ];
    for (method, url, allowed) in not_here {
        let answer = asked(method, &url).await;
        assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{url}");
    }
}

async fn asked(method: Method, url: &str) -> http::Answer {
    http::request(method, url, &[], None).await.unwrap()
}
