//! `switchboard bench`: it counts what does not arrive, puts it down to what it was, and comes to an end.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, sleep};

use crate::support::api::{ApiServer, Reply};
use crate::support::terminal::{at, line, line_at, run};
use crate::support::{BOUND, Client, NodeBuilder, Pair, eventually};

/// What a run of `load` against these nodes reports.
async fn measured(load: &str, clients: &str, workers: &str) -> Value {
    let urls = ["--client-url", clients, "--worker-url", workers];
    run(&line(&load.split(' ').chain(urls).collect::<Vec<_>>()), "").await.json()
}

#[tokio::test]
async fn what_was_refused_or_had_no_socket_to_go_to_is_not_lost() {
    let bounds = [("--max-sessions-per-user", "1"), ("--max-event", "1KiB")];
    let node = NodeBuilder::local("node-a").with(&bounds).start().await;
    let load = "bench --json --users=10 --sessions=2 --duration=500ms --warm-up=0s --settle=0s";
    for args in [
        // Whatever a user id may hold.
        r#"--rate=100 --user-prefix=a"b\"#,
        "--rate=100 --payload=2000",
        "--rate=100 --payload=2000 --via=http",
        // Neither keeps the window shut.
        "--rate=max --window=8",
        "--rate=max --window=8 --payload=2000",
    ] {
        let ran = at(&node, &load.split(' ').chain(args.split(' ')).collect::<Vec<_>>()).await;
        assert_eq!(ran.code, Some(0), "{args}: {ran:?}");
        let report = ran.json();
        let number = |field: &str| report[field].as_u64().unwrap();
        assert_eq!((&report["connect"]["sockets"], &report["connect"]["failed"]), (&10.into(), &10.into()));
        let all_refused = args.contains("payload");
        let published = number("published");
        let came = if all_refused { [published, 0] } else { [0, published] };
        assert_eq!([number("refused"), number("delivered")], came, "{args}: {report}");
        assert_eq!(number("lost"), 0, "{args}: {report}");
        if args.contains("max") {
            assert!(published > 8, "{args}: {report}");
        } else {
            assert_eq!(published, 50, "{args}: {report}");
        }
    }
}

/// What came of a run in which a node has ended what publishes, as `why` says: no more is lost than was under way.
fn assert_ended(report: &Value, why: &str) {
    let number = |field: &str| report[field].as_u64().unwrap();
    assert!(report["trouble"].as_str().is_some_and(|told| told.contains(why)), "{report}");
    assert!(number("refused") > number("lost"), "{report}");
    assert_eq!(number("delivered") + number("refused") + number("lost"), number("published"), "{report}");
}

#[tokio::test]
async fn what_a_node_that_drains_does_not_take_any_more_is_refused() {
    for (via, why) in [("--via=worker", "1012"), ("--via=http", "POST /publish")] {
        let mut pair = Pair::start().await;
        // All sockets are of the node that stays.
        let clients = format!("{},{}", pair.b.client_url, pair.b.client_url);
        let workers = format!("{},{}", pair.a.worker_url, pair.b.worker_url);
        let nodes = ["bench", "--json", "--client-url", &clients, "--worker-url", &workers, "--settle=0s"];
        let load = ["--users=20", "--rate=100", "--duration=4s", "--warm-up=0s", via];
        let command = line(&[&nodes[..], &load].concat());
        let running = tokio::spawn(async move { run(&command, "").await });
        eventually(BOUND, "a first event", async || {
            if pair.db.exists("log:{user:bench-0}").await { Ok(()) } else { Err("no log".to_owned()) }
        })
        .await;
        pair.a.signal(Signal::TERM);
        let ran = running.await.unwrap();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let report = ran.json();
        assert_eq!(report["published"], 400, "{report}");
        assert_ended(&report, why);
        assert!(report["delivered"].as_u64() >= Some(190), "those by the other node: {report}");
    }
}

#[tokio::test]
async fn a_connection_that_idled_until_the_node_closed_it_is_opened_anew() {
    let node = NodeBuilder::local("node-a").set("--hello-timeout", "500ms").start().await;
    // Each connection has an event every few seconds.
    let load = ["bench", "--json", "--users=16", "--rate=8", "--duration=4s", "--warm-up=0s", "--settle=2s"];
    let ran = at(&node, &[&load[..], &["--via=http"]].concat()).await;
    let report = ran.json();
    assert_eq!((&report["published"], &report["delivered"]), (&32.into(), &32.into()), "{report}");
    assert_eq!((&report["refused"], &report["lost"]), (&0.into(), &0.into()), "{report}");
    assert_eq!((&report["trouble"], &report["answer_ms"]["count"]), (&Value::Null, &32.into()), "{report}");
}

