//! `--auth api`: what the API server is asked, and what its answers come to.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::api::{ApiServer, Asked, Reply};
use crate::support::tls::tls_proxy;
use crate::support::tokens::{ending_soon, unix};
use crate::support::{BOUND, Client, Node, NodeBuilder, eventually, http};

/// Knows one user, 42, by its cookie.
fn knows_42(asked: &Asked) -> Reply {
    if asked.header("cookie").contains("session=of-42") {
        Reply::ok(json!({"userId": "42"}))
    } else {
        Reply::status(401)
    }
}

const COOKIE: (&str, &str) = ("cookie", "theme=dark; session=of-42");

async fn node(api: &ApiServer) -> Node {
    NodeBuilder::local("solo").with(&[("--auth", "api"), ("--api-server-url", &api.url)]).start().await
}

async fn upgrade(node: &Node, query: &str, headers: &[(&str, &str)]) -> http::Answer {
    http::upgrade(&node.client_ws(query), headers).await
}

/// The close code after a hello.
async fn closed_after(node: &Node, hello: &Value) -> u16 {
    let mut client = Client::try_upgrade_with(node, "", &[COOKIE]).await.unwrap();
    client.send(&hello.to_string()).await;
    let error = client.frame("the refusal").await;
    assert_eq!(error["type"], "error", "{error}");
    client.closed().await.code
}

#[tokio::test]
async fn it_is_asked_with_what_the_client_brought() {
    let api = ApiServer::start(knows_42).await;
    let node = node(&api).await;
    let headers = [
        COOKIE,
        ("authorization", "Custom abc"),
        ("origin", "https://app.example.com"),
        ("x-forwarded-for", "9.9.9.9"),
        ("x-other", "stays here"),
    ];
    let client = Client::open_with(&node, "userId=42&clientId=tab-1", &headers).await;
    assert_eq!(client.welcomed("userId"), "42");
    let asked = api.last();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/socket/auth"));
    for (name, value) in &headers[..3] {
        assert_eq!(asked.header(name), *value);
    }
    assert_eq!(asked.header("content-type"), "application/json");
    assert_eq!((asked.header("x-forwarded-for"), asked.header("x-other")), ("", ""));
    assert_eq!(asked.json(), json!({"userId": "42", "clientId": "tab-1", "ip": "127.0.0.1"}));
}

