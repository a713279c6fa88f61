//! Which web pages may read HTTP answers: those on the list that upgrades follow too.

use reqwest::Method;

use crate::support::http::{self, Answer};
use crate::support::{Node, NodeBuilder, RedisServer};

const APP: &str = "https://app.example.com";
const EVIL: &str = "https://evil.example";

async fn listed() -> Node {
    NodeBuilder::local("solo")
        .set("--client-origin", "https://app.example.com,https://*.example.org")
        .start()
        .await
}

async fn ask(method: Method, url: &str, headers: &[(&str, &str)]) -> Answer {
    http::request(method, url, headers, None).await.unwrap()
}

#[tokio::test]
async fn a_listed_origin_may_read_and_bring_cookies_another_may_not() {
    let node = listed().await;
    for url in [
        node.client_http("/healthz"),
        node.client_http("/readyz"),
        node.client_http("/nowhere"),
        node.worker_http("/healthz"),
        node.worker_http("/nodes"),
    ] {
        for origin in [APP, "https://a.example.org"] {
            let answer = http::get_with(&url, &[("origin", origin)]).await;
            assert_eq!(answer.header("access-control-allow-origin"), origin, "{url}: {answer:?}");
            assert_eq!(answer.header("access-control-allow-credentials"), "true", "{url}: {answer:?}");
            assert!(answer.header("vary").eq_ignore_ascii_case("origin"), "{url}: {answer:?}");
        }
        for origin in [EVIL, "null", "https://app.example.com.evil.example"] {
            let answer = http::get_with(&url, &[("origin", origin)]).await;
            assert_eq!(answer.header("access-control-allow-origin"), "", "{url}: {answer:?}");
            assert!(
                answer.header("vary").eq_ignore_ascii_case("origin"),
                "a cache must tell them apart: {answer:?}"
            );
        }
        let plain = http::get(&url).await;
        assert_eq!(plain.header("access-control-allow-origin"), "", "{url}: {plain:?}");
        assert!(plain.header("vary").eq_ignore_ascii_case("origin"), "{url}: {plain:?}");
    }
}

#[tokio::test]
async fn a_page_that_may_read_learns_how_long_to_stay_away() {
    let redis = RedisServer::stopped();
    let node = NodeBuilder::redis("node-a", &redis).set("--client-origin", APP).start_listening().await;
    let url = node.client_http("/events?userId=42");
    let answer = http::get_with(&url, &[("origin", APP)]).await;
    assert_eq!(answer.refused(503), "unavailable");
    assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
    assert_eq!(answer.header("access-control-expose-headers"), "retry-after", "{answer:?}");
    let answer = http::get_with(&url, &[("origin", EVIL)]).await;
    assert_eq!(answer.header("access-control-expose-headers"), "", "{answer:?}");
}

#[tokio::test]
async fn under_a_star_every_page_may_read_but_without_cookies() {
    let node = NodeBuilder::local("solo").start().await;
    let answer = http::get_with(&node.client_http("/healthz"), &[("origin", EVIL)]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("access-control-allow-credentials"), "");
}

#[tokio::test]
async fn without_a_list_only_pages_of_this_machine_reach_the_worker_port() {
    let node = NodeBuilder::local("solo").start().await;
    let (url, body) = (node.worker_http("/publish"), Some(r#"{"userId":"42","event":"e"}"#));
    let blind = |origin| [("origin", origin), ("content-type", "text/plain")];
    let answer = http::request(Method::POST, &url, &blind(EVIL), body).await.unwrap();
    assert_eq!(answer.refused(403), "origin_not_allowed");
    let console = node.client_http("");
    let answer = http::request(Method::POST, &url, &blind(&console), body).await.unwrap();
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, &*console));
    // Who asks for any gets it.
    let open = NodeBuilder::local("open").set("--client-origin", "*").start().await;
    let answer =
        http::request(Method::POST, &open.worker_http("/publish"), &blind(EVIL), body).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_list() {
    let node = listed().await;
    for url in [node.client_http("/healthz"), node.worker_http("/publish")] {
        let asks = |origin| [("origin", origin), ("access-control-request-method", "POST")];
        let answer = ask(Method::OPTIONS, &url, &asks(APP)).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, APP), "{answer:?}");
        assert!(answer.header("access-control-allow-methods").contains("POST"), "{answer:?}");
        assert!(answer.header("access-control-allow-headers").contains("authorization"), "{answer:?}");
        let answer = ask(Method::OPTIONS, &url, &asks(EVIL)).await;
        assert_eq!(answer.refused(403), "origin_not_allowed");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
}

#[tokio::test]
async fn a_page_that_is_not_listed_cannot_publish_not_even_blindly() {
    let node = listed().await;
    let body = Some(r#"{"userId":"42","event":"e"}"#);
    // What a page may send without a preflight.
    let blind = |origin| [("origin", origin), ("content-type", "text/plain")];
    let url = node.worker_http("/publish");
    let answer = http::request(Method::POST, &url, &blind(EVIL), body).await.unwrap();
    assert_eq!(answer.refused(403), "origin_not_allowed");
    let answer = http::request(Method::POST, &url, &blind(APP), body).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}
