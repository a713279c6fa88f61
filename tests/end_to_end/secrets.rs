//! No token, cookie, secret or payload in any log, error, metric or set of settings shown.
//!
//! Whatever must not be seen contains [`MARK`]; of tokens, the signature must not be seen.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::api::{ApiServer, Reply};
use crate::support::process::Launch;
use crate::support::tokens::{Issuer, unix};
use crate::support::{BOUND, Client, Node, NodeBuilder, RedisServer, Worker, eventually, http, within};

const MARK: &str = "s3cret";
const WORKER_TOKEN: &str = "s3cret-worker-token";
const JWT_SECRET: &str = "s3cret-0123456789abcdef0123456789";
const COOKIE: (&str, &str) = ("cookie", "session=s3cret-cookie");

/// Collects what a node says to others, and looks through all of it.
struct Watch {
    tokens: Vec<String>,
    said: Vec<String>,
}

impl Watch {
    fn new() -> Self {
        Self { tokens: Vec::new(), said: Vec::new() }
    }

    /// A token that must not be seen again.
    fn token(&mut self, token: String) -> String {
        self.tokens.push(token.rsplit('.').next().unwrap().to_owned());
        token
    }

    fn check(&self, lines: &[String], where_: &str) {
        for line in lines {
            assert!(!line.contains(MARK), "in {where_}: {line}");
            let token = self.tokens.iter().find(|token| line.contains(token.as_str()));
            assert!(token.is_none(), "a token in {where_}: {line}");
        }
    }

