//! `switchboard tail`: frames on standard output, coming back and resuming, exit codes.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::client::parse_event;
use crate::support::node::two_ports;
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::terminal::{at, line_at};
use crate::support::tokens::{Issuer, SECRET};
use crate::support::{BOUND, Node, NodeBuilder, RedisServer, Worker, eventually, http};

/// A running tail.
fn tail(node: &Node, args: &[&str]) -> Process {
    line_at(node, &[&["tail"], args].concat()).spawn("tail")
}

/// The data of the events that it has printed.
fn events(tail: &Process) -> Vec<String> {
    tail.lines().iter().filter_map(|line| parse_event(line)).map(|event| event.data).collect()
}

async fn printed(tail: &Process, wanted: &[&str]) {
    eventually(2 * BOUND, &format!("the events {wanted:?}"), async || {
        let seen = events(tail);
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

async fn welcomed(tail: &Process, times: usize) -> Value {
    eventually(2 * BOUND, &format!("welcome number {times}"), async || {
        let lines = tail.lines();
        let mut frames = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut welcomes = frames.by_ref().filter(|frame| frame["type"] == "welcome");
        welcomes.nth(times - 1).ok_or_else(|| lines.join("\n"))
    })
    .await
}

#[tokio::test]
async fn frames_are_printed_and_an_interrupt_is_a_clean_goodbye() {
    let node = NodeBuilder::local("node-a").start().await;
    let mut worker = Worker::open(&node).await;
    worker.event("42", "1").await;
    let mut tail = tail(&node, &["--user", "42", "--client", "tab-1", "--since", "0"]);
    let welcome = welcomed(&tail, 1).await;
    assert_eq!((&welcome["userId"], &welcome["clientId"]), (&"42".into(), &"tab-1".into()));
    worker.event("42", r#"{"b": 1e400}"#).await;
    worker.event("42", "{\"c\":\r\n1,\"d\":\n2}").await;
    printed(&tail, &["1", r#"{"b": 1e400}"#, r#"{"c":  1,"d": 2}"#]).await;
    tail.signal(Signal::INT);
    assert_eq!(tail.exit(BOUND).await.code(), Some(0));
    let user = http::get(&node.worker_http("/users/42")).await.json();
    assert_eq!(user["online"], false, "it said goodbye: {user}");
}

#[tokio::test]
async fn a_token_opens_where_tokens_are_asked_for() {
    let node = NodeBuilder::local("node-a").set("--auth", "jwt").env("JWT_SECRET", SECRET).start().await;
    let token = Issuer::hs256().token_of("42");
    let tail = tail(&node, &["--user", "42", "--token", &token]);
    assert_eq!(welcomed(&tail, 1).await["userId"], "42");
    Worker::open(&node).await.event("42", "1").await;
    printed(&tail, &["1"]).await;
    for args in [&["tail", "--user", "42"][..], &["tail", "--user", "43", "--token", &token]] {
        let ran = at(&node, args).await;
        assert_eq!(ran.code, Some(1), "{args:?}: {ran:?}");
        assert!(ran.err.contains("unauthorized") && ran.out.is_empty(), "{args:?}: {ran:?}");
    }
}

#[tokio::test]
async fn it_comes_back_and_resumes_through_a_crash_and_a_drain() {
    let redis = RedisServer::start().await;
    let (client_port, worker_port) = two_ports();
    let builder = NodeBuilder::redis("node-a", &redis)
        .set("--client-port", &client_port.to_string())
        .set("--worker-port", &worker_port.to_string())
        .set("--node-ttl", "600ms");
    let other = NodeBuilder::redis("node-b", &redis).start().await;
    let mut worker = Worker::open(&other).await;
    let mut node = builder.start().await;
    let tail = tail(&node, &["--user", "42"]);
    welcomed(&tail, 1).await;
    worker.event("42", "1").await;
    printed(&tail, &["1"]).await;

    node.kill();
    worker.event("42", "2").await;
    let mut node = builder.start().await;
    printed(&tail, &["1", "2"]).await;
    assert_eq!(welcomed(&tail, 2).await["recovered"], true);

    node.signal(Signal::TERM);
    node.exit(2 * BOUND).await;
    worker.event("42", "3").await;
    let _node = builder.start().await;
    printed(&tail, &["1", "2", "3"]).await;
    let bye = tail.lines().iter().any(|line| line.contains(r#""type":"bye","code":1012"#));
    assert!(bye, "{}", tail.lines().join("\n"));
}

#[tokio::test]
async fn it_stays_away_where_the_node_says_so() {
    let node = NodeBuilder::local("node-a").start().await;
    let mut tail = tail(&node, &["--user", "42"]);
    welcomed(&tail, 1).await;
    http::delete(&node.worker_http("/users/42/sessions")).await;
    assert_eq!(tail.exit(BOUND).await.code(), Some(1));
    let told = |line: &str| line.starts_with("switchboard:") && line.contains("4010");
    tail.log_line(BOUND, "why it ended", told).await;
}

#[tokio::test]
async fn refusals_and_absent_nodes_end_it_with_1() {
    let node = NodeBuilder::local("node-a").start().await;
    for (args, code) in [
        (&["tail", "--user", "a b"][..], "invalid_user_id"),
        (&["tail", "--user", "42", "--client", "@"], "invalid_client_id"),
        (&["tail", "--user", "42", "--since", "x"], "invalid_since"),
    ] {
        let ran = at(&node, args).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(code) && ran.out.is_empty(), "{ran:?}");
    }
    let url = format!("ws://127.0.0.1:{}", free_port());
    let ran = at(&node, &["tail", "--user", "42", "--client-url", &url]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains(&url) && ran.err.contains("--client-url"), "{ran:?}");
    assert_eq!(at(&node, &["tail"]).await.code, Some(2), "whose frames?");
}

#[tokio::test]
async fn a_port_that_welcomes_nobody_is_told() {
    let node = NodeBuilder::local("node-a").start().await;
    let workers = node.worker_http("").replace("http://", "ws://");
    let tail = line_at(&node, &["tail", "--user", "42", "--client-url", &workers]).spawn("tail");
    tail.log_line(3 * BOUND, "a hint", |line| line.contains("is this a client port?")).await;
}

#[tokio::test]
async fn a_node_that_is_busy_is_asked_again() {
    let node = NodeBuilder::local("node-a").set("--max-sessions-per-user", "1").start().await;
    let first = tail(&node, &["--user", "42"]);
    welcomed(&first, 1).await;
    let second = tail(&node, &["--user", "42"]);
    second.log_line(BOUND, "a refusal", |line| line.contains("too_many_sessions")).await;
    first.signal(Signal::INT);
    welcomed(&second, 1).await;
}

#[tokio::test]
async fn it_ends_quietly_when_nobody_reads_on() {
    let node = NodeBuilder::local("node-a").start().await;
    let (mut command, _dir) = line_at(&node, &["tail", "--user", "42"]).command();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut welcome = String::new();
    out.read_line(&mut welcome).unwrap();
    assert!(welcome.contains("welcome"), "{welcome}");
    drop(out);
    Worker::open(&node).await.event("42", "1").await;
    let status = eventually(BOUND, "its end", async || {
        child.try_wait().unwrap().ok_or_else(|| "still running".to_owned())
    })
    .await;
    let told = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!((status.code(), told.as_str()), (Some(0), ""));
}
