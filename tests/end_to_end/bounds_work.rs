//! Work that is under way: bodies, frames, operations that wait for Redis, clients that wait to be let in.
//!
//! Redis is made to answer late by asking for a replica that there is not: a publish then takes as long as the test.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::support::api::{ApiServer, Reply};
use crate::support::pair::Single;
use crate::support::raw::{FIN, PING, PONG, TEXT, frame, handshake};
use crate::support::wait::same;
use crate::support::{
    BOUND, Beside, Client, Db, Node, NodeBuilder, RawClient, Worker, eventually, http, within,
};

/// Whoever publishes waits for that.
const STUCK: [(&str, &str); 3] =
    [("--wait-replicas", "1"), ("--wait-timeout", "10m"), ("--pong-timeout", "10m")];
/// Nothing that Redis does not answer counts as an outage, nor lapses.
const PAUSED: [(&str, &str); 3] =
    [("--wait-timeout", "10m"), ("--node-ttl", "10m"), ("--session-ttl", "30m")];
/// What does not come in this time was held back.
const HELD_BACK: Duration = Duration::from_secs(1);
const KIB: usize = 1024;

/// Redis lets whoever wants to write wait.
async fn pause(db: &mut Db) {
    let _: String = db.run(redis::cmd("CLIENT").arg(&["PAUSE", "600000", "WRITE"])).await;
}

