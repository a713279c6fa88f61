//! Following one user live: every step on every node, set and unset by hand or from the command line, lapsing by itself.

use std::collections::BTreeMap;

use redis::cmd;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::db::Db;
use crate::support::pair::Single;
use crate::support::process::Process;
use crate::support::terminal::{at, line, line_at};
use crate::support::wait::same;
use crate::support::{BOUND, Client, Node, NodeBuilder, Pair, RedisServer, Worker, eventually, http, within};

/// Follows a user by hand, as the README says.
async fn follow(db: &mut Db, user: &str, ms: u64) {
    let time: (u64, u64) = db.run(&cmd("TIME")).await;
    let until = time.0 * 1000 + time.1 / 1000 + ms;
    let _: u64 = db.run(cmd("ZADD").arg("traced").arg(until).arg(user)).await;
}

/// The steps of a user as `(node, step, event id)`, once there is one that fits.
async fn steps(db: &mut Db, user: &str, awaited: (&str, &str, &str)) -> Vec<BTreeMap<String, String>> {
    let key = format!("traces:{{user:{user}}}");
    eventually(BOUND, &format!("the step {awaited:?}"), async || {
        let steps: Vec<_> = db.stream(&key).await.into_iter().map(|entry| entry.fields).collect();
        let of = |step: &BTreeMap<String, String>, name: &str| step.get(name).cloned().unwrap_or_default();
        let there =
            steps.iter().any(|step| (of(step, "node"), of(step, "step"), of(step, "id")) == owned(awaited));
        if there { Ok(steps) } else { Err(format!("{steps:#?}")) }
    })
    .await
}

fn owned((node, step, id): (&str, &str, &str)) -> (String, String, String) {
    (node.to_owned(), step.to_owned(), id.to_owned())
}

/// Waits until both nodes have learnt that a user is followed: a step of each is there.
async fn learnt(pair: &mut Pair, user: &str) {
    for node in [&pair.a, &pair.b] {
        let key = format!("traces:{{user:{user}}}");
        eventually(BOUND, "a step of each node", async || {
            let client = Client::as_user(node, user, "probe").await;
            client.close().await;
            let entries = pair.db.stream(&key).await;
            let there = entries.iter().any(|entry| entry.get("node") == node.id);
            if there { Ok(()) } else { Err(format!("{} entries", entries.len())) }
        })
        .await;
    }
}

