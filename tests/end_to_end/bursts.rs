//! Much at once for one client that reads: all of it comes, whatever it is and whatever the log keeps.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::{data, numbers};
use crate::support::pair::{Pair, Single};
use crate::support::raw::{FIN, TEXT, frame};
use crate::support::terminal::{line_at, run};
use crate::support::wait::same;
use crate::support::{BOUND, Client, Node, NodeBuilder, RawClient, Scrape, Worker, eventually, http};

/// As many as one request may carry, and four times as many as the log keeps and as may wait for a slow socket.
const ITEMS: usize = 1000;
/// Frames of a worker that does not wait for answers: more than one worker may have on their way.
const FRAMES: usize = 2000;

/// Each kind of event.
fn kinds() -> Vec<Value> {
    vec![
        json!({"userId": "42", "event": "e"}),
        json!({"userId": "42", "event": "e", "transient": true}),
        json!({"userId": "42", "event": "e", "collapseKey": "job"}),
        json!({"broadcast": true, "event": "e"}),
    ]
}

/// What counts from 1, of one kind.
fn counting(kind: &Value, most: usize) -> Vec<Value> {
    let numbered = |number| {
        let mut item = kind.clone();
        item["data"] = json!(number);
        item
    };
    (1..=most).map(numbered).collect()
}

/// What follows on a burst: it is logged, and comes whatever else was dropped.
fn last_word() -> Value {
    json!({"userId": "42", "event": "e", "data": "last"})
}

/// Publishes the last word where nothing is on its way there any more.
async fn say_last_word(node: &Node) {
    Worker::open(node).await.publish(last_word()).await;
}

/// The numbers of all that comes before the last word, as texts, whatever stands behind them; of a gap, `null`.
async fn before_last_word(client: &mut Client) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let frame = client.frame("an event, or the last word").await;
        if frame["data"] == "last" {
            return seen;
        }
        let data = &frame["data"];
        seen.push(data.get(0).unwrap_or(data).to_string());
    }
}

/// Tells a case again where the machine kept a thread that writes, or the test, off its core: in some 10 ms an outbox
/// runs over. A node that gives its sockets no time loses much each time.
async fn unless_held_up<T>(what: &str, case: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually(3 * BOUND, what, case).await
}

async fn all_of_a_request_arrives(node: &Node) {
    for (at, kind) in kinds().into_iter().enumerate() {
        let items = Value::from(counting(&kind, ITEMS)).to_string();
        let mut attempt = 0;
        unless_held_up(&format!("all of {kind}"), async || {
            attempt += 1;
            let mut client = Client::as_user(node, "42", &format!("tab-{at}-{attempt}")).await;
            let answer = http::post(&node.worker_http("/publish"), &items).await.json();
            let acks =
                answer.as_array().map(|answers| answers.iter().filter(|one| one["type"] == "ack").count());
            assert_eq!(acks, Some(ITEMS), "{kind}");
            say_last_word(node).await;
            same(before_last_word(&mut client).await, numbers(1, ITEMS))?;
            client.close().await;
            Ok(())
        })
        .await;
    }
}

async fn all_of_one_write_arrives(node: &Node) {
    for (at, kind) in kinds().into_iter().enumerate() {
        let text = |item: &Value| frame(FIN | TEXT, item.to_string().as_bytes());
        let items = [counting(&kind, FRAMES), vec![last_word()]].concat();
        let frames: Vec<u8> = items.iter().flat_map(text).collect();
        let mut attempt = 0;
        unless_held_up(&format!("all of {kind}"), async || {
            attempt += 1;
            let mut client = Client::as_user(node, "42", &format!("tab-{at}-{attempt}")).await;
            let mut worker = RawClient::upgrade_at(node.worker_address(), "").await;
            assert!(worker.write(&frames).await);
            same(before_last_word(&mut client).await, numbers(1, FRAMES))?;
            client.close().await;
            Ok(())
        })
        .await;
    }
}

#[tokio::test]
async fn all_of_a_request_arrives_in_memory() {
    // One thread, and two.
    for id in ["node-a", "solo"] {
        all_of_a_request_arrives(&NodeBuilder::local(id).start().await).await;
    }
}

