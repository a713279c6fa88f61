//! How a node gets in: TLS with an authority and a certificate of its own, a user with few rights, a socket.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::support::ports::free_port;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Node, NodeBuilder, RedisServer, Worker, eventually, http};

const PAGE: &str = include_str!("../../src/docs/redis.md");

/// The smallest rule that works, as the handbook has it.
pub fn documented_rule() -> String {
    let line = PAGE.lines().find(|line| line.starts_with("ACL SETUSER switchboard "));
    line.expect("the ACL line in the handbook").to_owned()
}

/// What the handbook wants besides in some case: what it quotes after these words.
pub fn documented_addition(words: &str) -> String {
    let (_, rights) = PAGE.split_once("ACL SETUSER").expect("the rule in the handbook");
    let (_, after) = rights.split_once(words).unwrap_or_else(|| panic!("the handbook says nothing {words}"));
    after.split('`').nth(1).expect("a quotation").to_owned()
}

/// What a server has refused for want of rights.
pub async fn refused(server: &RedisServer) -> Vec<String> {
    let log = server.ask::<Vec<redis::Value>>(&["ACL", "LOG"]).await;
    log.iter().map(|entry| format!("{entry:?}")).collect()
}

/// Whether the stream that was made anew takes no ids from before that; where it does, it is deleted once more.
const REFUSES_EARLIER_IDS: &str = "
    local added = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', '1-1', 'user', '42', 'event', 'e')
    if type(added) == 'table' and added.err then return 1 end
    redis.call('DEL', KEYS[1])
    return 0";

