//! A key that holds something else: who asks is told so, and so is the operator.

use redis::cmd;

use crate::support::db::set;
use crate::support::pair::Single;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Db, NodeBuilder, RedisServer, Worker, eventually, http};

const WHY: &str = "holds something else";

#[tokio::test]
async fn whoever_asks_for_its_user_is_told_and_the_log_names_each_once() {
    let mut stage = Single::start().await;
    let node = &stage.a;
    let mut worker = Worker::open(node).await;
    let user = node.worker_http("/users/42");

    let () = stage.db.run(cmd("SET").arg("user:42").arg("x")).await;
    for _ in 0..3 {
        let refused = http::upgrade(&node.client_ws("userId=42"), &[]).await;
        assert_eq!(refused.refused(503), "unavailable");
        assert!(refused.body.contains(WHY), "{}", refused.body);
    }
    let refused = http::get(&user).await;
    assert_eq!(refused.refused(503), "unavailable");
    assert!(refused.body.contains(WHY), "{}", refused.body);
    let refused = http::delete(&format!("{user}/sessions")).await;
    assert!(refused.status == 503 && refused.body.contains(WHY), "{}", refused.body);

    let () = stage.db.run(cmd("SET").arg("log:{user:43}").arg("x")).await;
    let refused = worker.ask(r#"{"userId":"43","event":"e"}"#).await;
    assert_eq!(refused["code"], "unavailable");
    assert!(refused["message"].as_str().unwrap().contains(WHY), "{refused}");
    let others = worker.ask(r#"{"userId":"1","event":"e","ref":"r"}"#).await;
    assert_eq!(others["type"], "ack", "{others}");
    assert_eq!(http::get(&node.worker_http("/readyz")).await.status, 200);

    let told = |line: &str| line.contains("refused until it is mended");
    for user in [r#""user":"42""#, r#""user":"43""#] {
        let line = node.log_line(BOUND, "a warning", |line| told(line) && line.contains(user)).await;
        assert!(line.contains("WARN") && line.contains("WRONGTYPE"), "{line}");
    }
    assert_eq!(node.lines().iter().filter(|line| told(line)).count(), 2);
}

/// Their lease is due again and again.
#[tokio::test]
async fn whose_key_broke_while_they_are_here_is_told_of_once() {
    let mut stage = Single::with(&[("--session-ttl", "1s")]).await;
    let _client = Client::as_user(&stage.a, "42", "tab-1").await;
    let () = stage.db.run(cmd("DEL").arg("nodes:{user:42}")).await;
    let () = stage.db.run(cmd("SET").arg("nodes:{user:42}").arg("x")).await;
    stage.db.refused("WRONGTYPE", 5).await;
    let told = |line: &str| line.contains("the user is passed over");
    let line = stage.a.log_line(BOUND, "a warning", told).await;
    assert!(line.contains(r#""user":"42""#) && line.contains("WRONGTYPE"), "{line}");
    assert_eq!(stage.a.lines().iter().filter(|line| told(line)).count(), 1);
}

#[tokio::test]
async fn what_an_entry_for_it_was_refused_for_begins_with_the_code_that_others_are_told() {
    let mut stage = Single::start().await;
    let () = stage.db.run(cmd("SET").arg("log:{user:43}").arg("x")).await;
    stage.db.xadd("events", &[("user", "43"), ("event", "e"), ("data", "1")]).await;
    let dead = eventually(BOUND, "the entry in `events:dead`", async || {
        stage.db.stream("events:dead").await.pop().ok_or_else(|| "nothing".to_owned())
    })
    .await;
    let reason = dead.get("reason");
    assert!(reason.starts_with("unavailable: ") && reason.contains("WRONGTYPE"), "{reason}");
}

/// No user's key: everybody is refused, again and again, by a node that is ready.
#[tokio::test]
async fn one_that_all_share_is_told_once_for_all_who_are_refused_for_it() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let told = |line: &str, what: &str| line.contains("refuses this") && line.contains(what);

    let () = stage.db.run(cmd("SET").arg("uplink").arg("x")).await;
    client.send(r#"{"type":"message","event":"e","data":1}"#).await;
    assert_eq!(client.frame("a refusal").await["code"], "unavailable");
    let line = stage.a.log_line(BOUND, "a warning", |line| told(line, "to send up")).await;
    assert!(line.contains("WARN") && line.contains("(`uplink` holds"), "{line}");
    let () = stage.db.run(cmd("DEL").arg("uplink")).await;

    let () = stage.db.run(cmd("SET").arg("users:{node:node-a}").arg("x")).await;
    let what = "to let a client in";
    for _ in 0..3 {
        let refused = http::upgrade(&stage.a.client_ws("userId=43"), &[]).await;
        assert_eq!(refused.refused(503), "unavailable");
        let line = stage.a.log_line(BOUND, "a warning", |line| told(line, what)).await;
        assert!(line.contains("WARN") && line.contains("(`users:{node:node-a}` holds"), "{line}");
    }
    assert_eq!(stage.a.lines().iter().filter(|line| told(line, what)).count(), 1);

    let () = stage.db.run(cmd("DEL").arg("users:{node:node-a}")).await;
    let () = stage.db.run(cmd("SET").arg("traced").arg("x")).await;
    let url = stage.a.worker_http("/users/42/trace");
    let refused = http::request(reqwest::Method::PUT, &url, &[], None).await.unwrap();
    assert_eq!(refused.refused(503), "unavailable");
    let line = stage.a.log_line(BOUND, "a warning", |line| told(line, "to follow a user")).await;
    assert!(line.contains("(`traced` holds"), "{line}");
}

/// The entry stays where it is until it can be put aside.
#[tokio::test]
async fn the_stream_for_bad_entries_is_named_where_it_keeps_one_from_being_put_aside() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let () = stage.db.run(cmd("SET").arg("events:dead").arg("x")).await;
    stage.db.xadd("events", &[("event", "for nobody")]).await;
    let told = |line: &str| line.contains("nor be put aside");
    let line = stage.a.log_line(BOUND, "a warning", told).await;
    assert!(line.contains("(`events:dead` holds"), "{line}");
    let () = stage.db.run(cmd("DEL").arg("events:dead")).await;
    stage.db.xadd("events", &[("user", "42"), ("event", "e"), ("data", "1")]).await;
    assert_eq!(client.event().await.event, "e");
    let all_done = async || {
        let (dead, left) = (stage.db.stream("events:dead").await, stage.db.stream("events").await);
        if (dead.len(), left.len()) == (1, 0) { Ok(()) } else { Err(format!("{dead:?}, {left:?}")) }
    };
    eventually(BOUND, "the bad entry to be put aside", all_done).await;
}

/// Whoever clears up after the node goes by it. Its sessions keep their sockets.
#[tokio::test]
async fn the_list_of_whom_a_node_serves_is_made_anew() {
    let mut stage = Single::start().await;
    let _clients =
        (Client::as_user(&stage.a, "42", "tab-1").await, Client::as_user(&stage.a, "43", "tab-1").await);
    let list = "users:{node:node-a}";
    let made_anew = async |db: &mut Db| {
        eventually(BOUND, "both users", async || same(db.members(list).await, set(["42", "43"]))).await;
    };
    made_anew(&mut stage.db).await;
    let () = stage.db.run(cmd("DEL").arg(list)).await;
    made_anew(&mut stage.db).await;

    // Whoever connects is put on it, so that it is there again at once.
    let () = stage.db.run(cmd("DEL").arg(list)).await;
    let third = Client::as_user(&stage.a, "44", "tab-1").await;
    let all = set(["42", "43", "44"]);
    eventually(BOUND, "all three", async || same(stage.db.members(list).await, all.clone())).await;
    drop(third);
    made_anew(&mut stage.db).await;

    let () = stage.db.run(cmd("SET").arg(list).arg("x")).await;
    let told = |line: &str| line.contains("refuses this") && line.contains("whom this node serves");
    let line = stage.a.log_line(BOUND, "a warning", told).await;
    assert!(line.contains("WARN") && line.contains(&format!("(`{list}` holds")), "{line}");
    let () = stage.db.run(cmd("DEL").arg(list)).await;
    made_anew(&mut stage.db).await;
}

#[tokio::test]
async fn a_node_that_cannot_start_for_one_names_it() {
    for key in ["nodes", "node:node-a", "users:{node:node-a}"] {
        let redis = RedisServer::start().await;
        let mut db = redis.db().await;
        let () = db.run(cmd("SET").arg(key).arg("x")).await;
        let node = NodeBuilder::redis("node-a", &redis).start_listening().await;
        let line = node.log_line(BOUND, "why", |line| line.contains("Redis cannot be used")).await;
        assert!(line.contains("WRONGTYPE") && line.contains(&format!("(`{key}` holds")), "{line}");
        let () = db.run(cmd("DEL").arg(key)).await;
        http::answers(&node.worker_http("/readyz"), 200, BOUND).await;
    }
}

/// As with a node that is there already: its reader alone has to wait.
#[tokio::test]
async fn a_node_starts_without_its_ingress_stream() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let () = db.run(cmd("SET").arg("events").arg("x")).await;
    let node = NodeBuilder::redis("node-a", &redis).start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    client.round_trip().await;
    let line = node.log_line(BOUND, "why", |line| line.contains("ingress stream cannot be read")).await;
    assert!(line.contains("WARN") && line.contains("WRONGTYPE"), "{line}");
    let () = db.run(cmd("DEL").arg("events")).await;
    db.xadd("events", &[("user", "42"), ("event", "e"), ("data", "1")]).await;
    assert_eq!(client.event().await.data, "1");
}
