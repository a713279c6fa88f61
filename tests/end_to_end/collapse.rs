//! A flood of progress under one collapse key: it leaves one entry in the log, and hides nothing.

use serde_json::{Value, json};

use crate::support::pair::Single;
use crate::support::{Client, Node, NodeBuilder, RawClient, Scrape, http};

/// Progress events of one job, and how many are published at once: 2 KiB each, well below what may wait for a socket.
const PROGRESS: usize = 10_000;
const BATCH: usize = 250;
const PADDING: usize = 2048;
/// Results of other jobs that are published in between.
const RESULTS: usize = 40;

const SETTINGS: &[(&str, &str)] = &[("--send-queue", "1000"), ("--pong-timeout", "10m")];

async fn publish(node: &Node, items: &[Value]) {
    let answer = http::post(&node.worker_http("/publish"), &Value::from(items).to_string()).await;
    let answers = answer.json();
    let answers = answers.as_array().unwrap_or_else(|| panic!("{answer:?}"));
    assert!(answers.iter().all(|answer| answer["type"] == "ack"), "{answer:?}");
}

fn progress(number: usize) -> Value {
    let data = json!([number, "x".repeat(PADDING)]);
    json!({"userId": "42", "event": "progress", "collapseKey": "job-7", "data": data, "ref": "r"})
}

fn result(job: usize) -> Value {
    json!({"userId": "42", "event": "result", "data": [job], "ref": "r"})
}

/// The name and the number of an event, however it came.
fn told(frame: &Value) -> (String, u64) {
    assert_eq!(frame["type"], "event", "{frame}");
    let name = frame["event"].as_str().expect("a name").to_owned();
    (name, frame["data"][0].as_u64().expect("a number"))
}

fn results(seen: &[(String, u64)]) -> Vec<u64> {
    seen.iter().filter(|(name, _)| name == "result").map(|(_, job)| *job).collect()
}

fn steps(seen: &[(String, u64)]) -> Vec<u64> {
    seen.iter().filter(|(name, _)| name == "progress").map(|(_, number)| *number).collect()
}

async fn a_flood_leaves_one_entry(node: &Node) {
    let before = Client::as_user(node, "42", "away").await.welcomed("position").to_owned();
    let mut quick = Client::as_user(node, "42", "quick").await;
    let (mut slow, _) = RawClient::open(node, "userId=42&clientId=slow").await;

    let mut seen = Vec::new();
    for batch in 0..PROGRESS / BATCH {
        let mut items: Vec<Value> = (batch * BATCH..(batch + 1) * BATCH).map(progress).collect();
        items.push(result(batch));
        publish(node, &items).await;
        for _ in 0..=BATCH {
            seen.push(told(&quick.frame("each event of a batch").await));
        }
    }
    let all_results: Vec<u64> = (0..RESULTS as u64).collect();
    assert_eq!(steps(&seen), (0..PROGRESS as u64).collect::<Vec<_>>(), "whoever is not behind sees them all");
    assert_eq!(results(&seen), all_results);

    // Away the whole time: the results, the newest step, and the proof that this is all.
    let mut late = Client::open(node, &format!("userId=42&clientId=late&since={before}")).await;
    assert_eq!((&late.welcome["recovered"], &late.welcome["replayed"]), (&json!(true), &json!(RESULTS + 1)));
    let mut seen = Vec::new();
    for _ in 0..=RESULTS {
        seen.push(told(&late.frame("the log").await));
    }
    assert_eq!(results(&seen), all_results);
    assert_eq!(steps(&seen), [PROGRESS as u64 - 1]);
    late.round_trip().await;

    // 20 MB that nobody took: the socket holds some, the rest is read from the log.
    let mut seen = Vec::new();
    while steps(&seen).last() != Some(&(PROGRESS as u64 - 1)) || results(&seen).len() < RESULTS {
        seen.push(told(&slow.json("what a slow reader gets").await));
    }
    assert_eq!(results(&seen), all_results);
    let steps = steps(&seen);
    assert!(steps.is_sorted(), "out of order: {steps:?}");
    assert!(steps.len() < PROGRESS, "the kernel cannot have kept 20 MB for it");
    assert_eq!(Scrape::of(node).await.get("gaps_total"), 0.0);
    assert!(Scrape::of(node).await.get("catch_ups_total") >= 1.0);
}

#[tokio::test]
async fn ten_thousand_steps_of_a_job_leave_one_entry_in_redis() {
    let mut single = Single::with(SETTINGS).await;
    a_flood_leaves_one_entry(&single.a).await;
    let log = single.db.stream("log:{user:42}").await;
    assert_eq!(log.len(), RESULTS + 1);
    let steps = log.iter().filter(|entry| entry.get("event") == "progress");
    assert_eq!(steps.map(|entry| entry.get("collapse")).collect::<Vec<_>>(), ["job-7"]);
}

#[tokio::test]
async fn ten_thousand_steps_of_a_job_leave_one_entry_in_memory() {
    let node = NodeBuilder::local("solo").with(SETTINGS).start().await;
    a_flood_leaves_one_entry(&node).await;
}
