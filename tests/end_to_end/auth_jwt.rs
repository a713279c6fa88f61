//! `--auth jwt`: which tokens open, for whom, for how long, and where they may be.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::pair::Single;
use crate::support::stream::EventStream;
use crate::support::tokens::{Issuer, SECRET, ending_soon, passed, unix};
use crate::support::{Client, Node, NodeBuilder, Worker, http};

fn hs256() -> NodeBuilder {
    NodeBuilder::local("solo").set("--auth", "jwt").env("JWT_SECRET", SECRET)
}

/// Asks for an upgrade with a token in the header, and gives the answer's status.
async fn status(node: &Node, query: &str, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    http::upgrade(&node.client_ws(query), &[("authorization", &bearer)]).await.status
}

async fn refused(node: &Node, query: &str, token: &str) {
    let bearer = format!("Bearer {token}");
    let answer = http::upgrade(&node.client_ws(query), &[("authorization", &bearer)]).await;
    assert_eq!(answer.refused(401), "unauthorized", "{answer:?}");
}

#[tokio::test]
async fn a_token_opens_wherever_it_is_brought_and_its_sub_is_the_user() {
    let node = hs256().start().await;
    let token = Issuer::hs256().token_of("auth0|7");
    let bearer = format!("Bearer {token}");
    let protocol = format!("switchboard, token.{token}");
    let query = format!("token={token}");
    let named = format!("userId=auth0%7C7&clientId=tab-1&token={token}");
    let ways: [(&str, Vec<(&str, &str)>); 5] = [
        ("", vec![("authorization", &bearer)]),
        ("clientId=tab-1", vec![("sec-websocket-protocol", &protocol)]),
        (&query, vec![]),
        (&named, vec![]),
        ("userId=auth0%7C7", vec![("authorization", &bearer)]),
    ];
    for (query, headers) in ways {
        let client = Client::open_with(&node, query, &headers).await;
        assert_eq!(client.welcomed("userId"), "auth0|7");
    }
    for hello in [
        json!({"token": token}),
        json!({"userId": "auth0|7", "clientId": "tab-1", "token": token}),
        json!({"token": format!("{token}\n")}),
    ] {
        let mut client = Client::upgrade(&node, "").await;
        client.send(&hello.to_string()).await;
        client.read_welcome().await;
        assert_eq!(client.welcomed("userId"), "auth0|7");
        client.round_trip().await;
    }
}

#[tokio::test]
async fn the_token_among_the_subprotocols_is_not_answered() {
    let node = hs256().start().await;
    let protocol = format!("switchboard, token.{}", Issuer::hs256().token_of("42"));
    let answer = http::upgrade(&node.client_ws(""), &[("sec-websocket-protocol", &protocol)]).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, "switchboard"), "{answer:?}");
}

#[tokio::test]
async fn without_a_token_or_as_another_user_it_is_401_and_4001() {
    let node = hs256().start().await;
    let token = Issuer::hs256().token_of("42");
    let answer = http::upgrade(&node.client_ws("userId=42"), &[]).await;
    assert_eq!(answer.refused(401), "unauthorized");
    refused(&node, "userId=43", &token).await;
    refused(&node, "token=", "").await;
    for hello in [
        json!({"userId": "42"}),
        json!({"userId": "43", "token": token}),
        json!({"userId": "42", "token": "x"}),
    ] {
        let mut client = Client::upgrade(&node, "").await;
        client.send(&hello.to_string()).await;
        let error = client.frame("the refusal").await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("unauthorized")), "{error}");
        assert_eq!(client.closed().await.code, 4001, "after {hello}");
    }
}

#[tokio::test]
async fn a_hello_with_the_token_goes_on_where_the_query_has_ended() {
    let node = hs256().start().await;
    let token = Issuer::hs256().token_of("42");
    let ids = Worker::open(&node).await.count("42", 1, 3).await;
    let query = format!("clientId=tab-1&since={}", ids[1]);
    for hello in [json!({"token": token}), json!({"userId": "42", "clientId": "tab-1", "token": token})] {
        let mut client = Client::upgrade(&node, &query).await;
        client.send(&hello.to_string()).await;
        client.read_welcome().await;
        assert_eq!((client.welcomed("clientId"), &client.welcome["replayed"]), ("tab-1", &json!(1)));
        assert_eq!(client.event().await.id.as_ref(), Some(&ids[2]));
    }
    let mut client = Client::upgrade(&node, &query).await;
    client.send(&json!({"clientId": "tab-2", "token": token}).to_string()).await;
    assert_eq!(client.frame("the refusal").await["code"], "invalid_client_id");
    assert_eq!(client.closed().await.code, 4000);
}

