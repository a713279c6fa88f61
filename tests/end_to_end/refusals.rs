//! What is refused before the upgrade, with which status, code and body.

use crate::support::pair::Pair;
use crate::support::{BOUND, Client, Node, NodeBuilder, RedisServer, eventually, http};
use rustix::process::Signal;

/// Asks for an upgrade that has to be refused, and gives the error's code.
async fn refused(node: &Node, query: &str, status: u16) -> String {
    http::upgrade(&node.client_ws(query), &[]).await.refused(status)
}

#[tokio::test]
async fn bad_user_ids_are_refused_with_400() {
    let node = NodeBuilder::local("solo").start().await;
    let too_long = "x".repeat(129);
    // Empty, space, comma, the braces, a control character, beyond ASCII, too long.
    for id in ["", "a%20b", "a,b", "a%7Bb", "a%7Db", "a%0Ab", "%C3%A9", &too_long] {
        let code = refused(&node, &format!("userId={id}"), 400).await;
        assert_eq!(code, "invalid_user_id", "for {id:?}");
    }
}

#[tokio::test]
async fn bad_client_ids_are_refused_with_400() {
    let node = NodeBuilder::local("solo").start().await;
    let too_long = "x".repeat(65);
    for id in ["a%20b", "a%40b", "a%2Fb", "a%3Ab", "%C3%A9", &too_long] {
        let code = refused(&node, &format!("userId=42&clientId={id}"), 400).await;
        assert_eq!(code, "invalid_client_id", "for {id:?}");
    }
}

#[tokio::test]
async fn the_longest_client_id_is_accepted() {
    let node = NodeBuilder::local("solo").start().await;
    let id = format!("A-z_0.9{}", "x".repeat(57));
    let client = Client::as_user(&node, "42", &id).await;
    assert_eq!(client.welcomed("clientId"), id);
}

#[tokio::test]
async fn a_bad_since_is_refused_with_400() {
    let node = NodeBuilder::local("solo").start().await;
    for since in ["yesterday", "-1", "1-x", "1-2-3", "99999999999999999999999-0"] {
        let code = refused(&node, &format!("userId=42&since={since}"), 400).await;
        assert_eq!(code, "invalid_since", "for {since:?}");
    }
}

#[tokio::test]
async fn what_a_query_says_without_a_user_is_refused_as_with_one() {
    let jwt = NodeBuilder::local("jwt").set("--auth", "jwt").env("JWT_SECRET", &"s".repeat(32));
    for builder in [NodeBuilder::local("solo"), jwt] {
        let node = builder.start().await;
        for (query, code) in [
            ("clientId=@@", "invalid_client_id"),
            ("clientId=", "invalid_client_id"),
            ("since=zz", "invalid_since"),
        ] {
            assert_eq!(refused(&node, query, 400).await, code, "{query}");
            let answer = http::get(&node.client_http(&format!("/events?{query}"))).await;
            assert_eq!(answer.refused(400), code, "/events?{query}");
        }
    }
}

#[tokio::test]
async fn origins_that_are_not_listed_are_refused_with_403() {
    let origins = "https://app.example.com,https://*.example.org";
    let node = NodeBuilder::local("solo").set("--client-origin", origins).start().await;
    let url = node.client_ws("userId=42");
    for origin in ["https://app.example.com", "https://www.example.org"] {
        let answer = http::upgrade(&url, &[("origin", origin)]).await;
        assert_eq!(answer.status, 101, "{origin}: {answer:?}");
    }
    let foreign = [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com.evil.example",
        "https://evilexample.org",
        "https://www.example.org.evil.example",
        "https://app.example.com:8443",
        "null",
    ];
    for origin in foreign {
        let answer = http::upgrade(&url, &[("origin", origin)]).await;
        assert_eq!(answer.refused(403), "origin_not_allowed", "for {origin}");
    }
}

#[tokio::test]
async fn any_origin_may_connect_in_development() {
    let node = NodeBuilder::local("solo").start().await;
    let headers = [("origin", "https://anything.example")];
    let answer = http::upgrade(&node.client_ws("userId=42"), &headers).await;
    assert_eq!(answer.status, 101, "{answer:?}");
}

#[tokio::test]
async fn unknown_paths_are_404() {
    let node = NodeBuilder::local("solo").start().await;
    http::get(&node.client_http("/nowhere")).await.refused(404);
    http::get(&node.worker_http("/nowhere")).await.refused(404);
    http::upgrade(&node.client_http("/nowhere?userId=42"), &[]).await.refused(404);
}

#[tokio::test]
async fn a_plain_get_of_ws_is_426() {
    let node = NodeBuilder::local("solo").start().await;
    let answer = http::get(&node.client_http("/ws?userId=42")).await;
    answer.refused(426);
    // RFC 9110: a 426 says what to upgrade to.
    assert!(answer.header("upgrade").eq_ignore_ascii_case("websocket"), "{answer:?}");
}

