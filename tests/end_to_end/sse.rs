//! Server-sent events: the same sessions as by WebSocket, with the same completeness, one way.

use serde_json::json;

use crate::support::client::{data, ids, numbers};
use crate::support::db::set;
use crate::support::stream::EventStream;
use crate::support::tokens::{Issuer, SECRET, ending_soon, unix};
use crate::support::wait::same;
use crate::support::{BOUND, Client, Node, NodeBuilder, Pair, Scrape, Worker, eventually, http};

/// What makes a browser's `EventSource` stay away.
const NEVER: u64 = i32::MAX as u64;

#[tokio::test]
async fn events_come_from_any_node_in_order_with_their_ids() {
    let pair = Pair::start().await;
    let mut client = EventStream::open(&pair.a, "userId=42&clientId=curl").await;
    assert_eq!(client.welcome["clientId"], "curl");
    assert_eq!(client.welcome["nodeId"], "node-a");
    assert_eq!(client.welcome["position"], *client.stands_at);
    let published = Worker::open(&pair.b).await.count("42", 1, 50).await;
    let events = client.events(50).await;
    assert_eq!(data(&events), numbers(1, 50));
    assert_eq!(ids(&events), published);
}

#[tokio::test]
async fn since_and_last_event_id_bring_what_was_missed_and_the_header_is_newer() {
    let pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let published = worker.count("42", 1, 5).await;
    let query = format!("userId=42&since={}", published[1]);
    let mut by_query = EventStream::open(&pair.a, &query).await;
    assert_eq!((&by_query.welcome["recovered"], &by_query.welcome["replayed"]), (&json!(true), &json!(3)));
    assert_eq!(by_query.stands_at, published[1], "nothing of the replay is there yet");
    assert_eq!(data(&by_query.events(3).await), numbers(3, 5));
    let mut by_header = EventStream::after(&pair.a, &query, &published[3]).await;
    worker.event("42", "6").await;
    assert_eq!(data(&by_header.events(2).await), numbers(5, 6));
    http::get_with(&pair.a.client_http("/events?userId=42"), &[("last-event-id", "x")]).await.refused(400);
}

#[tokio::test]
async fn who_leaves_before_the_first_event_misses_nothing_either() {
    let pair = Pair::start().await;
    // Without a client id: only what the stream itself said can be relied on.
    let first = EventStream::open(&pair.a, "userId=42").await;
    let last = first.stands_at.clone();
    drop(first);
    Worker::open(&pair.b).await.count("42", 1, 3).await;
    let mut second = EventStream::after(&pair.b, "userId=42", &last).await;
    assert_eq!(second.welcome["recovered"], true);
    assert_eq!(data(&second.events(3).await), numbers(1, 3));
}

#[tokio::test]
async fn a_gap_is_told_and_what_is_kept_comes_after_it() {
    let pair = Pair::with(&[("--log-length", "8")]).await;
    let published = Worker::open(&pair.b).await.count("42", 1, 20).await;
    let mut client = EventStream::after(&pair.a, "userId=42", &published[0]).await;
    assert_eq!(client.welcome["recovered"], false);
    let gap = client.block("a gap").await;
    assert_eq!(gap.json(), json!({"type": "gap", "since": published[0], "position": published[19]}));
    assert_eq!(gap.id, None, "who leaves here has not got what follows");
    assert_eq!(ids(&client.events(8).await), published[12..]);
}

#[tokio::test]
async fn a_gap_that_nothing_comes_after_is_told_once() {
    let pair = Pair::start().await;
    // Nobody can say what was before, and nothing is there.
    let mut client = EventStream::after(&pair.a, "userId=42&clientId=curl", "1-0").await;
    let gap = client.block("a gap").await;
    assert_eq!(gap.json()["type"], "gap");
    let last = gap.id.expect("an id with a gap at the end");
    drop(client);
    let mut client = EventStream::after(&pair.b, "userId=42&clientId=curl", &last).await;
    assert_eq!(client.welcome["recovered"], true);
    Worker::open(&pair.b).await.count("42", 1, 1).await;
    assert_eq!(data(&client.events(1).await), numbers(1, 1));
}