#[tokio::test]
async fn several_cookie_headers_become_one_and_the_path_can_be_set() {
    let api = ApiServer::start(knows_42).await;
    let base = format!("{}/v1/", api.url);
    let settings = [("--auth", "api"), ("--api-server-url", base.as_str()), ("--auth-path", "/who")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let cookies = [("cookie", "a=1"), ("cookie", "session=of-42")];
    Client::open_with(&node, "userId=42", &cookies).await;
    let asked = api.last();
    assert_eq!(asked.path, "/v1/who");
    assert_eq!(asked.header("cookie"), "a=1; session=of-42");
}

#[tokio::test]
async fn the_answer_names_the_user_and_no_other_opens() {
    let api = ApiServer::start(knows_42).await;
    let node = node(&api).await;
    assert_eq!(upgrade(&node, "userId=43", &[COOKIE]).await.refused(401), "unauthorized");
    assert_eq!(upgrade(&node, "userId=42", &[]).await.refused(401), "unauthorized");
    // Whoever names no user is whom the API server says.
    let client = Client::open_with(&node, "clientId=tab-1", &[COOKIE]).await;
    assert_eq!((client.welcomed("userId"), client.welcomed("clientId")), ("42", "tab-1"));
    assert_eq!(api.last().json(), json!({"userId": null, "clientId": "tab-1", "ip": "127.0.0.1"}));
    for hello in [json!({}), json!({"userId": "42"})] {
        let mut client = Client::try_upgrade_with(&node, "", &[COOKIE]).await.unwrap();
        client.send(&hello.to_string()).await;
        client.read_welcome().await;
        assert_eq!(client.welcomed("userId"), "42");
    }
    assert_eq!(closed_after(&node, &json!({"userId": "43"})).await, 4001);
    // The id is minted once: the client is told what the API server was told.
    let client = Client::open_with(&node, "userId=42", &[COOKIE]).await;
    assert_eq!(api.last().json()["clientId"], client.welcome["clientId"]);
}

#[tokio::test]
async fn bad_names_never_get_as_far_as_the_api_server() {
    let api = ApiServer::start(|_| Reply::ok(json!({"userId": "42"}))).await;
    let node = node(&api).await;
    for (query, code) in [
        ("userId=a%20b", "invalid_user_id"),
        ("userId=42&clientId=a%2Fb", "invalid_client_id"),
        ("userId=42&since=x", "invalid_since"),
    ] {
        assert_eq!(upgrade(&node, query, &[]).await.refused(400), code);
    }
    assert_eq!(api.asked().len(), 0);
}

#[tokio::test]
async fn a_token_is_passed_on_where_the_client_has_no_authorization_of_its_own() {
    let api = ApiServer::start(|_| Reply::ok(json!({"userId": "42"}))).await;
    let node = node(&api).await;
    let authorization = || api.last().header("authorization").to_owned();
    let protocol = [("sec-websocket-protocol", "switchboard, token.abc.def")];
    Client::open_with(&node, "", &protocol).await;
    assert_eq!(authorization(), "Bearer abc.def");
    Client::open_with(&node, "token=abc", &[]).await;
    assert_eq!(authorization(), "Bearer abc");
    Client::open_with(&node, "token=abc", &[("authorization", "Basic eDp5")]).await;
    assert_eq!(authorization(), "Basic eDp5");
    let mut client = Client::upgrade(&node, "").await;
    client.send(r#"{"userId":"42","token":"of-the-hello"}"#).await;
    client.read_welcome().await;
    assert_eq!(authorization(), "Bearer of-the-hello");
    let broken = http::upgrade(&node.client_ws("token=a%0Ab"), &[]).await;
    assert_eq!(broken.refused(401), "unauthorized");
}

#[tokio::test]
async fn refusals_are_401_and_4001() {
    let api = ApiServer::start(knows_42).await;
    let node = node(&api).await;
    for status in [401, 403] {
        api.decide(move |_| Reply::status(status));
        assert_eq!(upgrade(&node, "userId=42", &[COOKIE]).await.refused(401), "unauthorized", "{status}");
        assert_eq!(closed_after(&node, &json!({"userId": "42"})).await, 4001, "{status}");
    }
}

#[tokio::test]
async fn anything_else_is_503_and_1013() {
    let api = ApiServer::start(knows_42).await;
    let node = node(&api).await;
    let answers = [
        (200, "".to_owned()),
        (200, "42".to_owned()),
        (200, json!({}).to_string()),
        (200, json!({"userId": 42}).to_string()),
        (200, json!({"userId": "a b"}).to_string()),
        (200, json!({"userId": "42", "expiresAt": "tomorrow"}).to_string()),
        (200, format!("{{\"userId\":\"42\",\"more\":\"{}\"}}", "x".repeat(1 << 20))),
        (204, "".to_owned()),
        (302, "".to_owned()),
        (404, "".to_owned()),
        (429, "".to_owned()),
        (500, json!({"userId": "42"}).to_string()),
    ];
    for (status, body) in answers {
        let shown = body.chars().take(60).collect::<String>();
        api.decide(move |_| Reply::Status(status, body.clone()));
        let answer = upgrade(&node, "userId=42", &[COOKIE]).await;
        assert_eq!(answer.refused(503), "unavailable", "{status} {shown}");
        assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
        assert_eq!(closed_after(&node, &json!({"userId": "42"})).await, 1013, "{status} {shown}");
    }
}

#[tokio::test]
async fn five_seconds_of_silence_are_503_and_1013() {
    let api = ApiServer::start(|_| Reply::Silence).await;
    let node = node(&api).await;
    let start = Instant::now();
    let hello = json!({"userId": "42"});
    let (answer, code) = tokio::join!(upgrade(&node, "userId=42", &[COOKIE]), closed_after(&node, &hello));
    assert_eq!((answer.refused(503).as_str(), code), ("unavailable", 1013));
    assert!(start.elapsed() >= Duration::from_secs(5), "it had its time: {:?}", start.elapsed());
}

#[tokio::test]
async fn what_it_grants_ends_when_it_says() {
    let api = ApiServer::start(knows_42).await;
    let node = node(&api).await;
    let (mut client, end) = ending_soon(async |end| {
        api.decide(move |_| Reply::ok(json!({"userId": "42", "expiresAt": end})));
        Client::unless_unauthorized(&node, "userId=42").await
    })
    .await;
    assert_eq!(client.closed().await.code, 4002);
    assert!(unix(0) >= end, "not before");
    api.decide(|_| Reply::ok(json!({"userId": "42", "expiresAt": unix(-1)})));
    assert_eq!(upgrade(&node, "userId=42", &[]).await.refused(401), "unauthorized");
    for expires in [json!(null), json!(unix(3600)), json!(1e300)] {
        api.decide(move |_| Reply::ok(json!({"userId": "42", "expiresAt": expires})));
        Client::open_with(&node, "userId=42", &[]).await.round_trip().await;
    }
}

#[tokio::test]
async fn the_log_says_once_that_it_is_away_and_once_that_it_is_back() {
    let mut api = ApiServer::start(knows_42).await;
    let node = node(&api).await;
    Client::open_with(&node, "userId=42", &[COOKIE]).await;
    api.stop().await;
    for _ in 0..5 {
        assert_eq!(upgrade(&node, "userId=42", &[COOKIE]).await.refused(503), "unavailable");
    }
    api.listen().await;
    for _ in 0..5 {
        Client::open_with(&node, "userId=42", &[COOKIE]).await;
    }
    node.log_line(BOUND, "that it is back", |line| line.contains("--api-server-url is back")).await;
    for (what, level) in [("--api-server-url is away", "WARN"), ("--api-server-url is back", "INFO")] {
        let lines: Vec<_> = node.lines().into_iter().filter(|line| line.contains(what)).collect();
        assert_eq!(lines.len(), 1, "{what}: {lines:?}");
        assert!(lines[0].contains(level), "{lines:?}");
    }
}

#[tokio::test]
async fn it_is_asked_a_bounded_number_of_questions_at_once() {
    let api = ApiServer::start_holding(|asked| Reply::ok(json!({"userId": asked.json()["userId"]}))).await;
    let node = node(&api).await;
    let opening: Vec<_> = (0..100)
        .map(|user| {
            let url = node.client_ws(&format!("userId=u{user}"));
            tokio::spawn(async move { http::upgrade(&url, &[]).await.status })
        })
        .collect();
    eventually(BOUND, "64 questions", async || match api.at_once() {
        64 => Ok(()),
        count => Err(format!("{count} questions")),
    })
    .await;
    // Those who wait are asked for as the others are answered.
    api.let_out(100);
    for status in join_all(opening).await {
        assert_eq!(status.unwrap(), 101);
    }
    assert_eq!((api.most_at_once(), api.asked().len()), (64, 100));
}

#[tokio::test]
async fn it_is_asked_by_tls_where_its_certificate_is_trusted() {
    let api = ApiServer::start(knows_42).await;
    let (port, certificate) = tls_proxy(api.url.trim_start_matches("http://").to_owned()).await;
    let url = format!("https://localhost:{port}");
    let stranger = NodeBuilder::local("solo").with(&[("--auth", "api"), ("--api-server-url", &url)]);
    let trusting = stranger.clone().env("SSL_CERT_FILE", certificate.path().to_str().unwrap());
    Client::open_with(&trusting.start().await, "userId=42", &[COOKIE]).await;
    let stranger = stranger.start().await;
    assert_eq!(upgrade(&stranger, "userId=42", &[COOKIE]).await.refused(503), "unavailable");
    stranger.log_line(BOUND, "why", |line| line.contains("is away") && line.contains("certificate")).await;
    assert_eq!(api.asked().len(), 1);
}

#[tokio::test]
async fn the_address_is_that_of_the_client_behind_proxies_that_are_trusted() {
    let api = ApiServer::start(|_| Reply::ok(json!({"userId": "42"}))).await;
    let settings =
        [("--auth", "api"), ("--api-server-url", &api.url), ("--trusted-proxies", "127.0.0.1, 10.0.0.0/8")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    for (forwarded, ip) in [
        ("203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7, 10.1.1.1", "203.0.113.7"),
        ("?", "127.0.0.1"),
    ] {
        Client::open_with(&node, "userId=42", &[("x-forwarded-for", forwarded)]).await;
        assert_eq!(api.last().json()["ip"], ip, "{forwarded}");
    }
}