/// A port that lets everyone in and neither says anything after that, nor reads.
async fn deaf_and_dumb() -> String {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", port.local_addr().unwrap());
    tokio::spawn(async move {
        let mut sockets = Vec::new();
        while let Ok((mut socket, _)) = port.accept().await {
            assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0, "a request");
            socket.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
            sockets.push(socket);
        }
    });
    url
}

/// A port before a node's: it lets one in there, and then carries nothing for a while.
async fn held_up(node: &str, pause: Duration) -> String {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", port.local_addr().unwrap());
    let to = node.trim_start_matches("ws://").to_owned();
    tokio::spawn(async move {
        let (mut socket, _) = port.accept().await.unwrap();
        let mut behind = TcpStream::connect(to).await.unwrap();
        let mut bytes = vec![0; 4096];
        let size = socket.read(&mut bytes).await.unwrap();
        behind.write_all(&bytes[..size]).await.unwrap();
        let size = behind.read(&mut bytes).await.unwrap();
        socket.write_all(&bytes[..size]).await.unwrap();
        socket.readable().await.unwrap(); // the first event
        sleep(pause).await;
        copy_bidirectional(&mut socket, &mut behind).await.ok();
    });
    url
}

#[tokio::test]
async fn nodes_behind_a_path_are_asked_there() {
    let node = NodeBuilder::local("node-a").start().await;
    let other = ApiServer::start(|_| Reply::status(404)).await;
    let there = format!("{}/live/ws", other.url);
    let load = ["bench", "--users=1", "--rate=10", "--duration=100ms", "--warm-up=0s", "--settle=0s"];
    for (clients, workers, via, path) in [
        (&there, &node.worker_url, "--via=worker", "/live/ws"),
        (&node.client_url, &there, "--via=worker", "/live/ws"),
        (&node.client_url, &there, "--via=http", "/live/publish"),
    ] {
        let nodes = ["--client-url", clients, "--worker-url", workers, via];
        run(&line(&[&load[..], &nodes].concat()), "").await;
        assert_eq!(other.last().path, path, "{via}");
    }
}

#[tokio::test]
async fn sockets_that_get_no_welcome_fail_in_the_end_and_do_not_count_as_slow() {
    let node = NodeBuilder::local("node-a").start().await;
    let clients = format!("{},{}", node.client_url, deaf_and_dumb().await);
    let workers = format!("{},{}", node.worker_url, node.worker_url);
    let load = "bench --json --users=2 --rate=20 --duration=1s --warm-up=0s --settle=0s";
    let report = measured(load, &clients, &workers).await;
    let connect = &report["connect"];
    assert_eq!((&connect["sockets"], &connect["failed"]), (&1.into(), &1.into()), "{report}");
    assert!(connect["seconds"].as_f64() < Some(15.0), "{report}");
    assert!(report["trouble"].as_str().unwrap().contains("no welcome"), "{report}");
    assert_eq!((&report["delivered"], &report["lost"]), (&10.into(), &0.into()), "{report}");
}

#[tokio::test]
async fn a_node_that_takes_nothing_holds_up_neither_the_end_nor_what_goes_by_another() {
    let node = NodeBuilder::local("node-a").start().await;
    let clients = format!("{},{}", node.client_url, node.client_url);
    let workers = format!("{},{}", node.worker_url, deaf_and_dumb().await);
    // 20 MB, of which the system keeps a few.
    let load = "bench --json --users=2 --rate=100 --duration=4s --warm-up=0s --settle=0s --payload=100000";
    let report = measured(load, &clients, &workers).await;
    let number = |field: &str| report[field].as_u64().unwrap();
    assert_eq!([number("published"), number("delivered")], [400, 200], "{report}");
    assert_eq!(number("refused") + number("lost"), 200, "{report}");
    assert!(
        number("refused") > 0 && report["trouble"].as_str().unwrap().contains("does not take"),
        "{report}"
    );
}

#[tokio::test]
async fn processes_share_the_schedule_and_sockets_that_never_get_in_are_given_up() {
    let node = NodeBuilder::local("node-a").set("--max-sessions-per-user", "1").start().await;
    let load = "bench --json --users=10 --sessions=2 --processes=4 --rate=4 --duration=3s --warm-up=0s --settle=0s \
                --reconnect";
    let command = line_at(&node, &load.split_whitespace().collect::<Vec<_>>());
    let ran = run(&command, "").await;
    let report = ran.json();
    let connect = &report["connect"];
    assert_eq!((&connect["sockets"], &connect["failed"]), (&10.into(), &10.into()), "{report}");
    assert_eq!((&report["published"], &report["delivered"]), (&12.into(), &12.into()), "{report}");
    assert!(report["trouble"].as_str().unwrap().contains("429"), "{report}");
}