/// Begins a request whose body has `length` bytes, and sends some of them.
async fn begin_body(node: &Node, length: usize, sent: usize) -> RawClient {
    let mut peer = RawClient::connect(node.worker_address()).await;
    let head = format!("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    peer.write(head.as_bytes()).await;
    peer.write(&vec![b' '; sent]).await;
    peer
}

#[tokio::test]
async fn all_bodies_together_are_bounded_in_bytes() {
    let node = NodeBuilder::local("solo").set("--bounds", "bodies=1MiB").start().await;
    let mut beside = Beside::open(&node).await;
    let body = format!(r#"{{"userId":"42","event":"e","data":"{}"}}"#, "x".repeat(400 * KIB));
    let url = node.worker_http("/publish");
    assert_eq!(http::post(&url, &body).await.status, 200);
    let mut held = begin_body(&node, 1000 * KIB, 900 * KIB).await;
    eventually(BOUND, "a body too many", async || {
        let answer = http::request(reqwest::Method::POST, &url, &[], Some(&body)).await?;
        match answer.status {
            503 if answer.refused(503) == "unavailable" && !answer.header("retry-after").is_empty() => Ok(()),
            _ => {
                // What is held back had not all been read yet, and was perhaps the one too many.
                held = begin_body(&node, 1000 * KIB, 900 * KIB).await;
                Err(format!("{answer:?}"))
            }
        }
    })
    .await;
    // Small ones fit in beside it, and nobody else notices.
    assert_eq!(http::post(&url, r#"{"userId":"42","event":"e"}"#).await.status, 200);
    beside.served().await;
    drop(held);
    eventually(BOUND, "room for another body", async || {
        let answer = http::request(reqwest::Method::POST, &url, &[], Some(&body)).await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn so_many_requests_may_have_a_body_under_way() {
    // 512 files leave 32.
    let node = NodeBuilder::local("solo").open_files(512).set("--hello-timeout", "10m").start().await;
    let mut beside = Beside::open(&node).await;
    let mut held = Vec::new();
    for _ in 0..32 {
        // It is told to go on once it has its place: so no other request can take that first.
        let mut peer = RawClient::connect(node.worker_address()).await;
        peer.write(
            b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
        let head = peer.head("leave to go on").await.unwrap();
        assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
        held.push(peer);
    }
    let url = node.worker_http("/publish");
    let publish = async || {
        let frame = r#"{"userId":"42","event":"e"}"#;
        http::request(reqwest::Method::POST, &url, &[], Some(frame)).await
    };
    eventually(BOUND, "a request too many", async || {
        let answer = publish().await?;
        match answer.status {
            503 if answer.refused(503) == "unavailable" && !answer.header("retry-after").is_empty() => Ok(()),
            _ => Err(format!("{answer:?}")),
        }
    })
    .await;
    assert_eq!(http::get(&node.worker_http("/users/42")).await.status, 200, "that one has no body");
    beside.served().await;
    held.pop();
    eventually(BOUND, "room for another request", async || {
        let answer = publish().await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_before_it_comes_and_while_it_does() {
    let node = NodeBuilder::local("solo").start().await;
    let mut beside = Beside::open(&node).await;
    for length in [32 * KIB * KIB + 1, 1 << 62] {
        let mut peer = begin_body(&node, length, 1).await;
        let head = peer.head("the answer to a length").await.unwrap();
        assert!(head.starts_with("HTTP/1.1 413 "), "{length}: {head}");
    }
    let mut peer = RawClient::connect(node.worker_address()).await;
    peer.write(b"POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = [format!("{:x}\r\n", KIB * KIB).as_bytes(), &vec![b' '; KIB * KIB], b"\r\n"].concat();
    for _ in 0..33 {
        peer.write(&chunk).await;
    }
    let head = peer.head("the answer to endless chunks").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    beside.served().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_small_event_of_a_large_body_keeps_no_more_than_itself() {
    let node = NodeBuilder::local("solo").start().await;
    let url = node.worker_http("/publish");
    let body =
        format!("{{\"userId\":\"42\",\"event\":\"e\",\"data\":1}}\n\"{}\"", "x".repeat(16 * KIB * KIB));
    let publish = async || {
        let headers = [("content-type", "application/x-ndjson")];
        let answer = http::request(reqwest::Method::POST, &url, &headers, Some(&body)).await.unwrap();
        assert!(answer.body.starts_with("{\"type\":\"ack\""), "{answer:?}");
    };
    publish().await;
    publish().await;
    let before = node.peak_memory();
    for _ in 0..8 {
        publish().await;
    }
    let grown = node.peak_memory().saturating_sub(before);
    assert!(grown < 64 << 20, "8 small events keep {} MiB", grown >> 20);
}

/// A worker's frame for a user, with data of this size.
fn event(user: usize, size: usize) -> Vec<u8> {
    let text = format!(r#"{{"ref":"{user}","userId":"u-{user}","event":"e","data":"{}"}}"#, "x".repeat(size));
    frame(FIN | TEXT, text.as_bytes())
}

/// Whether the node still reads what this worker sends: it answers a ping.
async fn is_read(worker: &mut RawClient) -> bool {
    worker.write(&frame(FIN | PING, b"")).await;
    match tokio::time::timeout(HELD_BACK, worker.frame("a pong")).await {
        Ok(next) => {
            assert_eq!(next.expect("an open connection").opcode, PONG);
            true
        }
        Err(_) => false,
    }
}

/// Waits for the pong to a ping: whatever was sent before it has been read then.
async fn read_so_far(worker: &mut RawClient) {
    worker.write(&frame(FIN | PING, b"")).await;
    let next = within(BOUND, "a pong", worker.frame("a pong")).await.expect("an open connection");
    assert_eq!(next.opcode, PONG, "{next:?}");
}

#[tokio::test]
async fn frames_of_one_worker_on_their_way_are_bounded_in_number_and_in_bytes() {
    for (size, fit) in [(1, 1024), (1000 * KIB, 17)] {
        let single = Single::with(&STUCK).await;
        let mut client = Client::as_user(&single.a, "healthy", "beside").await;
        let mut worker = RawClient::upgrade_at(single.a.worker_address(), "").await;
        for user in 0..fit - 1 {
            worker.write(&event(user, size)).await;
        }
        read_so_far(&mut worker).await;
        worker.write(&event(fit, size)).await;
        assert!(
            !is_read(&mut worker).await,
            "{fit} frames of {size} bytes are on their way, and more is read"
        );
        // Others are read and served.
        client.round_trip().await;
        let mut other = RawClient::upgrade_at(single.a.worker_address(), "").await;
        other.write(&event(0, 1)).await;
        read_so_far(&mut other).await;
    }
}

#[tokio::test]
async fn where_all_workers_have_much_on_their_way_each_has_one_frame() {
    let single = Single::with(&[&STUCK[..], &[("--bounds", "frames=1MiB")]].concat()).await;
    let mut client = Client::as_user(&single.a, "healthy", "beside").await;
    let mut first = RawClient::upgrade_at(single.a.worker_address(), "").await;
    first.write(&event(1, 600 * KIB)).await;
    read_so_far(&mut first).await;
    first.write(&event(2, 600 * KIB)).await;
    assert!(!is_read(&mut first).await, "more than 1 MiB is on its way, and more is read");
    let mut second = RawClient::upgrade_at(single.a.worker_address(), "").await;
    read_so_far(&mut second).await;
    second.write(&event(3, 1)).await;
    assert!(!is_read(&mut second).await, "of each worker one frame is taken, and no more");
    client.round_trip().await;
    assert_eq!(http::get(&single.a.worker_http("/users/healthy")).await.status, 200);
}

#[tokio::test]
async fn what_waits_for_redis_is_bounded_and_one_more_is_refused_at_once() {
    let single = Single::with(&STUCK).await;
    let mut client = Client::as_user(&single.a, "healthy", "beside").await;
    // 40,000 events, of two frames from each worker, as many as may be on their way.
    let mut workers = Vec::new();
    for number in 0..20 {
        let mut worker = RawClient::upgrade_at(single.a.worker_address(), "").await;
        let users: Vec<String> = (0..1000).map(|user| format!("u-{number}-{user}")).collect();
        let text = json!({"ref": "1", "userIds": users, "event": "e"}).to_string();
        for _ in 0..2 {
            worker.write(&frame(FIN | TEXT, text.as_bytes())).await;
        }
        workers.push(worker);
    }
    eventually(BOUND, "a worker whose frame is one too many", async || {
        let refused = workers.iter_mut().find_map(|worker| worker.frame("a refusal").now_or_never());
        let refused = refused.flatten().ok_or("none is refused")?;
        let refused: Value = serde_json::from_slice(&refused.payload).unwrap();
        assert_eq!(refused["code"], "unavailable", "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("too much is waiting"), "{refused}");
        Ok(())
    })
    .await;
    for user in 0..8 {
        let text = json!({"userId": format!("late-{user}"), "event": "e"}).to_string();
        let answer = http::post(&single.a.worker_http("/publish"), &text).await;
        assert_eq!(answer.refused(503), "unavailable");
    }
    client.round_trip().await;
    // Who wants to connect does not wait for them.
    let _late = Client::as_user(&single.a, "late", "beside").await;
    assert_eq!(http::get(&single.a.worker_http("/readyz")).await.status, 200);
}

/// Upgrades until one is answered; gives its number, the answer, and what the others wait for.
async fn until_answered(node: &Node) -> (usize, String, impl Sized) {
    let mut asking = futures_util::stream::FuturesUnordered::new();
    for number in 1..1000 {
        let mut peer = RawClient::connect(node.client_address()).await;
        peer.write(handshake(&format!("userId=u-{number}"), &[]).as_bytes()).await;
        asking.push(async move { (number, peer.head("an answer").await.expect("an answer").to_lowercase()) });
        let next = futures_util::StreamExt::next(&mut asking);
        if let Ok(Some(answered)) = tokio::time::timeout(Duration::from_millis(2), next).await {
            let (number, head) = answered;
            return (number, head, asking);
        }
    }
    panic!("nothing is refused");
}

#[tokio::test]
async fn clients_that_wait_to_be_registered_are_bounded_and_one_more_is_refused_at_once() {
    let mut single = Single::with(&[&PAUSED[..], &[("--bounds", "registrations=4")]].concat()).await;
    let mut client = Client::as_user(&single.a, "healthy", "beside").await;
    pause(&mut single.db).await;
    let (number, head, _waiting) = until_answered(&single.a).await;
    assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nretry-after: "), "{head}");
    // Nobody who waits is told sooner than whoever finds no place to wait.
    assert!(
        number > 256,
        "the one that came as number {number} was refused, of 256 under way and 4 that wait"
    );
    client.round_trip().await;
}

#[tokio::test]
async fn by_hello_and_by_event_stream_it_is_the_same() {
    let mut single = Single::with(&[&PAUSED[..], &[("--bounds", "registrations=1")]].concat()).await;
    pause(&mut single.db).await;
    let (_, _, _waiting) = until_answered(&single.a).await;
    let mut late = Client::upgrade(&single.a, "").await;
    late.send(r#"{"userId":"late"}"#).await;
    assert_eq!(late.frame("an error").await["code"], "unavailable");
    assert_eq!(late.closed().await.code, 1013);
    let answer = http::get(&single.a.client_http("/events?userId=late")).await;
    assert_eq!(answer.refused(503), "unavailable");
}

#[tokio::test]
async fn clients_that_wait_to_be_looked_at_are_bounded() {
    let api = ApiServer::start_holding(|asked| Reply::ok(json!({"userId": asked.json()["userId"]}))).await;
    let settings = [("--auth", "api"), ("--api-server-url", api.url.as_str()), ("--bounds", "questions=4")];
    // One thread: they are looked at in the order in which they came.
    let node = NodeBuilder::local("node-a").with(&settings).start().await;
    let (number, head, _waiting) = until_answered(&node).await;
    assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nretry-after: "), "{head}");
    assert!(number > 64, "the one that came as number {number} was refused, of 64 questions and 4 that wait");
    // The refusal needs no question: the last ones may still be on their way.
    eventually(BOUND, "64 questions", async || same(api.most_at_once(), 64)).await;
    // Later everyone is let in again.
    api.let_out(1000);
    Client::open_soon(&node, "userId=late").await;
    assert_eq!(api.most_at_once(), 64);
}

#[tokio::test]
async fn a_worker_that_takes_no_answers_is_let_go() {
    let node = NodeBuilder::local("solo").set("--pong-timeout", "500ms").start().await;
    let mut beside = Beside::open(&node).await;
    let mut deaf = RawClient::upgrade_at(node.worker_address(), "").await;
    let long = "r".repeat(64 * KIB);
    let text = json!({"ref": long, "userId": "42", "event": "e", "transient": true}).to_string();
    let flood = async { while deaf.write(&frame(FIN | TEXT, text.as_bytes())).await {} };
    within(2 * BOUND, "the end of a worker that reads no answers", flood).await;
    beside.served().await;
    let mut another = Worker::open(&node).await;
    another.event("42", "1").await;
}

#[tokio::test]
async fn whoever_waits_for_replicas_keeps_no_connection_from_others() {
    let single = Single::with(&[&STUCK[..], &[("--redis-pool-size", "1")]].concat()).await;
    let Single { a: node, mut db, redis: _redis } = single;
    Worker::open(&node).await.send(r#"{"userId":"42","event":"e"}"#).await;
    let _: String = db.run(redis::cmd("XADD").arg(&["events", "*", "user", "43", "event", "e"])).await;
    eventually(BOUND, "both waiting", async || {
        let clients: String = db.run(redis::cmd("CLIENT").arg("LIST")).await;
        let waiting = clients.matches(" cmd=wait ").count();
        if waiting == 2 { Ok(()) } else { Err(format!("{waiting} are")) }
    })
    .await;
    assert_eq!(http::get(&node.worker_http("/users/42")).await.status, 200);
    Client::as_user(&node, "42", "tab-1").await;
}
