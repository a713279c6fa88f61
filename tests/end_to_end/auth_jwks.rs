//! `--auth jwt` by a set of keys: rotation, and what is passed over.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::api::{ApiServer, Asked, Reply};
use crate::support::tokens::{Issuer, ending_soon, passed, unix};
use crate::support::{BOUND, Client, Node, NodeBuilder, Worker, eventually, http, within};

/// A JWKS file that changes.
struct File {
    path: PathBuf,
    _dir: TempDir,
}

impl File {
    fn new(keys: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = Self { path: dir.path().join("jwks.json"), _dir: dir };
        file.write(keys);
        file
    }

    fn write(&self, keys: Value) {
        std::fs::write(&self.path, json!({"keys": keys}).to_string()).unwrap();
    }

    async fn node(&self) -> Node {
        NodeBuilder::local("solo")
            .set("--auth", "jwt")
            .set("--jwt-jwks", self.path.to_str().unwrap())
            .start()
            .await
    }
}

fn claims() -> Value {
    json!({"sub": "42", "exp": unix(60)})
}

async fn status(node: &Node, token: &str) -> u16 {
    let url = node.client_ws(&format!("token={token}"));
    within(BOUND, "an answer", http::upgrade(&url, &[])).await.status
}

#[tokio::test]
async fn keys_are_rotated_while_the_node_runs() {
    let (old, next, last) = (Issuer::es256(), Issuer::rs256(), Issuer::eddsa());
    let file = File::new(json!([old.jwk("1")]));
    let node = file.node().await;
    assert_eq!(status(&node, &old.token_by("1", claims())).await, 101);
    assert_eq!(status(&node, &next.token_by("2", claims())).await, 401, "not there yet");
    file.write(json!([old.jwk("1"), next.jwk("2")]));
    for _ in 0..2 {
        assert_eq!(status(&node, &next.token_by("2", claims())).await, 101, "both are good");
        assert_eq!(status(&node, &old.token_by("1", claims())).await, 101, "both are good");
    }
    file.write(json!([last.jwk("3")]));
    assert_eq!(status(&node, &last.token_by("3", claims())).await, 101);
    assert_eq!(status(&node, &old.token_by("1", claims())).await, 401, "it was taken away");
}

#[tokio::test]
async fn a_key_without_a_name_is_tried_before_the_set_is_read_again() {
    let issuer = Issuer::es256();
    let mut key = issuer.jwk("");
    key.as_object_mut().unwrap().remove("kid");
    let server = ApiServer::start(set(json!([key]))).await;
    let node = by_url(&server).await;
    for _ in 0..5 {
        assert_eq!(status(&node, &issuer.token_by("named", claims())).await, 101);
    }
    assert_eq!(server.asked().len(), 1, "the set that is here has the key");
}

fn set(keys: Value) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |_| Reply::ok(json!({"keys": keys}))
}

async fn by_url(server: &ApiServer) -> Node {
    let url = format!("{}/.well-known/jwks.json", server.url);
    NodeBuilder::local("solo").set("--auth", "jwt").env("JWT_JWKS", &url).start().await
}

#[tokio::test]
async fn a_set_at_a_url_is_cached_and_read_again_for_a_new_kid() {
    let (old, next) = (Issuer::es256(), Issuer::eddsa());
    let server = ApiServer::start(set(json!([old.jwk("1")]))).await;
    let node = by_url(&server).await;
    for _ in 0..5 {
        assert_eq!(status(&node, &old.token_by("1", claims())).await, 101);
    }
    let asked = server.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("GET", "/.well-known/jwks.json"));
    server.decide(set(json!([old.jwk("1"), next.jwk("2")])));
    assert_eq!(status(&node, &next.token_by("2", claims())).await, 101);
    assert_eq!(server.asked().len(), 2);
    // Names that are not there cost one reading a second, however many ask.
    let strangers = (0..40).map(|at| next.token_by(&format!("x{at}"), claims()));
    let strangers: Vec<_> = strangers.collect();
    let start = Instant::now();
    let answers = join_all(strangers.iter().map(|token| status(&node, token))).await;
    assert!(answers.iter().all(|status| *status == 401), "{answers:?}");
    let (readings, seconds) = (server.asked().len() - 2, start.elapsed().as_secs_f64());
    assert!(readings as f64 <= seconds + 2.0, "{readings} readings in {seconds} s");
}

#[tokio::test]
async fn without_its_keys_a_node_starts_and_says_503_until_they_are_there() {
    let issuer = Issuer::es256();
    let mut server = ApiServer::start(set(json!([issuer.jwk("1")]))).await;
    server.stop().await;
    let node = by_url(&server).await;
    let token = issuer.token_by("1", claims());
    assert_eq!(status(&node, &token).await, 503);
    node.log_line(BOUND, "that they are not there", |line| line.contains("--jwt-jwks cannot be read")).await;
    server.listen().await;
    assert_eq!(status(&node, &token).await, 101);
    // And when the server goes away again, the keys stay.
    server.stop().await;
    assert_eq!(status(&node, &issuer.token_by("2", claims())).await, 503, "that might be a new key");
    assert_eq!(status(&node, &token).await, 101);
    let mut client = Client::open(&node, &format!("token={token}")).await;
    client.send(&json!({"type": "token", "token": issuer.token_by("2", claims())}).to_string()).await;
    assert_eq!(client.frame("the refusal").await["code"], "unavailable");
    client.round_trip().await;
}