#[tokio::test]
async fn one_session_too_many_is_429_and_a_replacement_does_not_count() {
    let node = NodeBuilder::local("solo").set("--max-sessions-per-user", "2").start().await;
    let mut first = Client::as_user(&node, "42", "tab-1").await;
    let second = Client::as_user(&node, "42", "tab-2").await;
    assert_eq!(refused(&node, "userId=42&clientId=tab-3", 429).await, "too_many_sessions");
    // The same session again, and another user: both are welcome.
    let _again = Client::as_user(&node, "42", "tab-1").await;
    assert_eq!(first.closed().await.code, 4009);
    Client::as_user(&node, "43", "tab-3").await;
    // Room that was made is room.
    second.close().await;
    eventually(BOUND, "room for a session after another one left", async || {
        let answer = http::upgrade(&node.client_ws("userId=42&clientId=tab-3"), &[]).await;
        if answer.status == 101 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn sessions_are_counted_over_all_nodes() {
    let pair = Pair::with(&[("--max-sessions-per-user", "2")]).await;
    let _first = Client::as_user(&pair.a, "42", "tab-1").await;
    let _second = Client::as_user(&pair.b, "42", "tab-2").await;
    for node in [&pair.a, &pair.b] {
        assert_eq!(refused(node, "userId=42&clientId=tab-3", 429).await, "too_many_sessions");
    }
}

#[tokio::test]
async fn one_connection_too_many_is_503() {
    let node = NodeBuilder::local("solo").set("--max-connections", "3").start().await;
    let mut tabs = Vec::new();
    for name in ["tab-1", "tab-2", "tab-3"] {
        tabs.push(Client::open_soon(&node, &format!("userId=42&clientId={name}")).await);
    }
    refused(&node, "userId=42&clientId=tab-4", 503).await;
    // Whoever is in stays in, and room that was made is room.
    tabs[0].round_trip().await;
    tabs.pop().unwrap().close().await;
    Client::open_soon(&node, "userId=42&clientId=tab-4").await;
}

#[tokio::test]
async fn a_draining_node_refuses_with_503() {
    let node = NodeBuilder::local("solo").set("--drain-timeout", "20s").start().await;
    let mut tabs = Vec::new();
    for number in 0..20 {
        tabs.push(Client::as_user(&node, "42", &format!("tab-{number}")).await);
    }
    node.signal(Signal::TERM);
    // The first close says that the drain is on; the last one is many seconds away.
    let answer = eventually(BOUND, "503 from a draining node", async || {
        let answer = http::upgrade(&node.client_ws("userId=43"), &[]).await;
        if answer.status == 503 { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let worker = http::upgrade(&node.worker_url, &[]).await;
    let stream = http::get(&node.client_http("/events?userId=43")).await;
    for answer in [answer, worker, stream] {
        assert_eq!(answer.refused(503), "draining");
        assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_node_that_cannot_reach_redis_refuses_with_503() {
    let redis = RedisServer::stopped();
    let node = NodeBuilder::redis("node-a", &redis).start_listening().await;
    let answer = http::upgrade(&node.client_ws("userId=42"), &[]).await;
    assert_eq!(answer.refused(503), "unavailable");
    assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
}

#[tokio::test]
async fn who_is_turned_away_is_in_the_log_once_of_a_kind_and_each_at_debug() {
    let node = NodeBuilder::local("solo")
        .set("--max-sessions-per-user", "1")
        .set("--max-connections", "8")
        .set("--client-origin", "https://app.example.com")
        .set("--worker-token", "w")
        .set("--log-level", "debug");
    let mut node = node.start().await;
    let _first = Client::as_user(&node, "42", "first").await;
    for client in ["second", "third"] {
        refused(&node, &format!("userId=42&clientId={client}"), 429).await;
    }
    // By hello frame as well, and what is no id does not get into the log.
    let mut late = Client::upgrade(&node, "").await;
    late.send(r#"{"userId":"not an id","clientId":"fourth"}"#).await;
    assert_eq!(late.closed().await.code, 4000);
    http::upgrade(&node.client_ws("userId=42"), &[("origin", "https://evil.example")]).await.refused(403);
    for _ in 0..2 {
        http::get(&node.worker_http("/nodes")).await.refused(401);
    }
    http::get(&node.client_http("/ws")).await.refused(426);
    // A node that is full says whom it has no place for as well.
    let mut held = Vec::new();
    while let Ok(client) = Client::try_upgrade(&node, "").await {
        held.push(client);
    }
    http::get(&node.client_http("/events?userId=43&clientId=fifth")).await.refused(503);
    let log = node.whole_log().await;
    let told = |level: &str, words: &[&str]| {
        let level = format!("\"level\":\"{level}\"");
        let fits = |line: &&String| line.contains(&level) && words.iter().all(|word| line.contains(word));
        let found = log.iter().filter(fits);
        found.inspect(|line| assert_eq!(line.matches("\"message\"").count(), 1, "{line}")).count()
    };
    let (second, third) = (r#""client":"second""#, r#""client":"third""#);
    assert_eq!(told("INFO", &["turned away", "too_many_sessions"]), 1);
    assert_eq!(told("INFO", &["turned away", "too_many_sessions", r#""user":"42""#, second]), 1);
    for client in [second, third] {
        assert_eq!(told("DEBUG", &["turned away", "too_many_sessions", r#""user":"42""#, client]), 1);
    }
    assert_eq!(told("INFO", &["turned away", "invalid_user_id", r#""client":"fourth""#]), 1);
    assert_eq!(told("INFO", &["turned away", "origin_not_allowed", "https://evil.example"]), 1);
    assert_eq!(told("DEBUG", &["turned away", "unavailable", r#""user":"43""#, r#""client":"fifth""#]), 1);
    assert_eq!((told("INFO", &["turned away", "worker"]), told("DEBUG", &["turned away", "worker"])), (1, 2));
    assert_eq!((told("INFO", &["upgrade_required"]), told("DEBUG", &["upgrade_required"])), (0, 1));
    assert!(!log.iter().any(|line| line.contains("not an id")));
}