#[tokio::test]
async fn data_arrives_whole_whatever_lines_it_has() {
    let node = NodeBuilder::local("solo").start().await;
    let mut client = EventStream::open(&node, "userId=42").await;
    let body = "{\"userId\":\"42\",\"event\":\"e\",\"data\":[1,\n2,\r\n\"a\\nb: ü\\u2028\"]}";
    assert_eq!(http::post(&node.worker_http("/publish"), body).await.status, 200);
    let event = client.block("an event").await.json();
    assert_eq!(event["data"], json!([1, 2, "a\nb: ü\u{2028}"]));
    let mut worker = Worker::open(&node).await;
    worker.publish(json!({"userId": "42", "event": "t", "transient": true})).await;
    let transient = client.block("a transient event").await;
    assert_eq!(transient.id, None, "{transient:?}");
}

#[tokio::test]
async fn the_same_refusals_as_of_an_upgrade() {
    let settings = [
        ("--max-sessions-per-user", "1"),
        ("--max-connections", "2"),
        ("--client-origin", "https://app.example.com"),
    ];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let events = |query: &str| node.client_http(&format!("/events?{query}"));
    for (query, code) in [
        ("", "invalid_user_id"),
        ("userId=a%20b", "invalid_user_id"),
        ("userId=42&clientId=a@b", "invalid_client_id"),
        ("userId=42&since=x", "invalid_since"),
    ] {
        assert_eq!(http::get(&events(query)).await.refused(400), code, "{query}");
    }
    let foreign = http::get_with(&events("userId=42"), &[("origin", "https://evil.example.com")]).await;
    assert_eq!(foreign.refused(403), "origin_not_allowed");
    // An image in a foreign page: no origin, but its browser says where it is.
    for site in ["cross-site", "same-site"] {
        let image = http::get_with(&events("userId=42"), &[("sec-fetch-site", site)]).await;
        assert_eq!(image.refused(403), "origin_not_allowed", "{site}");
    }
    for site in ["none", "same-origin"] {
        let own = http::get_with(&events(""), &[("sec-fetch-site", site)]).await;
        assert_eq!(own.refused(400), "invalid_user_id", "{site}");
    }
    assert_eq!(http::post(&events("userId=42"), "{}").await.refused(405), "method_not_allowed");
    let one = EventStream::open(&node, "userId=42&clientId=one").await;
    assert_eq!(http::get(&events("userId=42&clientId=two")).await.refused(429), "too_many_sessions");
    let _other = EventStream::open(&node, "userId=43").await;
    let full = http::get(&events("userId=44")).await;
    assert_eq!(full.refused(503), "unavailable");
    assert!(!full.header("retry-after").is_empty(), "{full:?}");
    // Who leaves makes room.
    drop(one);
    Client::open_soon(&node, "userId=42&clientId=two").await;
}