#[tokio::test]
async fn a_set_that_breaks_leaves_the_keys_that_are_known() {
    let (known, unknown) = (Issuer::es256(), Issuer::es256());
    let file = File::new(json!([known.jwk("1")]));
    let node = file.node().await;
    file.write(json!("broken"));
    assert_eq!(status(&node, &unknown.token_by("2", claims())).await, 503, "nobody can tell now");
    assert_eq!(status(&node, &known.token_by("1", claims())).await, 101);
    let told =
        node.log_line(BOUND, "a line on the broken set", |line| line.contains("--jwt-jwks cannot be read"));
    told.await;
    file.write(json!([known.jwk("1"), unknown.jwk("2")]));
    assert_eq!(status(&node, &unknown.token_by("2", claims())).await, 101);
    assert_eq!(status(&node, &known.token_by("1", claims())).await, 101);
}

#[tokio::test]
async fn a_set_without_keys_takes_those_away_that_were_known() {
    let (known, unknown) = (Issuer::es256(), Issuer::es256());
    let file = File::new(json!([known.jwk("1")]));
    let node = file.node().await;
    assert_eq!(status(&node, &known.token_by("1", claims())).await, 101);
    file.write(json!([]));
    assert_eq!(status(&node, &unknown.token_by("2", claims())).await, 401);
    assert_eq!(status(&node, &known.token_by("1", claims())).await, 401);
    node.log_line(BOUND, "that there is none", |line| line.contains("no token is good now")).await;
    file.write(json!([known.jwk("1")]));
    assert_eq!(status(&node, &unknown.token_by("2", claims())).await, 401);
    assert_eq!(status(&node, &known.token_by("1", claims())).await, 101);
}

#[tokio::test]
async fn unknown_kids_do_not_make_the_set_read_without_end() {
    let known = Issuer::es256();
    let file = File::new(json!([known.jwk("1")]));
    let node = file.node().await;
    let strangers: Vec<_> = (0..40)
        .map(|at| {
            let token = Issuer::es256().token_by(&format!("x{at}"), claims());
            let url = node.client_ws(&format!("token={token}"));
            async move { http::upgrade(&url, &[]).await.status }
        })
        .collect();
    // They share the readings, of which there is one a second: one after the other would take 40.
    let answers = within(BOUND, "40 refusals", join_all(strangers)).await;
    assert!(answers.iter().all(|status| *status == 401), "{answers:?}");
    assert_eq!(status(&node, &known.token_by("1", claims())).await, 101);
}

#[tokio::test]
async fn a_key_is_good_for_what_it_is_and_for_nothing_else() {
    let (ec, rsa, ed) = (Issuer::es256(), Issuer::rs256(), Issuer::eddsa());
    let with = |mut jwk: Value, field: &str, value: Value| {
        jwk[field] = value;
        jwk
    };
    let secret = Issuer::hs256();
    let file = File::new(json!([
        with(with(ec.jwk("ec"), "use", json!("sig")), "alg", json!("ES256")),
        with(rsa.jwk("rsa"), "key_ops", json!(["verify"])),
        ed.jwk("ed"),
        // What follows is passed over.
        secret.jwk("oct"),
        with(rsa.jwk("enc"), "use", json!("enc")),
        with(rsa.jwk("pss"), "alg", json!("PS256")),
        with(rsa.jwk("wrap"), "key_ops", json!(["wrapKey"])),
        with(ec.jwk("p384"), "crv", json!("P-384")),
        with(ec.jwk("short"), "x", json!("AA")),
        {"kty": "new", "kid": "new"},
        "nonsense",
    ]));
    let node = file.node().await;
    for (issuer, kid) in [(&ec, "ec"), (&rsa, "rsa"), (&ed, "ed")] {
        assert_eq!(status(&node, &issuer.token_by(kid, claims())).await, 101, "{kid}");
        assert_eq!(status(&node, &issuer.token(claims())).await, 101, "without a kid all that fit are tried");
        let other = json!({"sub": "43", "exp": unix(60)});
        for good in [issuer.token_by(kid, claims()), issuer.token(claims())] {
            let tampered = Issuer::tampered(&good, &other);
            assert_eq!(status(&node, &tampered).await, 401, "{kid} has not signed that");
        }
    }
    let crossed = [(&ec, "rsa"), (&rsa, "ec"), (&ed, "ec"), (&rsa, "ed")];
    for (issuer, kid) in crossed {
        assert_eq!(status(&node, &issuer.token_by(kid, claims())).await, 401, "{} by {kid}", issuer.alg());
    }
    for kid in ["oct", "ec", "rsa"] {
        assert_eq!(status(&node, &secret.token_by(kid, claims())).await, 401, "a secret by {kid}");
    }
    for kid in ["enc", "pss", "wrap"] {
        assert_eq!(status(&node, &rsa.token_by(kid, claims())).await, 401, "{kid}");
    }
    for kid in ["p384", "short"] {
        assert_eq!(status(&node, &ec.token_by(kid, claims())).await, 401, "{kid}");
    }
}