/// Publish, replay, ingress, crash, clean-up, drain; with whatever `builder` connects by.
async fn whole_life(server: &RedisServer, builder: impl Fn(&str) -> NodeBuilder) {
    let settings = [("--node-ttl", "1500ms"), ("--drain-timeout", "200ms")];
    let mut a = builder("node-a").with(&settings).start().await;
    let mut b = builder("node-b").with(&settings).start().await;
    let mut worker = Worker::open(&b).await;
    let mut client = Client::as_user(&a, "42", "tab-1").await;
    let first = worker.event("42", "1").await;
    assert_eq!(client.event().await.data, "1");
    client.send(r#"{"type":"message","event":"up","data":1}"#).await;
    server.ask::<String>(&["XADD", "events", "*", "user", "42", "event", "e", "data", "2"]).await;
    server.ask::<String>(&["XADD", "events", "*", "user", "4 2", "event", "e"]).await;
    assert_eq!(client.event().await.data, "2");
    worker.publish(json!({"userId": "42", "event": "e", "data": 3, "key": "k", "collapseKey": "c"})).await;
    worker.publish(json!({"userId": "42", "event": "e", "data": 4, "collapseKey": "c"})).await;
    worker.publish(json!({"broadcast": true, "event": "e"})).await;
    let mut again = Client::open(&b, &format!("userId=42&clientId=tab-2&since={first}")).await;
    assert_eq!(again.welcome["recovered"], true);
    assert_eq!(again.event().await.data, "2");
    for (stream, length) in [("uplink", 1), ("events:dead", 1)] {
        eventually(BOUND, stream, async || same(server.ask::<usize>(&["XLEN", stream]).await, length)).await;
    }
    server.ask::<i64>(&["DEL", "events"]).await;
    // A node that has not looked for the stream before takes it for the first there is.
    eventually(BOUND, "an ingress stream that takes no earlier ids", async || {
        same(server.ask::<i64>(&["EVAL", REFUSES_EARLIER_IDS, "1", "events"]).await, 1)
    })
    .await;
    a.kill();
    eventually(BOUND, "the crash cleared up", async || {
        let members: Vec<String> = server.ask(&["SMEMBERS", "user:42"]).await;
        same(members, vec!["tab-2@node-b".to_owned()])
    })
    .await;
    eventually(BOUND, "the dead node's keys gone", async || {
        same(server.ask::<i64>(&["EXISTS", "node:node-a", "inbox:{node:node-a}"]).await, 0)
    })
    .await;
    b.signal(Signal::TERM);
    assert!(b.exit(BOUND).await.success());
    assert_eq!(server.ask::<i64>(&["EXISTS", "user:42", "node:node-b"]).await, 0);
    for line in b.lines() {
        assert!(!line.contains("NOPERM") && !line.contains("geheim"), "{line}");
    }
}

#[tokio::test]
async fn a_user_with_the_documented_rights_can_do_everything() {
    let server = RedisServer::start().await;
    server.allow(&documented_rule()).await;
    let url = format!("redis://switchboard:geheim@127.0.0.1:{}", server.port());
    whole_life(&server, |id| NodeBuilder::redis_at(id, &url).set("--log-level", "debug")).await;
    assert_eq!(refused(&server).await, [""; 0]);
}

#[tokio::test]
async fn a_user_without_a_password_is_let_in_as_itself() {
    let server = RedisServer::start().await;
    let rule = documented_rule();
    assert!(rule.contains(" ><password> "), "{rule}");
    server.allow(&rule.replace(" ><password> ", " nopass ")).await;
    let url = format!("redis://switchboard@127.0.0.1:{}", server.port());
    let node = NodeBuilder::redis_at("node-a", &url).start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    Worker::open(&node).await.event("42", "1").await;
    assert_eq!(client.event().await.data, "1");
    let clients = server.ask::<String>(&["CLIENT", "LIST"]).await;
    let others = clients.lines().filter(|line| !line.contains(" user=switchboard "));
    assert_eq!(others.count(), 1, "the one that asks: {clients}");
}

#[tokio::test]
async fn another_database_takes_one_right_more() {
    let server = RedisServer::start().await;
    let rule = [documented_rule(), documented_addition("with a database other")].join(" ");
    server.allow(&rule).await;
    let url = format!("redis://switchboard:geheim@127.0.0.1:{}/3", server.port());
    let node = NodeBuilder::redis_at("node-a", &url).start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    Worker::open(&node).await.event("42", "1").await;
    assert_eq!(client.event().await.data, "1");
    assert_eq!(server.ask::<usize>(&["DBSIZE"]).await, 0);
    assert_eq!(refused(&server).await, [""; 0]);
}

#[tokio::test]
async fn what_keeps_a_node_out_is_told() {
    let server = RedisServer::start().await;
    server.allow("ACL SETUSER switchboard on ><password> resetchannels ~*").await;
    for (url, reason) in [
        (format!("redis://switchboard:falsch@127.0.0.1:{}", server.port()), "Password authentication failed"),
        (format!("redis://switchboard:geheim@127.0.0.1:{}", server.port()), "'info' command"),
        (format!("redis://127.0.0.1:{}", free_port()), "Connection refused"),
    ] {
        let node = NodeBuilder::redis_at("node-a", &url);
        let node = node.start_listening().await;
        eventually(BOUND, reason, async || {
            let lines = node.lines();
            assert!(
                lines.iter().all(|line| !line.contains("falsch") && !line.contains("geheim")),
                "{lines:?}"
            );
            let told = |line: &String| line.contains("Redis cannot be used") && line.contains(reason);
            if lines.iter().any(told) { Ok(()) } else { Err(lines.join("\n")) }
        })
        .await;
    }
}

/// The node is ready, as its own keys are in order, and lets nobody in.
#[tokio::test]
async fn a_right_that_is_missing_is_told_by_who_is_refused_for_it() {
    for missing in ["~cursor:*", "+smembers"] {
        let server = RedisServer::start().await;
        let rule = documented_rule();
        assert!(rule.contains(missing), "{rule}");
        server.allow(&rule.replace(missing, "")).await;
        let url = format!("redis://switchboard:geheim@127.0.0.1:{}", server.port());
        let node = NodeBuilder::redis_at("node-a", &url).start().await;
        let refused = http::upgrade(&node.client_ws("userId=42"), &[]).await;
        assert_eq!(refused.refused(503), "unavailable");
        let told = |line: &str| line.contains("refuses this") && line.contains("to let a client in");
        let line = node.log_line(BOUND, missing, told).await;
        assert!(line.contains("WARN") && !line.contains("user_script"), "{line}");
        let is_named = ["can't", "ermissions to "].iter().any(|words| line.contains(words)); // before Redis 7.2, and since
        assert!(is_named, "{line}");
        assert_eq!(http::get(&node.worker_http("/readyz")).await.status, 200);
    }
}

#[tokio::test]
async fn through_a_socket() {
    let server = RedisServer::start_with(&["--save", "", "--unixsocket", "redis.sock"]).await;
    let url = format!("unix://{}", server.dir().join("redis.sock").display());
    whole_life(&server, |id| NodeBuilder::redis_at(id, &url)).await;
}

fn openssl(dir: &TempDir, line: &str) {
    let mut command = Command::new("openssl");
    command.args(line.split_ascii_whitespace()).current_dir(dir.path());
    let output = command.stdin(Stdio::null()).output().expect("starting openssl");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a certificate of it for the server and for the node.
fn certificates() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&dir, &format!("req -x509 {new} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"));
    std::fs::write(dir.path().join("san"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("writing");
    for name in ["server", "node"] {
        openssl(&dir, &format!("req {new} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = format!("-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out {name}.pem");
        openssl(&dir, &format!("x509 -req -in {name}.csr {sign}"));
    }
    dir
}

/// A server that wants TLS at that port, with these files; none where it was built without.
async fn with_tls(files: &TempDir, port: &str) -> Option<RedisServer> {
    if !RedisServer::takes(&["--tls-port", "2"]) {
        let why = "this server was built without TLS";
        // Where somebody has chosen the server they know; else this would pass for ever without having been run.
        assert!(std::env::var_os("REDIS_SERVER").is_some(), "{why}: name another one in REDIS_SERVER");
        println!("{why}");
        return None;
    }
    let [ca, cert, key] =
        ["ca.pem", "server.pem", "server.key"].map(|name| files.path().join(name).display().to_string());
    let mut args = vec!["--save", "", "--tls-port", port, "--tls-ca-cert-file", &ca];
    args.extend(["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "yes"]);
    Some(RedisServer::start_with(&args).await)
}

/// Waits until a node publishes, by connections that it had to open anew.
async fn publishes_again(node: &Node) {
    eventually(BOUND, "an event that is published", async || {
        let answer = http::post(&node.worker_http("/publish"), r#"{"userId":"42","event":"e"}"#).await;
        same(answer.status, 200)
    })
    .await;
}

#[tokio::test]
async fn certificates_and_authorities_that_are_replaced_are_read_again() {
    let (files, others) = (certificates(), certificates());
    let port = free_port().to_string();
    let Some(mut server) = with_tls(&files, &port).await else { return };
    let path = |name: &str| files.path().join(name).display().to_string();
    let node = NodeBuilder::redis_at("node-a", &format!("rediss://127.0.0.1:{port}"));
    let node = node.set("--redis-ca", &path("ca.pem"));
    let node =
        node.set("--redis-cert", &path("node.pem")).set("--redis-key", &path("node.key")).start().await;
    for name in ["ca.pem", "node.pem", "node.key", "server.pem", "server.key"] {
        std::fs::rename(others.path().join(name), files.path().join(name)).expect("replacing a file");
    }
    server.kill();
    server.start_again().await;
    publishes_again(&node).await;
    node.log_line(BOUND, "that they have changed", |line| {
        line.contains("files that have changed") && line.contains("--redis-ca, --redis-cert, --redis-key")
    })
    .await;
}

#[tokio::test]
async fn a_password_that_is_replaced_in_its_file_is_read_again() {
    let server = RedisServer::start().await;
    server.allow(&documented_rule()).await;
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let write = |password: &str| {
        let url = format!("redis://switchboard:{password}@127.0.0.1:{}\n", server.port());
        std::fs::write(file.path(), url).expect("writing the URL");
    };
    write("geheim");
    let node = NodeBuilder::bare("node-a").env("REDIS_URL_FILE", file.path().to_str().expect("a path"));
    let mut node = node.start().await;
    write("geheim2");
    server.ask::<String>(&["ACL", "SETUSER", "switchboard", "<geheim", ">geheim2"]).await;
    server.ask::<i64>(&["CLIENT", "KILL", "USER", "switchboard"]).await;
    publishes_again(&node).await;
    let lines = node.whole_log().await;
    assert!(lines.iter().all(|line| !line.contains("geheim")), "{lines:?}");
}

#[tokio::test]
async fn through_tls_with_certificates_on_both_sides() {
    let files = certificates();
    let path = |name: &str| files.path().join(name).display().to_string();
    let (port, ca) = (free_port().to_string(), path("ca.pem"));
    let Some(server) = with_tls(&files, &port).await else { return };
    let (node_cert, node_key) = (path("node.pem"), path("node.key"));
    let trusting = |id: &str| {
        let url = format!("rediss://127.0.0.1:{port}");
        NodeBuilder::redis_at(id, &url).set("--redis-ca", &ca)
    };
    let known = |id: &str| trusting(id).set("--redis-cert", &node_cert).set("--redis-key", &node_key);
    whole_life(&server, known).await;

    // With an authority of its own nothing of the system's counts; of those, what cannot be read does not.
    let whole = std::fs::read_to_string(&ca).expect("reading");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(path("system.pem"), format!("{broken}{whole}{broken}")).expect("writing");
    let without = known("without").env("SSL_CERT_FILE", "/nowhere");
    let system = known("system").unset("--redis-ca").env("SSL_CERT_FILE", &path("system.pem"));
    for node in [without, system] {
        node.start().await;
    }

    // Without its certificate the node is not let in; without the authority it does not trust the server.
    let stranger = trusting("stranger").start_listening().await;
    let another = certificates();
    let other_ca = another.path().join("ca.pem").display().to_string();
    let doubter = known("doubter").set("--redis-ca", &other_ca).start_listening().await;
    let plain = NodeBuilder::redis_at("plain", &format!("redis://127.0.0.1:{port}")).start_listening().await;
    // One that is refused in TLS's own words may have been told before it asked anything.
    let closed = "closed the connection without an answer";
    for (node, reasons) in [
        (stranger, [closed, "CertificateRequired"]),
        (doubter, ["UnknownIssuer", "certificate"]),
        (plain, [closed, "TLS on one side alone"]),
    ] {
        let told = |line: &str| {
            line.contains("Redis cannot be used") && reasons.iter().any(|reason| line.contains(reason))
        };
        node.log_line(BOUND, "why Redis cannot be used", told).await;
    }
    assert_eq!(server.ask::<i64>(&["EXISTS", "node:stranger", "node:doubter", "node:plain"]).await, 0);
}