/// Any status but 200 would end a browser's `EventSource` for good.
#[tokio::test]
async fn who_comes_back_and_cannot_be_let_in_now_is_told_to_come_again() {
    const PLACES: usize = 20;
    let settings = [("--max-connections", "20"), ("--drain-timeout", "10m")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let mut clients = Vec::new();
    for number in 0..PLACES {
        clients.push(Client::as_user(&node, "42", &format!("tab-{number}")).await);
    }
    let url = node.client_http("/events?userId=43");
    let check = async |code: &str| {
        assert_eq!(http::get(&url).await.refused(503), code, "for the first time");
        assert_eq!(http::get_with(&url, &[("last-event-id", "")]).await.refused(503), code, "empty is none");
        let answer = http::get_with(&url, &[("last-event-id", "1-0")]).await;
        assert_eq!((answer.status, answer.header("connection")), (200, "close"), "{answer:?}");
        assert!(answer.header("content-type").starts_with("text/event-stream"), "{answer:?}");
        let told = answer.body.strip_prefix("retry: ").and_then(|rest| rest.split_once("\ndata: "));
        let (retry, bye) = told.unwrap_or_else(|| panic!("{answer:?}"));
        assert!((1000..5000).contains(&retry.parse::<u64>().unwrap()), "{answer:?}");
        let bye = bye.strip_suffix("\n\n").unwrap_or_else(|| panic!("{answer:?}"));
        let wanted = json!({"type": "bye", "code": 1013, "reason": "overloaded", "reconnect": true});
        assert_eq!(serde_json::from_str::<serde_json::Value>(bye).unwrap(), wanted);
    };
    check("unavailable").await;
    let refused = Scrape::of(&node).await.get(r#"connects_total{result="unavailable"}"#);
    assert_eq!(refused, 3.0, "each is counted");
    // What does not pass is refused as it was.
    let bad = http::get_with(&node.client_http("/events?userId=a%20b"), &[("last-event-id", "1-0")]).await;
    assert_eq!(bad.refused(400), "invalid_user_id");
    node.signal(rustix::process::Signal::TERM);
    http::answers(&node.client_http("/readyz"), 503, BOUND).await;
    check("draining").await;
}

#[tokio::test]
async fn who_leaves_is_offline_at_once() {
    let mut pair = Pair::start().await;
    let client = EventStream::open(&pair.a, "userId=42&clientId=curl").await;
    assert_eq!(pair.db.members("user:42").await, set(["curl@node-a"]));
    drop(client);
    pair.db.offline("42").await;
}

#[tokio::test]
async fn a_newer_connection_replaces_it_and_it_replaces_an_older_one() {
    let pair = Pair::start().await;
    let mut stream = EventStream::open(&pair.a, "userId=42&clientId=tab").await;
    let mut socket = Client::as_user(&pair.b, "42", "tab").await;
    let bye = stream.bye().await;
    assert_eq!(bye.json()["code"], 4009);
    assert_eq!(bye.retry, Some(NEVER), "a browser that does not read the bye stays away all the same");
    let mut stream = EventStream::open(&pair.a, "userId=42&clientId=tab").await;
    assert_eq!(socket.closed().await.code, 4009);
    http::delete(&pair.b.worker_http("/users/42/sessions")).await;
    assert_eq!(stream.bye().await.json()["code"], 4010);
}

#[tokio::test]
async fn a_drain_says_when_to_come_back_and_ends_the_answer() {
    let mut pair = Pair::with(&[("--drain-timeout", "300ms")]).await;
    let mut client = EventStream::open(&pair.a, "userId=42&clientId=curl").await;
    let mut worker = Worker::open(&pair.b).await;
    worker.count("42", 1, 3).await;
    let last = client.events(3).await.pop().unwrap().id.unwrap();
    pair.a.signal(rustix::process::Signal::TERM);
    let bye = client.bye().await;
    assert_eq!((&bye.json()["code"], &bye.json()["reconnect"]), (&json!(1012), &json!(true)));
    assert_eq!(bye.json()["afterMs"].as_u64(), bye.retry, "in words that a browser knows as well");
    assert!(!pair.db.exists("user:42").await, "gone before its answer ended");
    assert_eq!(pair.a.exit(BOUND).await.code(), Some(0));
    worker.count("42", 4, 5).await;
    let mut again = EventStream::after(&pair.b, "userId=42&clientId=curl", &last).await;
    assert_eq!(data(&again.events(2).await), numbers(4, 5));
}

#[tokio::test]
async fn after_a_kill_it_goes_on_at_another_node_where_it_was() {
    let mut pair = Pair::with(&[("--node-ttl", "1500ms")]).await;
    let mut client = EventStream::open(&pair.a, "userId=42&clientId=curl").await;
    let mut worker = Worker::open(&pair.b).await;
    worker.count("42", 1, 20).await;
    let last = client.events(20).await.pop().unwrap().id.unwrap();
    pair.a.kill();
    worker.count("42", 21, 40).await;
    let mut client = EventStream::after(&pair.b, "userId=42&clientId=curl", &last).await;
    assert_eq!(client.welcome["recovered"], true);
    assert_eq!(data(&client.events(20).await), numbers(21, 40));
}

#[tokio::test]
async fn a_reader_that_pauses_gets_everything_later_and_the_others_get_it_at_once() {
    const EVENTS: usize = 2000;
    let settings = [("--send-queue", "16"), ("--log-length", "4000"), ("--pong-timeout", "10m")];
    let pair = Pair::with(&settings).await;
    let mut slow = EventStream::open(&pair.a, "userId=42&clientId=slow").await;
    let mut quick = Client::as_user(&pair.a, "42", "quick").await;
    let mut worker = Worker::open(&pair.b).await;
    // 8 MiB together: more than the queue and all buffers on the way take.
    let padded = |number: usize| format!(r#"[{number},"{}"]"#, "x".repeat(4096));
    for number in 0..EVENTS {
        worker.event("42", &padded(number)).await;
    }
    for number in 0..EVENTS {
        assert!(quick.event().await.data == padded(number), "event {number} at the quick reader");
    }
    for number in 0..EVENTS {
        assert!(slow.event().await.data == padded(number), "event {number} at the slow reader");
    }
    worker.event("42", "\"last\"").await;
    assert_eq!(slow.event().await.data, "\"last\"");
}

async fn files(node: &Node) -> f64 {
    Scrape::of(node).await.series["process_open_fds"]
}

/// A stream of user 42's that nobody reads, with more on its way than all buffers take: 8 MiB.
async fn stuck(node: &Node, worker: &mut Worker) -> EventStream {
    let stream = EventStream::open(node, "userId=42&clientId=stuck").await;
    for _ in 0..2000 {
        worker.event("42", &format!(r#""{}""#, "x".repeat(4096))).await;
    }
    stream
}

#[tokio::test]
async fn a_reader_that_never_reads_again_is_forgotten_and_its_connection_too() {
    let settings = [
        ("--send-queue", "16"),
        ("--ping-interval", "300ms"),
        ("--pong-timeout", "1500ms"),
        ("--hello-timeout", "500ms"),
    ];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let mut worker = Worker::open(&node).await;
    let before = files(&node).await;
    let _stuck = stuck(&node, &mut worker).await;
    eventually(BOUND, "an ack without nodes", async || {
        let ack = worker.publish(json!({"userId": "42", "event": "e"})).await;
        same(ack["nodes"].clone(), json!([]))
    })
    .await;
    // Its last bytes cannot be written, and are not waited for.
    eventually(BOUND, "the end of the connection", async || {
        let now = files(&node).await;
        if now <= before { Ok(()) } else { Err(format!("{now} open files, {before} before")) }
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_let_go_of_once_its_session_is_over() {
    let settings = [("--hello-timeout", "5m"), ("--pong-timeout", "10m"), ("--log-length", "4000")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let mut worker = Worker::open(&node).await;
    let before = files(&node).await;
    let _stuck = stuck(&node, &mut worker).await;
    let _other = Client::as_user(&node, "42", "stuck").await;
    eventually(BOUND, "the end of the connection", async || same(files(&node).await, before + 1.0)).await;
}

#[tokio::test]
async fn a_token_opens_a_stream_and_ends_it_when_it_is_over() {
    let node = NodeBuilder::local("solo").with(&[("--auth", "jwt"), ("--jwt-secret", SECRET)]).start().await;
    let url = node.client_http("/events");
    assert_eq!(http::get(&url).await.refused(401), "unauthorized");
    let bearer = format!("Bearer {}", Issuer::hs256().token_of("42"));
    let other = http::get_with(&format!("{url}?userId=43"), &[("authorization", &bearer)]).await;
    assert_eq!(other.refused(401), "unauthorized");
    let (mut client, end) = ending_soon(async |end| {
        let bearer = format!("Bearer {}", Issuer::hs256().token(json!({"sub": "42", "exp": end})));
        EventStream::unless_unauthorized(&node, "", &[("authorization", &bearer)]).await
    })
    .await;
    assert_eq!(client.welcome["userId"], "42");
    let bye = client.bye().await;
    assert_eq!((&bye.json()["code"], bye.retry), (&json!(4002), Some(NEVER)));
    assert!(unix(0) >= end, "not before");
    let mut by_query = EventStream::open(&node, &format!("token={}", Issuer::hs256().token_of("42"))).await;
    Worker::open(&node).await.count("42", 1, 2).await;
    assert_eq!(data(&by_query.events(2).await), numbers(1, 2));
}

#[tokio::test]
async fn a_quiet_stream_is_kept_alive_for_longer_than_any_request_may_take() {
    let settings = [("--ping-interval", "100ms"), ("--hello-timeout", "200ms")];
    let node = NodeBuilder::local("solo").with(&settings).start().await;
    let mut client = EventStream::open(&node, "userId=42").await;
    client.heartbeats(20).await;
    Worker::open(&node).await.count("42", 1, 2).await;
    assert_eq!(data(&client.events(2).await), numbers(1, 2));
}

#[tokio::test]
async fn an_old_stream_is_asked_to_come_back() {
    let node = NodeBuilder::local("solo").set("--max-connection-age", "1s").start().await;
    let mut client = EventStream::open(&node, "userId=42").await;
    let bye = client.bye().await;
    assert_eq!((&bye.json()["code"], bye.retry), (&json!(1012), Some(0)));
}