#[tokio::test]
async fn every_step_of_an_event_is_noted_with_its_time_and_node() {
    let mut pair = Pair::with(&[("--ping-interval", "100ms")]).await;
    follow(&mut pair.db, "42", 60_000).await;
    learnt(&mut pair, "42").await;
    let mut client = Client::as_user(&pair.b, "42", "tab-1").await;
    let mut worker = Worker::open(&pair.a).await;
    let id = worker.event("42", "\"a secret\"").await;
    client.event().await;
    client.pinged_twice().await;
    client.send(&format!(r#"{{"type":"ack","id":"{id}"}}"#)).await;
    client.close().await;
    steps(&mut pair.db, "42", ("node-b", "confirmed", &id)).await;
    let steps = eventually(BOUND, "the end of the session", async || {
        let steps = steps(&mut pair.db, "42", ("node-b", "written", &id)).await;
        let last = steps.last().unwrap();
        same((last["step"].as_str(), last["client"].as_str()), ("disconnected", "tab-1"))?;
        Ok(steps)
    })
    .await;
    let of_event: Vec<_> = steps
        .iter()
        .filter(|step| step.get("id") == Some(&id))
        .map(|step| (step["node"].as_str(), step["step"].as_str()))
        .collect();
    for step in [
        ("node-a", "published"),
        ("node-a", "sent"),
        ("node-b", "taken"),
        ("node-b", "written"),
        ("node-b", "confirmed"),
    ] {
        assert!(of_event.contains(&step), "{step:?} in {of_event:?}");
    }
    let confirmed = of_event.iter().filter(|(_, step)| *step == "confirmed").count();
    assert_eq!(confirmed, 1, "what is confirmed again is no step: {of_event:?}");
    let published = steps.iter().find(|step| step["step"] == "published").unwrap();
    assert_eq!((published["nodes"].as_str(), published["via"].as_str()), ("node-b", "worker"));
    assert_eq!(published["event"], "e");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at: f64 = published["at"].parse().unwrap();
    assert!((now.as_secs_f64() * 1000.0 - at).abs() < 60_000.0, "Unix ms: {at}");
    let shown = format!("{steps:?}");
    assert!(shown.contains("connected") && !shown.contains("a secret"), "{shown}");
    assert!(pair.db.ttl_ms("traces:{user:42}").await > 0, "the steps lapse by themselves");
}

#[tokio::test]
async fn replay_gaps_and_ingress_are_noted_too() {
    let stage = Single::with(&[("--log-length", "2")]).await;
    let (node, mut db) = (&stage.a, stage.db.clone());
    let put = http::request(reqwest::Method::PUT, &node.worker_http("/users/42/trace"), &[], None).await;
    assert_eq!(put.unwrap().status, 200);
    for number in ["1", "2", "3"] {
        db.xadd("events", &[("user", "42"), ("event", "e"), ("data", number), ("key", number)]).await;
    }
    let ids = eventually(BOUND, "three events", async || {
        let ids = db.log_ids("42").await;
        same(db.stream("events").await.len(), 0)?;
        same(ids.len(), 2)?;
        Ok(ids)
    })
    .await;
    let mut client = Client::open(node, "userId=42&clientId=tab-1&since=1-0").await;
    assert_eq!(client.frame("a gap").await["type"], "gap");
    client.events(2).await;
    let steps = steps(&mut db, "42", ("node-a", "written", &ids[1])).await;
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str()).collect();
    assert_eq!(names.iter().filter(|name| **name == "replayed").count(), 2, "{names:?}");
    assert!(names.contains(&"gap"), "{names:?}");
    let published = steps.iter().find(|step| step["step"] == "published").unwrap();
    assert_eq!(published["via"], "ingress");
}

#[tokio::test]
async fn nobody_else_is_noted_and_the_time_runs_out() {
    let mut pair = Pair::start().await;
    follow(&mut pair.db, "42", 60_000).await;
    learnt(&mut pair, "42").await;
    let mut worker = Worker::open(&pair.a).await;
    worker.event("43", "1").await;
    // The end is near only now: both nodes had all the time to learn of the beginning.
    follow(&mut pair.db, "42", 500).await;
    eventually(BOUND, "the end of the time", async || {
        let left: u64 = pair.db.run(cmd("ZCARD").arg("traced")).await;
        same(left, 0)
    })
    .await;
    // Who knows of this one has looked since, and seen that the other is followed no more.
    follow(&mut pair.db, "44", 60_000).await;
    learnt(&mut pair, "44").await;
    let unseen = worker.event("42", "1").await;
    let client = Client::as_user(&pair.a, "42", "late").await;
    client.close().await;
    // Steps are written by the batch: with the second of these there is whatever came before the first.
    for data in ["1", "2"] {
        let id = worker.event("44", data).await;
        steps(&mut pair.db, "44", ("node-a", "published", &id)).await;
    }
    let told = pair.db.stream("traces:{user:42}").await;
    let about =
        |name: &str, value: &str| told.iter().any(|step| step.fields.get(name).is_some_and(|it| it == value));
    assert!(!about("id", &unseen) && !about("client", "late"), "its time is over: {told:#?}");
    assert!(!pair.db.exists("traces:{user:43}").await, "nobody follows them");
}

#[tokio::test]
async fn the_command_line_follows_and_leaves() {
    let mut pair = Pair::start().await;
    let mut trace = line_at(&pair.a, &["trace", "--user", "a|42", "--for", "2m"]).spawn("trace");
    trace.log_line(BOUND, "the beginning", |line| line.contains("following a|42 for 2m")).await;
    let left: f64 = pair.db.run(cmd("ZSCORE").arg("traced").arg("a|42")).await;
    assert!(left > 0.0);
    let mut client = Client::open(&pair.b, "userId=a%7C42&clientId=tab-1").await;
    let mut worker = Worker::open(&pair.a).await;
    // The other node learns of it within a second: until then events pass unseen there.
    eventually(BOUND, "a line of the other node", async || {
        let id = worker.event("a|42", "1").await;
        client.event().await;
        let lines = trace.lines();
        let written = |line: &&String| line.contains("node-b") && line.contains("written");
        let seen = lines.iter().find(written).ok_or_else(|| lines.join("\n"))?;
        if seen.contains("client=tab-1") { Ok(id) } else { Err(seen.clone()) }
    })
    .await;
    let published = |line: &str| line.contains("node-a") && line.contains("published");
    trace.log_line(BOUND, "a line of the node that was asked", published).await;
    trace.signal(Signal::INT);
    assert_eq!(trace.exit(BOUND).await.code(), Some(0), "{}", trace.lines().join("\n"));
    let left: Option<f64> = pair.db.run(cmd("ZSCORE").arg("traced").arg("a|42")).await;
    assert_eq!(left, None);
}

/// A running trace of a user.
async fn trace(node: &Node, user: &str) -> Process {
    let trace = line_at(node, &["trace", "--user", user]).spawn("trace");
    trace.log_line(BOUND, "the beginning", |line| line.contains(&format!("following {user}"))).await;
    trace
}

/// Publishes until a trace prints of one of these events.
async fn traced(trace: &Process, worker: &mut Worker, user: &str) {
    let mut ids = Vec::new();
    eventually(2 * BOUND, "a step of an event of now", async || {
        let answer = worker.ask(&json!({"ref": "now", "userId": user, "event": "e"}).to_string()).await;
        ids.extend(answer["id"].as_str().map(str::to_owned));
        let lines = trace.lines();
        let shown = |line: &String| line.contains("published") && ids.iter().any(|id| line.contains(id));
        if lines.iter().any(shown) { Ok(()) } else { Err(format!("{answer}, {}", lines.join("\n"))) }
    })
    .await;
}

#[tokio::test]
async fn an_interrupt_is_heard_while_the_node_says_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", silent.local_addr().unwrap());
    let mut trace = line(&["trace", "--user", "42", "--worker-url", &url]).spawn("trace");
    let _asked = within(BOUND, "a request", silent.accept()).await.unwrap();
    trace.signal(Signal::INT);
    assert_eq!(trace.exit(BOUND).await.code(), Some(0), "{}", trace.lines().join("\n"));
}