#[tokio::test]
async fn all_of_a_request_arrives_through_redis() {
    all_of_a_request_arrives(&Single::start().await.a).await;
}

#[tokio::test]
async fn all_of_one_write_arrives_in_memory() {
    for id in ["node-a", "solo"] {
        all_of_one_write_arrives(&NodeBuilder::local(id).start().await).await;
    }
}

#[tokio::test]
async fn all_of_one_write_arrives_through_redis() {
    all_of_one_write_arrives(&Single::start().await.a).await;
}

/// More events than may wait in a node, each item with as many as one may have.
fn many_for_many() -> Vec<Value> {
    let users: Vec<String> = (0..1000).map(|number| format!("u{number}")).collect();
    (0..20).map(|number| json!({"userIds": users, "event": "e", "data": number, "ref": "r"})).collect()
}

/// A thousand ids in each.
fn check_acks(answers: &[Value]) {
    assert_eq!(answers.len(), 20);
    for answer in answers {
        let ids = answer["ids"].as_array().map(Vec::len);
        assert_eq!((answer["type"].as_str(), ids), (Some("ack"), Some(1000)), "{answer}");
    }
}

#[tokio::test]
async fn items_that_come_to_more_than_may_wait_are_published_one_after_the_other() {
    let (memory, single) = (NodeBuilder::local("node-a").start().await, Single::start().await);
    for node in [&memory, &single.a] {
        let mut client = Client::as_user(node, "u7", "tab-1").await;
        let items = Value::from(many_for_many()).to_string();
        let answer = http::post(&node.worker_http("/publish"), &items).await.json();
        check_acks(answer.as_array().unwrap());
        assert_eq!(data(&client.events(20).await), numbers(0, 19));
    }
}

#[tokio::test]
async fn frames_that_come_to_more_than_may_wait_are_read_one_after_the_other() {
    let (memory, single) = (NodeBuilder::local("node-a").start().await, Single::start().await);
    for node in [&memory, &single.a] {
        let mut worker = Worker::open(node).await;
        for frame in many_for_many() {
            worker.send(&frame.to_string()).await;
        }
        let mut answers = Vec::new();
        for _ in 0..20 {
            answers.push(worker.answer().await);
        }
        check_acks(&answers);
    }
}

#[tokio::test]
async fn broadcasts_and_events_of_one_write_keep_their_order() {
    // What is shown is the order: there is room for all of them, whatever the machine holds up.
    let pair = Pair::with(&[("--send-queue", &ITEMS.to_string())]).await;
    // At another node than the worker's, both kinds come by the inbox; at the same node, neither.
    let mut clients =
        [Client::as_user(&pair.a, "42", "tab-1").await, Client::as_user(&pair.b, "42", "tab-2").await];
    let mut worker = RawClient::upgrade_at(pair.a.worker_address(), "").await;
    let kinds = [&kinds()[0], &kinds()[3]].map(|kind| counting(kind, ITEMS));
    // Changing places after every one, two and three.
    let items = (0..ITEMS).map(|at| &kinds[usize::from(at % 6 == 0 || at % 6 > 3)][at]);
    let frames: Vec<u8> = items.flat_map(|item| frame(FIN | TEXT, item.to_string().as_bytes())).collect();
    assert!(worker.write(&frames).await);
    for client in &mut clients {
        assert_eq!(data(&client.events(ITEMS).await), numbers(1, ITEMS));
    }
}

#[tokio::test]
async fn all_lines_of_standard_input_arrive_in_memory() {
    let node = NodeBuilder::local("node-a").start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let lines: Vec<String> = counting(&kinds()[0], FRAMES).iter().map(Value::to_string).collect();
    let ran = run(&line_at(&node, &["publish"]), &lines.join("\n")).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(data(&client.events(FRAMES).await), numbers(1, FRAMES));
}