#[tokio::test]
async fn what_is_never_answered_is_refused_and_told() {
    let node = NodeBuilder::local("node-a").start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("ws://{}", silent.local_addr().unwrap());
    let load = "bench --json --users=2 --rate=40 --duration=2s --warm-up=0s --settle=0s --via=http";
    let report = measured(load, &node.client_url, &silent).await;
    assert_eq!((&report["published"], &report["refused"]), (&80.into(), &80.into()), "{report}");
    assert_eq!((&report["delivered"], &report["lost"]), (&0.into(), &0.into()), "{report}");
    assert!(report["trouble"].as_str().unwrap().contains("80 events were not answered"), "{report}");
}

#[tokio::test]
async fn what_somebody_else_than_a_node_answers_was_not_published() {
    let node = NodeBuilder::local("node-a").start().await;
    let other = ApiServer::start(|_| Reply::ok(serde_json::json!({"ok": true}))).await;
    let load = "bench --json --users=2 --rate=40 --duration=500ms --warm-up=0s --settle=0s --via=http";
    let report = measured(load, &node.client_url, &other.url).await;
    assert_eq!((&report["published"], &report["refused"]), (&20.into(), &20.into()), "{report}");
    assert_eq!((&report["lost"], &report["answer_ms"]), (&0.into(), &Value::Null), "{report}");
    assert!(report["trouble"].as_str().unwrap().contains(r#"HTTP/1.1 200 OK: {"ok":true}"#), "{report}");
}

#[tokio::test]
async fn where_a_rate_cannot_be_met_what_went_out_is_counted_and_it_is_told() {
    let node = NodeBuilder::local("node-a").start().await;
    // 80 answers a second, whoever asks.
    let ack = serde_json::json!({"type": "ack", "nodes": []});
    let slow = Arc::new(ApiServer::start_holding(move |_| Reply::ok(ack.clone())).await);
    let letting_out = slow.clone();
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            letting_out.let_out(8);
        }
    });
    // 400 of them, which take five seconds.
    let load = "bench --json --users=64 --rate=160 --duration=500ms --warm-up=2s --settle=0s --via=http";
    let report = measured(load, &node.client_url, &slow.url).await;
    assert_eq!((&report["published"], &report["refused"]), (&400.into(), &0.into()), "{report}");
    let rate = report["published_per_second"].as_f64().unwrap();
    assert!((40.0..120.0).contains(&rate), "{report}");
    assert!(report["trouble"].as_str().unwrap().contains("POST /publish"), "{report}");
}

#[tokio::test]
async fn what_waits_for_room_in_a_workers_socket_is_told() {
    let node = NodeBuilder::local("node-a").start().await;
    // 20 MB by then, of which the system keeps a few.
    let workers = held_up(&node.worker_url, Duration::from_secs(2)).await;
    let load = "bench --json --users=2 --rate=100 --duration=3s --warm-up=0s --settle=0s --payload=100000";
    let report = measured(load, &node.client_url, &workers).await;
    assert_eq!((&report["published"], &report["delivered"]), (&300.into(), &300.into()), "{report}");
    assert!(report["trouble"].as_str().unwrap().contains("does not keep up"), "{report}");
}

#[tokio::test]
async fn a_refusal_is_put_down_to_its_user_where_not_all_got_in() {
    // Nobody gets in at the second node, and what is published there is refused.
    let a = NodeBuilder::local("node-a").start().await;
    let b =
        NodeBuilder::local("node-b").set("--max-connections", "1").set("--max-event", "1KiB").start().await;
    let _full = Client::as_user(&b, "another", "tab").await;
    let clients = format!("{},{}", a.client_url, b.client_url);
    let workers = format!("{},{}", a.worker_url, b.worker_url);
    let load = "bench --json --users=8 --rate=80 --duration=1s --warm-up=0s --settle=0s --payload=2000";
    let report = measured(load, &clients, &workers).await;
    assert_eq!(
        (&report["connect"]["sockets"], &report["connect"]["failed"]),
        (&4.into(), &4.into()),
        "{report}"
    );
    // Those who have a socket are published to at the node that refuses; the others' events go nowhere.
    assert_eq!((&report["published"], &report["refused"]), (&80.into(), &40.into()), "{report}");
    assert_eq!((&report["delivered"], &report["lost"]), (&0.into(), &0.into()), "{report}");
}

#[tokio::test]
async fn what_comes_after_a_frame_that_is_too_large_is_refused() {
    let node = NodeBuilder::local("node-a").set("--max-event", "1KiB").start().await;
    let load = ["bench", "--json", "--users=4", "--duration=1s", "--warm-up=0s", "--settle=0s"];
    for rate in ["--rate=40", "--rate=max"] {
        let ran = at(&node, &[&load[..], &["--payload=400000", "--window=8", rate]].concat()).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let report = ran.json();
        if rate == "--rate=max" {
            // Nobody says when the others would be due.
            assert!(report["trouble"].as_str().is_some_and(|told| told.contains("1009")), "{report}");
            assert!(report["published"].as_u64() < Some(100), "{report}");
        } else {
            assert_ended(&report, "1009");
        }
    }
}