#[tokio::test]
async fn each_algorithm_opens_by_a_key_as_text_or_in_a_file() {
    for issuer in [Issuer::rs256(), Issuer::es256(), Issuer::eddsa()] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        std::fs::write(&file, issuer.pem()).unwrap();
        // In an env file a line end can only be written.
        let ways = [issuer.pem(), issuer.pem().replace('\n', "\\n"), file.to_str().unwrap().to_owned()];
        for key in ways {
            let builder = NodeBuilder::local("solo").set("--auth", "jwt").env("JWT_PUBLIC_KEY", &key);
            let node = builder.start().await;
            assert_eq!(status(&node, "", &issuer.token_of("42")).await, 101, "{}", issuer.alg());
            let stranger = match issuer {
                Issuer::Rsa(_) => Issuer::es256(),
                Issuer::Ec(_) => Issuer::es256(),
                _ => Issuer::eddsa(),
            };
            refused(&node, "", &stranger.token_of("42")).await;
        }
    }
}

#[tokio::test]
async fn the_key_decides_on_the_algorithm_never_the_token() {
    let claims = json!({"sub": "42", "exp": unix(60)});
    let header = |alg: &str| json!({"typ": "JWT", "alg": alg});
    for issuer in [Issuer::rs256(), Issuer::es256(), Issuer::eddsa()] {
        let builder = NodeBuilder::local("solo").set("--auth", "jwt").env("JWT_PUBLIC_KEY", &issuer.pem());
        let node = builder.start().await;
        assert_eq!(status(&node, "", &issuer.token(claims.clone())).await, 101);
        // The right signature of other claims.
        let good = issuer.token(claims.clone());
        let tampered = Issuer::tampered(&good, &json!({"sub": "43", "exp": unix(60)}));
        refused(&node, "", &tampered).await;
        // The public key, which everyone has, taken for a shared secret.
        for secret in [issuer.pem(), issuer.pem().trim().to_owned()] {
            refused(&node, "", &Issuer::Secret(secret).token(claims.clone())).await;
        }
        // The right signature under another algorithm's name.
        for alg in ["HS256", "none", "RS384", "PS256", "ES384"] {
            refused(&node, "", &issuer.sign(&header(alg), &claims)).await;
        }
        // No signature at all.
        let token = issuer.sign(&header("none"), &claims);
        let unsigned = token.rsplit_once('.').unwrap().0;
        for token in [format!("{unsigned}."), unsigned.to_owned()] {
            refused(&node, "", &token).await;
        }
        // A word that the reader must understand to go on, and does not.
        let critical = json!({"alg": issuer.alg(), "crit": ["b64"], "b64": true});
        refused(&node, "", &issuer.sign(&critical, &claims)).await;
    }
}

#[tokio::test]
async fn what_a_token_claims_is_checked() {
    let node = hs256().start().await;
    let issuer = Issuer::hs256();
    let good = [
        json!({"sub": "42", "exp": unix(60)}),
        json!({"sub": "42", "exp": unix(60) as f64 + 0.5, "aud": "whoever", "iss": "whoever"}),
        json!({"sub": "42", "exp": unix(60), "nbf": unix(-60), "iat": unix(60)}),
        // Clocks differ a little.
        json!({"sub": "42", "exp": unix(60), "nbf": unix(4)}),
        json!({"sub": "42", "exp": 253_402_300_799_u64}),
    ];
    for claims in good {
        assert_eq!(status(&node, "", &issuer.token(claims.clone())).await, 101, "{claims}");
    }
    let bad = [
        json!({"sub": "42"}),
        json!({"sub": "42", "exp": unix(-1)}),
        json!({"sub": "42", "exp": unix(-3600)}),
        json!({"sub": "42", "exp": null}),
        json!({"sub": "42", "exp": "tomorrow"}),
        json!({"sub": "42", "exp": unix(60).to_string()}),
        json!({"sub": "42", "exp": -1}),
        json!({"sub": "42", "exp": unix(60), "nbf": unix(40)}),
        json!({"sub": "42", "exp": unix(60), "nbf": "now"}),
        json!({"exp": unix(60)}),
        json!({"sub": 42, "exp": unix(60)}),
        json!({"sub": "", "exp": unix(60)}),
        json!({"sub": "a b", "exp": unix(60)}),
        json!({"sub": "a}b", "exp": unix(60)}),
        json!(["42"]),
    ];
    for claims in bad {
        refused(&node, "", &issuer.token(claims)).await;
    }
}