#[tokio::test]
async fn an_rsa_key_that_is_too_short_is_passed_over_and_told_once() {
    let (good, rsa) = (Issuer::es256(), Issuer::rs256());
    let short = |kid: &str| {
        let mut jwk = rsa.jwk(kid);
        // Of 256 bytes in base64, 255.
        jwk["n"] = json!(jwk["n"].as_str().unwrap()[..340]);
        jwk
    };
    let file = File::new(json!([good.jwk("good"), short("first-short")]));
    let mut node = file.node().await;
    let refused = async |kid: &str| {
        let url = node.client_ws(&format!("token={}", rsa.token_by(kid, claims())));
        let answer = within(BOUND, "an answer", http::upgrade(&url, &[])).await;
        assert_eq!(answer.refused(401), "unauthorized");
        assert!(answer.body.contains("no key here is for the token's kid"), "{answer:?}");
    };
    // The set is read again for each.
    for _ in 0..2 {
        refused("first-short").await;
    }
    file.write(json!([good.jwk("good"), short("first-short"), short("second-short")]));
    refused("second-short").await;
    assert_eq!(status(&node, &good.token_by("good", claims())).await, 101);
    let log = node.whole_log().await;
    let told: Vec<_> = log.iter().filter(|line| line.contains("-short") && line.contains("2048")).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(!told[0].contains("second-short") && told[1].contains("second-short"), "{told:?}");
}

#[tokio::test]
async fn a_token_that_came_in_time_may_wait_a_moment_for_its_key_beyond_the_end_and_no_longer() {
    let (old, next) = (Issuer::es256(), Issuer::eddsa());
    let ((mut bad, _node, _server), _) = ending_soon(async |end| {
        let server = ApiServer::start_holding(set(json!([old.jwk("1")]))).await;
        server.let_out(1);
        let node = by_url(&server).await;
        let token = old.token_by("1", json!({"sub": "42", "exp": end}));
        let mut client = Client::unless_unauthorized(&node, &format!("token={token}")).await?;
        let mut bad = Client::unless_unauthorized(&node, &format!("token={token}")).await?;
        passed(end - 1).await;
        // Its key is not known yet, and takes until after the end.
        let before = server.asked().len();
        server.decide(set(json!([old.jwk("1"), next.jwk("2")])));
        client.send(&json!({"type": "token", "token": next.token_by("2", claims())}).to_string()).await;
        eventually(BOUND, "the set to be read", async || {
            if server.asked().len() > before { Ok(()) } else { Err("not asked".to_owned()) }
        })
        .await;
        // That reading says nothing of a key that is asked for now; the next one takes longer than anyone waits.
        bad.send(&json!({"type": "token", "token": next.token_by("none", claims())}).to_string()).await;
        let in_time = unix(0) < end;
        passed(end).await;
        server.let_out(1);
        client.send(r#"{"type":"ping"}"#).await;
        let renewed = client.frame("a pong, or the end").await["type"] == "pong";
        if renewed {
            Worker::open(&node).await.event("42", "1").await;
            client.event().await;
        }
        (in_time && renewed).then_some((bad, node, server))
    })
    .await;
    let bye = bad.frame("the bye, and neither an answer nor an event before it").await;
    assert_eq!((&bye["type"], &bye["code"]), (&json!("bye"), &json!(4002)), "{bye}");
}

#[tokio::test]
async fn whose_token_is_being_looked_at_does_not_count_as_silent() {
    let (old, next) = (Issuer::es256(), Issuer::eddsa());
    let server = ApiServer::start_holding(set(json!([old.jwk("1")]))).await;
    server.let_out(1);
    let url = format!("{}/keys", server.url);
    let pings = [("--ping-interval", "200ms"), ("--pong-timeout", "1s")];
    let node = NodeBuilder::local("solo").with(&pings).with(&[("--auth", "jwt"), ("--jwt-jwks", &url)]);
    let node = node.start().await;
    let mut client = Client::open(&node, &format!("token={}", old.token_by("1", claims()))).await;
    let before = server.asked().len();
    server.decide(set(json!([old.jwk("1"), next.jwk("2")])));
    client.send(&json!({"type": "token", "token": next.token_by("2", claims())}).to_string()).await;
    eventually(BOUND, "the set to be read", async || {
        if server.asked().len() > before { Ok(()) } else { Err("not asked".to_owned()) }
    })
    .await;
    // What the client sends meanwhile, pongs too, is not read: twice as long as silence may be, half as long as the
    // node has patience with the server.
    let asked = Instant::now();
    eventually(BOUND, "the time for several pongs", async || {
        let waited = asked.elapsed();
        if waited > Duration::from_millis(2500) { Ok(()) } else { Err(format!("{waited:?}")) }
    })
    .await;
    server.let_out(10);
    client.round_trip().await;
}