    async fn finish(self, mut node: Node) {
        let metrics = http::get(&node.worker_http(&format!("/metrics?token={WORKER_TOKEN}"))).await;
        assert_eq!(metrics.status, 200);
        self.check(&[metrics.body], "the metrics");
        self.check(&self.said, "what was answered");
        let lines = node.whole_log().await;
        assert!(lines.iter().any(|line| line.contains(r#""level":"DEBUG""#)), "the log is not at its finest");
        self.check(&lines, "the log");
    }
}

fn signed_by(secret: &str) -> Issuer {
    Issuer::Secret(secret.to_owned())
}

/// Brings a token, good or bad, in every way; notes what is answered.
async fn bring(node: &Node, watch: &mut Watch, token: &str) {
    let bearer = format!("Bearer {token}");
    let protocol = format!("switchboard, token.{token}");
    for headers in [
        vec![("authorization", bearer.as_str()), COOKIE],
        vec![("sec-websocket-protocol", protocol.as_str()), COOKIE],
        vec![("authorization", "Basic czNjcmV0OnMzY3JldA=="), ("x-custom", "s3cret-header"), COOKIE],
    ] {
        let answer = http::upgrade(&node.client_ws("clientId=tab-1"), &headers).await;
        watch.said.push(format!("{answer:?}"));
    }
    let query = format!("token={token}&other=s3cret-parameter");
    watch.said.push(format!("{:?}", http::upgrade(&node.client_ws(&query), &[COOKIE]).await));
    let wrong = format!("userId=43&{query}");
    watch.said.push(format!("{:?}", http::upgrade(&node.client_ws(&wrong), &[COOKIE]).await));
    let mut client = Client::try_upgrade_with(node, "", &[COOKIE]).await.unwrap();
    client.send(&json!({"clientId": "tab-1", "token": token}).to_string()).await;
    watch.said.push(client.frame("a welcome or a refusal").await.to_string());
}

/// Sends payloads in every way that there is, whole and broken; notes the errors.
async fn speak(node: &Node, watch: &mut Watch, token: &str) {
    let mut client = Client::open(node, &format!("clientId=tab-2&token={token}")).await;
    let frames = [
        json!({"type": "message", "event": "e", "data": "s3cret-payload"}).to_string(),
        r#"{"type":"message","event":"e","data":"s3cret-payload""#.to_owned(),
        json!({"type": "s3cret-type"}).to_string(),
        json!({"type": "message", "event": "s3cret event", "data": 1}).to_string(),
        json!({"type": "ack", "id": "s3cret"}).to_string(),
        json!({"type": "token", "token": "s3cret.s3cret.s3cret"}).to_string(),
        json!({"type": "token", "token": token}).to_string(),
    ];
    for frame in frames {
        client.send(&frame).await;
    }
    client.send(r#"{"type":"ping"}"#).await;
    loop {
        let frame = client.frame("errors, and a pong in the end").await;
        if frame["type"] == "pong" {
            break;
        }
        watch.said.push(frame.to_string());
    }
    let bearer = format!("Bearer {WORKER_TOKEN}");
    let url = node.worker_http("/users/42/trace");
    let followed = http::request(Method::PUT, &url, &[("authorization", &bearer)], None).await.unwrap();
    assert_eq!(followed.status, 200, "{followed:?}");
    let mut worker = Worker::open_with(&format!("{}/", node.worker_url), Some(WORKER_TOKEN)).await.unwrap();
    let event = json!({"ref": "1", "userId": "42", "event": "e", "data": "s3cret-payload"});
    let with = |field: &str, value: Value| {
        let mut event = event.clone();
        event[field] = value;
        event.to_string()
    };
    let frames = [
        event.to_string(),
        with("transient", json!(true)),
        with("key", json!("s3cret-key")),
        with("collapseKey", json!("s3cret-collapse")),
        with("userId", json!("s3cret user")),
        with("event", json!("s3cret event")),
        with("key", json!("s3cret kéy")),
        with("field", json!(MARK)),
        "{\"ref\":\"1\",\"data\":\"s3cret-payload".to_owned(),
    ];
    for frame in &frames {
        watch.said.push(worker.ask(frame).await.to_string());
    }
    let url = node.worker_http("/publish");
    let lines = frames.join("\n");
    let bodies = [
        ("application/json", &frames[0]),
        ("application/json", &frames[8]),
        ("application/x-ndjson", &lines),
    ];
    for (kind, body) in bodies {
        let headers = [("authorization", bearer.as_str()), ("content-type", kind), COOKIE];
        let answer = http::request(Method::POST, &url, &headers, Some(body)).await.unwrap();
        watch.said.push(format!("{answer:?}"));
    }
    // The event, which went out six times, is for the client's eyes.
    for _ in 0..2 {
        assert!(client.event().await.data.contains(MARK));
    }
    // Whoever follows the user sees what happened, not what it was about.
    let url = node.worker_http("/users/42/trace");
    let steps = eventually(BOUND, "the steps of an event", async || {
        let steps = http::get_with(&url, &[("authorization", &bearer)]).await.body;
        if steps.contains("written") { Ok(steps) } else { Err(steps) }
    })
    .await;
    // A collapse key is a name, as the event's is.
    watch.said.push(steps.replace("s3cret-collapse", ""));
    for asked in ["/nodes", "/status", "/users/42", "/openapi.json"] {
        let answer = http::get_with(&node.worker_http(asked), &[("authorization", &bearer)]).await;
        watch.said.push(format!("{answer:?}"));
    }
    let by_query = format!("{}/?token={WORKER_TOKEN}&workerId=w", node.worker_url);
    drop(Worker::open_with(&by_query, None).await.unwrap());
    for stranger in ["s3cret-guess", "s3cret guess"] {
        let bearer = format!("Bearer {stranger}");
        watch.said.push(format!(
            "{:?}",
            http::get_with(&node.worker_http("/nodes"), &[("authorization", &bearer)]).await
        ));
        let url = node.worker_http(&format!("/nodes?token={}", stranger.replace(' ', "+")));
        watch.said.push(format!("{:?}", http::get(&url).await));
    }
    // What is no HTTP, and what breaks off.
    for broken in
        ["s3cret\r\n\r\n", "GET /?token=s3cret HTTP/1.1\r\nAuthorization: Bearer s3cret\r\nno colon\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(node.client_address()).await.unwrap();
        stream.write_all(broken.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(BOUND, "the end of it", stream.read_to_string(&mut answer)).await.ok();
        watch.said.push(answer);
    }
}

#[tokio::test]
async fn with_tokens_nothing_shows_at_the_finest_level_of_the_log() {
    let mut redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let acl = ["SETUSER", "relay", "on", ">s3cret-redis", "~*", "&*", "+@all"];
    let _: () = db.run(redis::cmd("ACL").arg(&acl)).await;
    let url = redis.url().replacen("redis://", "redis://relay:s3cret-redis@", 1);
    let node = NodeBuilder::bare("solo")
        .with(&[("--mode", "redis"), ("--auth", "jwt"), ("--log-level", "trace")])
        .env("REDIS_URL", &url)
        .env("WORKER_TOKEN", WORKER_TOKEN)
        .env("JWT_SECRET", JWT_SECRET)
        .start()
        .await;
    let mut watch = Watch::new();
    let claims = |expires: i64| json!({"sub": "42", "exp": unix(expires), "name": "s3cret-claim"});
    let good = watch.token(signed_by(JWT_SECRET).token(claims(60)));
    let tokens = [
        good.clone(),
        watch.token(signed_by(JWT_SECRET).token(claims(-60))),
        watch.token(signed_by(JWT_SECRET).token(json!({"sub": 7, "exp": "s3cret"}))),
        watch.token(signed_by("another").token(claims(60))),
        watch.token(Issuer::es256().token_by("s3cret-kid", claims(60))),
        "s3cret".to_owned(),
        "s3cret.s3cret.s3cret".to_owned(),
    ];
    for token in &tokens {
        bring(&node, &mut watch, token).await;
    }
    speak(&node, &mut watch, &good).await;
    let entry = [("user", "42"), ("event", "e"), ("data", "\"s3cret-payload\"")];
    db.xadd("events", &entry).await;
    db.xadd("events", &[("user", "a b"), ("event", "e"), ("data", "s3cret-payload")]).await;
    eventually(BOUND, "the entry that cannot be routed", async || {
        let dead = db.stream("events:dead").await;
        if dead.len() == 1 { Ok(()) } else { Err(format!("{dead:?}")) }
    })
    .await;
    redis.kill();
    node.log_line(BOUND, "that Redis is away", |line| line.contains(r#""level":"WARN""#)).await;
    watch
        .said
        .push(format!("{:?}", http::upgrade(&node.client_ws(&format!("token={good}")), &[COOKIE]).await));
    watch.finish(node).await;
}

#[tokio::test]
async fn with_an_api_server_nothing_shows_either() {
    let mut api = ApiServer::start(|_| Reply::ok(json!({"userId": "42", "name": "s3cret-answer"}))).await;
    let node = NodeBuilder::local("solo")
        .with(&[("--auth", "api"), ("--api-server-url", &api.url), ("--log-level", "trace")])
        .env("WORKER_TOKEN", WORKER_TOKEN)
        .start()
        .await;
    let mut watch = Watch::new();
    bring(&node, &mut watch, "s3cret-token").await;
    speak(&node, &mut watch, "s3cret-token").await;
    for (status, body) in [(401, "s3cret-answer"), (500, "s3cret-answer"), (200, "s3cret-answer")] {
        api.decide(move |_| Reply::Status(status, body.to_owned()));
        bring(&node, &mut watch, "s3cret-token").await;
    }
    api.decide(|_| Reply::ok(json!({"userId": "s3cret user", "expiresAt": "s3cret"})));
    bring(&node, &mut watch, "s3cret-token").await;
    api.stop().await;
    bring(&node, &mut watch, "s3cret-token").await;
    watch.finish(node).await;
}

#[tokio::test]
async fn settings_are_shown_and_refused_without_their_secrets() {
    let secrets = [
        ("REDIS_URL", "redis://relay:s3cret@127.0.0.1:1/x/s3cret"),
        ("WORKER_TOKEN", "s3cret one,"),
        ("JWT_SECRET", "s3cret"),
        ("JWT_PUBLIC_KEY", "-----BEGIN PRIVATE KEY-----s3cret"),
        ("JWT_JWKS", "https://relay:s3cret@id.example/keys"),
        ("API_SERVER_URL", "https://relay:s3cret@api.example"),
        ("CLIENT_SOCKET_URL", "wss://relay.example/?token=s3cret"),
        ("WORKER_SOCKET_URL", "ws://relay:s3cret@10.0.0.7:4001"),
    ];
    for with in secrets.chunks(1).chain([&secrets[..]]) {
        for args in [&[][..], &["check"], &["check", "--json"]] {
            let args = [args, &["--auth=jwt", "--client-port=x"]].concat();
            let output = Launch::of(&args, with).output(BOUND).await;
            assert_eq!(output.status.code(), Some(2));
            for text in [output.stdout, output.stderr] {
                let text = String::from_utf8(text).unwrap();
                assert!(
                    !text.replace("redis://***@127.0.0.1:1/x/s3cret", "").contains(MARK),
                    "{args:?} {with:?}: {text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn every_secret_may_come_from_a_file() {
    let redis = RedisServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        // An editor ends the file with a line end.
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let issuer = Issuer::eddsa();
    let base = || {
        NodeBuilder::bare("solo")
            .set("--auth", "jwt")
            .env("REDIS_URL_FILE", &file("redis", &redis.url()))
            .env("WORKER_TOKEN_FILE", &file("worker", "worker-token-1,worker-token-2"))
    };
    let by_secret = base().env("JWT_SECRET_FILE", &file("jwt", JWT_SECRET));
    let by_key = base().env("JWT_PUBLIC_KEY_FILE", &file("pem", &issuer.pem()));
    for (builder, token) in
        [(by_secret, signed_by(JWT_SECRET).token_of("42")), (by_key, issuer.token_of("42"))]
    {
        let mut node = builder.start().await;
        let mut client = Client::open(&node, &format!("token={token}")).await;
        for bearer in ["worker-token-1", "worker-token-2"] {
            let url = format!("{}/", node.worker_url);
            let id = Worker::open_with(&url, Some(bearer)).await.unwrap().event("42", "1").await;
            assert_eq!(client.event().await.id, Some(id.clone()));
            assert!(redis.db().await.log_ids("42").await.contains(&id), "it is that Redis");
        }
        assert_eq!(http::get(&node.worker_http("/nodes")).await.refused(401), "unauthorized");
        node.signal(rustix::process::Signal::TERM);
        assert!(node.exit(BOUND).await.success());
    }
}