#[tokio::test]
async fn what_a_token_lacks_is_named() {
    let node = hs256().start().await;
    for (claims, lacks) in [
        (json!({"sub": "42"}), "no exp"),
        (json!({"sub": "42", "exp": "tomorrow"}), "no exp"),
        (json!({"exp": unix(60)}), "no sub"),
        (json!({"sub": 42, "exp": unix(60)}), "no sub"),
    ] {
        let url = node.client_ws(&format!("token={}", Issuer::hs256().token(claims.clone())));
        let told = http::upgrade(&url, &[]).await.body;
        assert!(told.contains(lacks), "{claims}: {told}");
    }
}

#[tokio::test]
async fn audience_and_issuer_are_checked_where_they_are_set() {
    let node =
        hs256().env("JWT_AUDIENCE", "relay, other").set("--jwt-issuer", "https://id.example").start().await;
    let token = |aud: Value, iss: Value| {
        Issuer::hs256().token(json!({"sub": "42", "exp": unix(60), "aud": aud, "iss": iss}))
    };
    let (aud, iss) = (json!("relay"), json!("https://id.example"));
    for good in [aud.clone(), json!("other"), json!(["x", "relay"])] {
        assert_eq!(status(&node, "", &token(good.clone(), iss.clone())).await, 101, "{good}");
    }
    for bad in [json!("Relay"), json!(["x"]), json!([]), json!(null), json!(7), json!("relay, other")] {
        refused(&node, "", &token(bad, iss.clone())).await;
    }
    for bad in [json!("https://id.example/"), json!(null), json!(["https://evil.example"])] {
        refused(&node, "", &token(aud.clone(), bad)).await;
    }
}

#[tokio::test]
async fn a_socket_is_closed_with_4002_when_its_token_ends() {
    let node = hs256().start().await;
    let token = |end| Issuer::hs256().token(json!({"sub": "42", "exp": end}));
    let by_query =
        ending_soon(async |end| Client::unless_unauthorized(&node, &format!("token={}", token(end))).await);
    let by_hello = ending_soon(async |end| {
        let mut client = Client::upgrade(&node, "").await;
        client.send(&json!({"token": token(end)}).to_string()).await;
        let frame = client.frame("the welcome").await;
        if frame["code"] == "unauthorized" {
            return None;
        }
        assert_eq!(frame["type"], "welcome", "{frame}");
        Some(client)
    });
    let (by_query, by_hello) = tokio::join!(by_query, by_hello);
    for (mut client, end) in [by_query, by_hello] {
        let closed = client.closed().await;
        assert_eq!((closed.code, closed.reason.as_str()), (4002, "token expired"));
        assert!(unix(0) >= end, "not before");
    }
    let answer = http::get(&node.worker_http("/users/42")).await;
    assert_eq!(answer.json()["online"], false, "its keys are gone");
}

#[tokio::test]
async fn a_token_frame_renews_a_bad_one_does_not() {
    let node = hs256().start().await;
    let issuer = Issuer::hs256();
    // Time for two handshakes and seven frames, however busy the machine is.
    let (end, later) = (unix(6), unix(60));
    let mut renewed =
        Client::open(&node, &format!("token={}", issuer.token(json!({"sub": "42", "exp": end})))).await;
    let mut lapsing =
        Client::open(&node, &format!("token={}", issuer.token(json!({"sub": "42", "exp": end})))).await;
    let frame = |token: &str| json!({"type": "token", "token": token}).to_string();
    renewed.send(&frame(&format!("{}\n", issuer.token(json!({"sub": "42", "exp": later}))))).await;
    renewed.round_trip().await;
    let bad = [
        issuer.token(json!({"sub": "43", "exp": later})),
        issuer.token(json!({"sub": "42", "exp": unix(-5)})),
        Issuer::Secret("another secret".to_owned()).token(json!({"sub": "42", "exp": later})),
        "x".to_owned(),
    ];
    for token in &bad {
        lapsing.send(&frame(token)).await;
        let error = lapsing.frame("the refusal").await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("unauthorized")), "{error}");
    }
    lapsing.round_trip().await;
    assert_eq!(lapsing.closed().await.code, 4002, "the old end stays");
    assert!(unix(0) >= end);
    // The other one lives beyond that end, and is served.
    renewed.round_trip().await;
    let id = Worker::open(&node).await.event("42", "1").await;
    assert_eq!(renewed.event().await.id, Some(id));
}