#[tokio::test]
async fn a_short_queue_and_large_events_arrive_as_well_in_memory() {
    let node = NodeBuilder::local("node-a").set("--send-queue", "4").start().await;
    let pad = "x".repeat(600 * 1024);
    let large = |number: usize| {
        json!({"userId": "42", "event": "e", "data": [number, pad], "transient": true}).to_string()
    };
    let items = format!("[{}]", (0..16).map(large).collect::<Vec<_>>().join(","));
    let mut attempt = 0;
    let mut client = unless_held_up("all large events", async || {
        attempt += 1;
        let mut client = Client::as_user(&node, "42", &format!("tab-{attempt}")).await;
        http::post(&node.worker_http("/publish"), &items).await;
        say_last_word(&node).await;
        same(before_last_word(&mut client).await, numbers(0, 15))?;
        Ok(client)
    })
    .await;
    let items = Value::from(counting(&kinds()[1], ITEMS)).to_string();
    http::post(&node.worker_http("/publish"), &items).await;
    assert_eq!(data(&client.events(ITEMS).await), numbers(1, ITEMS));
}

#[tokio::test]
async fn who_does_not_read_beside_it_costs_the_reader_nothing_in_memory() {
    let pad = "x".repeat(8 * 1024);
    // Each time with a node of its own: what it first does beside someone who does not read is the point.
    let (node, _deaf) = unless_held_up("all of it for the reader", async || {
        let node = NodeBuilder::local("node-a").set("--pong-timeout", "10m").start().await;
        let (deaf, _) = RawClient::open_narrow(&node, "userId=42&clientId=deaf").await;
        let mut client = Client::as_user(&node, "42", "tab-1").await;
        for round in 0..2 {
            for kind in kinds() {
                let mut items = counting(&kind, ITEMS);
                items.iter_mut().for_each(|item| item["data"] = json!([item["data"], pad]));
                http::post(&node.worker_http("/publish"), &Value::from(items).to_string()).await;
                say_last_word(&node).await;
                same(before_last_word(&mut client).await, numbers(1, ITEMS))
                    .map_err(|error| format!("{kind}, round {round}: {error}"))?;
            }
        }
        Ok((node, deaf))
    })
    .await;
    // Others are served as if nothing was.
    let mut other = Client::as_user(&node, "43", "tab-1").await;
    let id = Worker::open(&node).await.event("43", "1").await;
    assert_eq!(other.event().await.id, Some(id));
}

#[tokio::test]
async fn many_who_read_get_all_of_many_broadcasts_in_memory() {
    let node = NodeBuilder::local("node-a").start().await;
    let mut clients = Vec::new();
    for number in 0..50 {
        clients.push(Client::as_user(&node, &format!("u{number}"), "tab-1").await);
    }
    let items = Value::from(counting(&json!({"broadcast": true, "event": "e"}), ITEMS)).to_string();
    http::post(&node.worker_http("/publish"), &items).await;
    for client in &mut clients {
        assert_eq!(data(&client.events(ITEMS).await), numbers(1, ITEMS));
    }
}

#[tokio::test]
async fn all_of_what_an_inbox_has_gathered_arrives() {
    let pair = Pair::with(&[("--node-ttl", "1m")]).await;
    // One thread, and two.
    for (node, worker) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        for (at, kind) in kinds().into_iter().enumerate() {
            let items = Value::from(counting(&kind, ITEMS)).to_string();
            let catch_ups = async || Scrape::of(node).await.get("catch_ups_total");
            let mut attempt = 0;
            unless_held_up(&format!("all of {kind} at {}", node.id), async || {
                attempt += 1;
                let (mut clients, before) = (Vec::new(), catch_ups().await);
                for number in 0..20 {
                    let client = format!("{}-{at}-{attempt}-{number}", node.id);
                    clients.push(Client::as_user(node, "42", &client).await);
                }
                // What is waiting by then is read at once.
                node.signal(Signal::STOP);
                http::post(&worker.worker_http("/publish"), &items).await;
                node.signal(Signal::CONT);
                say_last_word(worker).await;
                let mut seen = Vec::new();
                for mut client in clients {
                    seen.push(before_last_word(&mut client).await);
                    client.close().await;
                }
                seen.into_iter().try_for_each(|seen| same(seen, numbers(1, ITEMS)))?;
                same(catch_ups().await, before)
            })
            .await;
        }
    }
}
