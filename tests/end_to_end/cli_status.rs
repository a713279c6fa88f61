//! `GET /status` and `switchboard status`: nodes, sessions, what waits in the streams, who reads them.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::api::{ApiServer, Reply};
use crate::support::db::Db;
use crate::support::node::two_ports;
use crate::support::scrape::counted;
use crate::support::terminal::{at, line, line_at, run};
use crate::support::tls::tls_proxy;
use crate::support::wait::same;
use crate::support::{BOUND, Client, NodeBuilder, Pair, RedisServer, eventually, http};

#[tokio::test]
async fn one_node_answers_for_all() {
    let mut pair = Pair::with(&[("--node-ttl", "4s")]).await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let _other = Client::as_user(&pair.a, "42", "tab-2").await;
    pair.db.xadd("events", &[("user", "4 2"), ("event", "e")]).await;
    client.send(r#"{"type":"message","event":"up"}"#).await;
    // The one that is asked knows its own; the number of another's comes with its heartbeat.
    let own = http::get(&pair.a.worker_http("/status")).await.json();
    assert_eq!(
        (&own["nodes"][0]["nodeId"], &own["nodes"][0]["sessions"]),
        (&json!("node-a"), &json!(2)),
        "{own}"
    );
    let url = pair.b.worker_http("/status");
    let status = eventually(BOUND, "two sessions, a dead entry, a message", async || {
        let status = http::get(&url).await.json();
        let streams = &status["streams"];
        let seen = [&status["nodes"][0]["sessions"], &streams["dead"], &streams["uplink"]];
        same(seen, [&json!(2), &json!(1), &json!(1)])?;
        // It is put aside first, and let go of then.
        let events = &streams["ingress"][0];
        same([&events["lag"], &events["pending"]], [&json!(0), &json!(0)])?;
        Ok(status.clone())
    })
    .await;
    let (a, b) = (&status["nodes"][0], &status["nodes"][1]);
    assert_eq!((&a["nodeId"], &a["users"]), (&json!("node-a"), &json!(1)), "{status}");
    assert_eq!((&b["nodeId"], &b["users"], &b["sessions"]), (&json!("node-b"), &json!(0), &json!(0)));
    assert!(a["inbox"]["lag"].is_u64() && a["inbox"]["pending"].is_u64(), "{status}");
    let ms = |time: &Value| time.as_u64().unwrap_or_else(|| panic!("no time in ms: {status}"));
    assert!(ms(&status["time"]) >= ms(&a["started"]), "{status}");
    let events = &status["streams"]["ingress"][0];
    assert_eq!(events["name"], "events", "{status}");
    let reader = events["reader"].as_str().unwrap();
    assert!(["node-a", "node-b"].contains(&reader), "{status}");
    assert_eq!(status["streams"]["presence"], 1, "{status}");

    let ran = at(&pair.b, &["status"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let row = ran.lines().into_iter().find(|line| line.starts_with("node-a")).unwrap().to_owned();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[1..4], ["yes", "2", "1"], "{}", ran.out);
    assert!(ran.out.contains(&format!("read by {reader}")), "{}", ran.out);
    assert!(ran.out.contains("events:dead  1 entries"), "{}", ran.out);
}

#[tokio::test]
async fn a_worker_url_that_leads_to_another_node_says_nothing_of_this_one() {
    let redis = RedisServer::start().await;
    let a = NodeBuilder::redis("node-a", &redis).start().await;
    let b = NodeBuilder::redis("node-b", &redis).set("--worker-url", &a.worker_url).start().await;
    let ran = at(&a, &["status", "--json"]).await;
    let status = ran.json();
    let [first, second] = [&status["nodes"][0], &status["nodes"][1]];
    assert_eq!((&first["nodeId"], &first["ready"]), (&json!("node-a"), &json!(true)), "{status}");
    assert_eq!((&second["nodeId"], &second["ready"]), (&json!("node-b"), &json!(null)), "{status}");
    assert!(second["reason"].as_str().unwrap().contains("is another node"), "{status}");
    let ran = at(&b, &["status"]).await;
    assert!(ran.out.contains("unknown"), "{ran:?}");
}

#[tokio::test]
async fn why_a_node_is_not_reached_is_told() {
    let (proxy, _certificate) = tls_proxy("127.0.0.1:1".to_owned()).await;
    let (url, port) = (format!("wss://localhost:{proxy}"), two_ports().1.to_string());
    let node = NodeBuilder::local("solo").with(&[("--worker-url", &url), ("--worker-port", &port)]);
    let _node = node.start_listening().await;
    let status = run(&line(&["status", "--json", "--worker-port", &port]), "").await.json();
    let [ready, reason] = ["ready", "reason"].map(|field| &status["nodes"][0][field]);
    assert_eq!(ready, &Value::Null, "{status}");
    let reason = reason.as_str().unwrap();
    assert!(reason.starts_with(&format!("not reached from here at {url}: ")), "{reason}");
    assert!(reason.contains("certificate"), "{reason}");
}

#[tokio::test]
async fn what_a_frozen_node_has_not_read_shows_and_so_does_that_it_is_not_ready() {
    let pair = Pair::with(&[("--node-ttl", "30s")]).await;
    let _client = Client::as_user(&pair.a, "42", "tab-1").await;
    pair.a.signal(Signal::STOP);
    for _ in 0..3 {
        let publish = json!({"userId": "42", "event": "e"}).to_string();
        assert_eq!(http::post(&pair.b.worker_http("/publish"), &publish).await.status, 200);
    }
    let waits = eventually(BOUND, "three entries that wait", async || {
        let ran = at(&pair.b, &["status", "--json"]).await;
        let status: Value = serde_json::from_str(&ran.out).map_err(|error| format!("{error}: {ran:?}"))?;
        let inbox = &status["nodes"][0]["inbox"];
        let waits = inbox["lag"].as_u64().unwrap_or(0) + inbox["pending"].as_u64().unwrap_or(0);
        if waits >= 3 { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(waits["nodes"][0]["ready"], Value::Null, "a node that is frozen says nothing: {waits}");
    assert_eq!(waits["nodes"][1]["ready"], true, "{waits}");
    pair.a.signal(Signal::CONT);
}

#[tokio::test]
async fn local_mode_has_one_node_and_no_streams() {
    let node = NodeBuilder::local("solo").set("--worker-token", "long-token").start().await;
    assert_eq!(at(&node, &["status"]).await.code, Some(1), "without the token");
    let ran = at(&node, &["status", "--json", "--token", "long-token"]).await;
    let status = ran.json();
    assert_eq!((&status["nodes"][0]["nodeId"], &status["nodes"][0]["ready"]), (&json!("solo"), &json!(true)));
    assert_eq!((&status["streams"], &status["nodes"][0]["inbox"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn an_answer_that_is_no_status_is_not_shown_as_one() {
    for answer in [json!({"ok": true}), json!([]), json!({"nodes": [], "time": 1})] {
        let other = ApiServer::start(move |_| Reply::ok(answer.clone())).await;
        for args in [&["status"][..], &["status", "--json"]] {
            let ran = run(&line(&[args, &["--worker-url", &other.url]].concat()), "").await;
            assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
            assert!(ran.err.contains("something else than a node's status"), "{ran:?}");
        }
    }
}

#[tokio::test]
async fn every_ingress_stream_is_told_of() {
    let pair = Pair::with(&[("--ingress", "events,events:2")]).await;
    let mut db = pair.db.clone();
    let streams = async || {
        let ran = at(&pair.a, &["status", "--json"]).await;
        let status: Value = serde_json::from_str(&ran.out).map_err(|error| format!("{error}: {ran:?}"))?;
        let streams = &status["streams"]["ingress"];
        assert_eq!([&streams[0]["name"], &streams[1]["name"]], ["events", "events:2"]);
        Ok::<_, String>([0, 1].map(|at| streams[at].clone()))
    };
    let waits = |stream: &Value| stream["lag"].as_u64().zip(stream["pending"].as_u64());
    let nothing_waits = async || {
        let streams = streams().await?;
        same(streams.each_ref().map(waits), [Some((0, 0)); 2])?;
        same(streams.each_ref().map(|stream| stream["reader"].is_string()), [true; 2])
    };
    eventually(BOUND, "two streams that are read", nothing_waits).await;
    // Handed out to a reader that never came back to it.
    let mut taken = redis::pipe();
    taken.atomic().cmd("XADD").arg(&["events:2", "9999999999999-0", "user", "42", "event", "e"]);
    taken.cmd("XREADGROUP").arg(&["GROUP", "switchboard", "gone", "STREAMS", "events:2", ">"]);
    let _: redis::Value = db.run_pipeline(&taken).await;
    eventually(BOUND, "an entry that waits on the second", async || {
        same(streams().await?.each_ref().map(waits), [Some((0, 0)), Some((0, 1))])
    })
    .await;
    let ran = at(&pair.a, &["status"]).await;
    let line = ran.lines().into_iter().find(|line| line.starts_with("events:2 ")).unwrap().to_owned();
    assert!(line.contains("1 pending"), "{}", ran.out);
    assert!(ran.lines().iter().any(|line| line.starts_with("events  ")), "{}", ran.out);

    // As a reader lets go of it: Redis 6.2 has no lag, so what is in the stream counts.
    let mut done = redis::pipe();
    done.atomic().cmd("XACK").arg(&["events:2", "switchboard", "9999999999999-0"]);
    done.cmd("XDEL").arg(&["events:2", "9999999999999-0"]);
    let _: redis::Value = db.run_pipeline(&done).await;
    eventually(BOUND, "nothing that waits", nothing_waits).await;
}

#[tokio::test]
async fn what_was_read_before_redis_restarted_does_not_wait() {
    let mut redis = RedisServer::start_persistent().await;
    let node = NodeBuilder::redis("node-a", &redis).start().await;
    let mut db = redis.db().await;
    let publish = async |db: &mut Db, in_all| {
        for _ in 0..5 {
            db.xadd("events", &[("user", "42"), ("event", "e")]).await;
        }
        counted(&node, "events_published_total{via=\"ingress\"}", in_all).await;
        counted(&node, "ingress_lag", 0.0).await;
    };
    publish(&mut db, 5.0).await;
    // How many a group has read is in an AOF that was written anew, and does not go on from there.
    let _: String = db.run(&redis::cmd("BGREWRITEAOF")).await;
    eventually(BOUND, "the AOF written anew", async || {
        let info: String = db.clone().run(redis::cmd("INFO").arg("persistence")).await;
        let done = ["aof_rewrite_in_progress:0\r", "aof_rewrite_scheduled:0\r"];
        if done.iter().all(|done| info.contains(done)) { Ok(()) } else { Err(info) }
    })
    .await;
    publish(&mut db, 10.0).await;
    redis.kill();
    redis.start_again().await;
    publish(&mut redis.db().await, 15.0).await;
    eventually(BOUND, "nothing that waits", async || {
        let status = http::get(&node.worker_http("/status")).await.json();
        let (events, inbox) = (&status["streams"]["ingress"][0], &status["nodes"][0]["inbox"]);
        same([&events["lag"], &events["pending"], &inbox["lag"]], [&json!(0); 3])
    })
    .await;
}

#[tokio::test]
async fn watching_prints_again_and_again_and_ends_at_an_interrupt() {
    let node = NodeBuilder::local("solo").start().await;
    let mut watch = line_at(&node, &["status", "--watch", "--json"]).spawn("status");
    eventually(BOUND, "two looks", async || {
        let lines = watch.lines();
        if lines.len() >= 2 { Ok(()) } else { Err(lines.join("\n")) }
    })
    .await;
    for line in watch.lines() {
        serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    watch.signal(Signal::INT);
    assert_eq!(watch.exit(BOUND).await.code(), Some(0));
}

#[tokio::test]
async fn watching_goes_on_while_the_node_is_away_and_says_so() {
    let (client, worker) = two_ports();
    let ports = [("--client-port", &*client.to_string()), ("--worker-port", &*worker.to_string())];
    let url = format!("ws://127.0.0.1:{worker}");
    let mut watch = line(&["status", "--watch", "--json", "--worker-url", &url]).spawn("status");
    watch.log_line(BOUND, "that nobody is there", |line| line.contains("cannot reach")).await;
    let _node = NodeBuilder::local("solo").with(&ports).start().await;
    watch.log_line(BOUND, "the node", |line| line.starts_with('{') && line.contains("solo")).await;
    watch.signal(Signal::INT);
    assert_eq!(watch.exit(BOUND).await.code(), Some(0));
}