#[tokio::test]
async fn it_goes_on_where_redis_was_away_and_has_lost_who_is_followed() {
    let mut redis = RedisServer::start().await;
    let node = NodeBuilder::redis("node-a", &redis).start().await;
    let mut worker = Worker::open(&node).await;
    let mut trace = trace(&node, "42").await;
    traced(&trace, &mut worker, "42").await;
    redis.kill();
    trace.log_line(2 * BOUND, "that Redis is away", |line| line.contains("unavailable: ")).await;
    redis.start_again().await;
    traced(&trace, &mut worker, "42").await;
    trace.signal(Signal::INT);
    assert_eq!(trace.exit(BOUND).await.code(), Some(0), "{}", trace.lines().join("\n"));
}

#[tokio::test]
async fn who_leaves_ends_it_for_nobody_else() {
    let mut pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let (mut one, other) = (trace(&pair.a, "42").await, trace(&pair.b, "42").await);
    one.signal(Signal::INT);
    assert_eq!(one.exit(BOUND).await.code(), Some(0));
    // Who knows of this one has looked since.
    follow(&mut pair.db, "44", 60_000).await;
    learnt(&mut pair, "44").await;
    traced(&other, &mut worker, "42").await;
}

#[tokio::test]
async fn a_node_in_memory_can_be_asked_the_same() {
    let node = NodeBuilder::local("solo").start().await;
    let url = node.worker_http("/users/42/trace");
    let put = |body: &'static str| http::request(reqwest::Method::PUT, &url, &[], Some(body));
    let begun = put(r#"{"forMs":60000}"#).await.unwrap();
    assert_eq!(begun.status, 200, "{begun:?}");
    assert_eq!(begun.json()["forMs"], 60_000);
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let id = Worker::open(&node).await.event("42", "1").await;
    client.event().await;
    let after = begun.json()["after"].as_str().unwrap().to_owned();
    let steps = eventually(BOUND, "the steps", async || {
        let answer = http::get(&format!("{url}?after={after}")).await.json();
        let steps = answer["steps"].as_array().cloned().unwrap_or_default();
        let names: Vec<_> = steps.iter().map(|step| step["step"].as_str().unwrap_or_default()).collect();
        same(names, vec!["connected", "published", "taken", "written"])?;
        Ok(steps.clone())
    })
    .await;
    assert_eq!((&steps[3]["id"], &steps[3]["node"]), (&json!(id), &json!("solo")));
    let last = steps[3]["place"].as_str().unwrap();
    let rest = http::get(&format!("{url}?after={last}")).await.json();
    assert_eq!(rest["steps"], Value::Array(vec![]));
    assert_eq!(http::delete(&url).await.status, 204);
    for (body, code) in [
        ("7", "invalid_frame"),
        (r#"{"forMs":0}"#, "invalid_frame"),
        (r#"{"forMs":86400001}"#, "invalid_frame"),
        (r#"{"for":"10m"}"#, "invalid_frame"),
    ] {
        assert_eq!(put(body).await.unwrap().refused(400), code, "{body}");
    }
    for off in ["after=x", "after=0&after=0"] {
        assert_eq!(http::get(&format!("{url}?{off}")).await.refused(400), "invalid_since", "{off}");
    }
    assert_eq!(at(&node, &["trace", "--user", "a b"]).await.code, Some(1));
    assert_eq!(at(&node, &["trace", "--user", "42", "--for", "2days"]).await.code, Some(2));
}