#[tokio::test]
async fn a_token_that_came_in_time_counts_behind_a_message_that_waits_for_redis() {
    let rate = ("--client-rate", "1000");
    let single = Single::with(&[("--auth", "jwt"), ("--jwt-secret", SECRET), rate]).await;
    let (mut lapsing, end) = ending_soon(async |end| {
        let query = format!("token={}", Issuer::hs256().token(json!({"sub": "42", "exp": end})));
        let mut renewed = Client::unless_unauthorized(&single.a, &query).await?;
        let mut lapsing = Client::unless_unauthorized(&single.a, &query).await?;
        passed(end - 1).await;
        single.redis.signal(Signal::STOP);
        for client in [&mut renewed, &mut lapsing] {
            client.send(r#"{"type":"ping"}"#).await;
            client.send(r#"{"type":"message","event":"cancel"}"#).await;
        }
        for _ in 0..300 {
            renewed.send(r#"{"type":"ack","id":"1-0"}"#).await; // more than a task reads in one go
        }
        let token = Issuer::hs256().token_of("42");
        renewed.send(&json!({"type": "token", "token": token}).to_string()).await;
        for client in [&mut renewed, &mut lapsing] {
            client.frame("a pong: the message is read as well").await;
        }
        let in_time = unix(0) < end;
        passed(end).await;
        single.redis.signal(Signal::CONT);
        renewed.send(r#"{"type":"ping"}"#).await;
        let stays = renewed.frame("a pong, or the end").await["type"] == "pong";
        (in_time && stays).then_some(lapsing)
    })
    .await;
    assert_eq!(lapsing.closed().await.code, 4002, "nothing came behind its message");
    assert!(unix(0) >= end);
}

#[tokio::test]
async fn a_token_frame_may_bring_an_earlier_end() {
    let node = hs256().start().await;
    let token = |exp| Issuer::hs256().token(json!({"sub": "42", "exp": exp}));
    let mut client = Client::open(&node, &format!("token={}", token(unix(600)))).await;
    let end = unix(5);
    client.send(&json!({"type": "token", "token": token(end)}).to_string()).await;
    assert_eq!(client.closed().await.code, 4002);
    assert!(unix(0) >= end, "not before");
}

#[tokio::test]
async fn event_streams_follow_the_same_rules() {
    let node = hs256().start().await;
    let token = |end| Issuer::hs256().token(json!({"sub": "42", "exp": end}));
    let by_header = ending_soon(async |end| {
        let bearer = format!("Bearer {}", token(end));
        EventStream::unless_unauthorized(&node, "", &[("authorization", &bearer)]).await
    });
    let by_query = ending_soon(async |end| {
        EventStream::unless_unauthorized(&node, &format!("userId=42&token={}", token(end)), &[]).await
    });
    let (by_header, by_query) = tokio::join!(by_header, by_query);
    for (mut stream, end) in [by_header, by_query] {
        assert_eq!(stream.welcome["userId"], "42");
        let bye = stream.next("a bye").await.expect("a frame").json();
        assert_eq!((&bye["type"], &bye["code"]), (&json!("bye"), &json!(4002)), "{bye}");
        assert!(unix(0) >= end, "not before");
        assert!(stream.next("the end").await.is_none());
    }
    for query in ["userId=42".to_owned(), format!("userId=43&token={}", Issuer::hs256().token_of("42"))] {
        let answer = http::get(&node.client_http(&format!("/events?{query}"))).await;
        assert_eq!(answer.refused(401), "unauthorized", "{query}");
    }
}

#[tokio::test]
async fn without_tokens_a_token_frame_is_an_invalid_frame() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    client.send(&json!({"type": "token", "token": Issuer::hs256().token_of("42")}).to_string()).await;
    assert_eq!(client.frame("the refusal").await["code"], "invalid_frame");
    client.round_trip().await;
}
