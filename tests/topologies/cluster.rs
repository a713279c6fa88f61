//! A Redis Cluster: what a node does on one server it does there.

use rustix::process::Signal;
use serde_json::json;

use crate::access::{documented_addition, documented_rule, refused};
use crate::servers::Cluster;
use crate::support::client::{data, numbers};
use crate::support::wait::same;
use crate::support::{BOUND, Client, Node, NodeBuilder, Worker, eventually, http};

/// Enough that each master has some of them.
pub fn users() -> Vec<String> {
    (1..=12).map(|number| format!("user-{number}")).collect()
}

/// Starts a node of this Cluster.
pub async fn node(cluster: &Cluster, id: &str, settings: &[(&str, &str)]) -> Node {
    let builder = NodeBuilder::redis_at(id, &cluster.url());
    builder.with(settings).start().await
}

async fn members(cluster: &Cluster, user: &str) -> Vec<String> {
    let key = format!("user:{user}");
    cluster.ask(&key, &["SMEMBERS", &key]).await
}

async fn main_job(cluster: &Cluster, settings: &[(&str, &str)], prefix: &str) {
    let mut a = node(cluster, "node-a", settings).await;
    let b = node(cluster, "node-b", settings).await;
    let mut worker = Worker::open(&b).await;
    let mut clients = Vec::new();
    for user in users() {
        clients.push(Client::as_user(&a, &user, "tab-1").await);
        let key = format!("{prefix}user:{user}");
        let members: Vec<String> = cluster.ask(&key, &["SMEMBERS", &key]).await;
        assert_eq!(members, ["tab-1@node-a"], "{key}");
    }
    for (user, client) in users().iter().zip(&mut clients) {
        let ack = worker.publish(json!({"userId": user, "event": "e", "data": 1})).await;
        assert_eq!(ack["nodes"], json!(["node-a"]), "{ack}");
        assert_eq!(client.event().await.data, "1");
    }
    // Many at once: users of several slots, and several events of one.
    worker.publish(json!({"userIds": users(), "event": "e", "data": 2})).await;
    for client in &mut clients {
        assert_eq!(client.event().await.data, "2");
    }
    worker.publish(json!({"broadcast": true, "event": "e", "data": 3})).await;
    for client in &mut clients {
        assert_eq!(client.event().await.data, "3");
    }
    let events = format!("{prefix}events");
    for user in users() {
        let entry = ["XADD", &events, "*", "user", &user, "event", "e", "data", "4"];
        cluster.ask::<String>(&events, &entry).await;
    }
    cluster.ask::<String>(&events, &["XADD", &events, "*", "user", "x"]).await;
    for client in &mut clients {
        assert_eq!(client.event().await.data, "4");
    }
    let dead = format!("{prefix}events:dead");
    eventually(BOUND, "the bad entry put aside", async || {
        same(cluster.ask::<usize>(&dead, &["XLEN", &dead]).await, 1)
    })
    .await;

    // A client that leaves and comes back elsewhere gets what it missed, and its older connection is replaced.
    let user = &users()[0];
    let last = worker.event(user, "5").await;
    clients[0].event().await;
    let mut again = Client::open(&b, &format!("userId={user}&clientId=tab-1&since={last}")).await;
    assert_eq!(again.welcome["recovered"], true);
    assert_eq!(clients[0].closed().await.code, 4009);
    again.close().await;
    worker.count(user, 6, 40).await;
    again = Client::open(&b, &format!("userId={user}&clientId=tab-1&since={last}")).await;
    assert_eq!(again.welcome["recovered"], true, "{}", again.welcome);
    assert_eq!(data(&again.events(35).await), numbers(6, 40));

    let online = http::post(&b.worker_http("/users/online"), &json!({"userIds": users()}).to_string()).await;
    assert_eq!(online.json()["online"].as_array().map(Vec::len), Some(users().len()), "{online:?}");

    a.signal(Signal::TERM);
    assert!(a.exit(BOUND).await.success());
    let user = &users()[1];
    let key = format!("{prefix}user:{user}");
    assert_eq!(cluster.ask::<i64>(&key, &["EXISTS", &key]).await, 0);
    let left = cluster.keys().await;
    assert!(!left.iter().any(|key| key.contains("node-a")), "{left:?}");
    assert!(left.iter().all(|key| key.starts_with(prefix)), "{left:?}");
}

#[tokio::test]
async fn the_main_job() {
    let cluster = Cluster::start().await;
    main_job(&cluster, &[("--drain-timeout", "500ms")], "").await;
    assert_eq!(cluster.presence("user-2").await, ["online", "offline"]);
}

#[tokio::test]
async fn the_main_job_with_a_prefix() {
    let cluster = Cluster::start().await;
    main_job(&cluster, &[("--drain-timeout", "500ms"), ("--key-prefix", "app:")], "app:").await;
}

#[tokio::test]
async fn the_main_job_with_the_documented_rights() {
    let mut cluster = Cluster::start().await;
    let rule = [documented_rule(), documented_addition("on a Cluster")].join(" ");
    cluster.allow(&rule).await;
    main_job(&cluster, &[("--drain-timeout", "500ms")], "").await;
    // A slot on its way: a key that is not where it was has to be asked for where it goes.
    let node = node(&cluster, "node-c", &[]).await;
    let from = cluster.holders("user:mover").await[0];
    let to = cluster.holders("user:user-1").await[0];
    let to = if to == from { cluster.holders("user:user-2").await[0] } else { to };
    let moving = cluster.begin_move("user:mover", to).await;
    let answer = http::get(&node.worker_http("/users/mover")).await;
    assert_eq!((answer.status, &answer.json()["online"]), (200, &json!(false)), "{answer:?}");
    moving.finish(&cluster).await;
    for server in &cluster.servers {
        assert_eq!(refused(server).await, [""; 0], "port {}", server.port());
    }
}

/// What is deleted there comes back on the other master alone: a log that is written anew would be lost.
#[tokio::test]
async fn a_log_full_of_holes_stays_while_its_slot_moves() {
    let cluster = Cluster::of_masters().await;
    let node = node(&cluster, "node-a", &[]).await;
    let mut client = Client::as_user(&node, "mover", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    let progress = |data: u64| json!({"userId": "mover", "event": "e", "data": data, "collapseKey": "job"});
    for event in [json!({"userId": "mover", "event": "e", "data": 1}), progress(2)] {
        assert_eq!(worker.publish(event).await["type"], "ack");
    }
    let cursor = "cursor:{user:mover}";
    cluster.ask::<i64>(cursor, &["HSET", cursor, "@holes", "1024"]).await;
    let to = (cluster.holders(cursor).await[0] + 1) % 3;
    let moving = cluster.begin_move(cursor, to).await;
    assert_eq!(worker.publish(progress(3)).await["type"], "ack");
    moving.finish(&cluster).await;
    assert_eq!(cluster.ask::<i64>(cursor, &["XLEN", "log:{user:mover}"]).await, 2);
    assert_eq!(data(&client.events(3).await), numbers(1, 3));
}

#[tokio::test]
async fn after_a_crash_another_node_clears_up() {
    let cluster = Cluster::start().await;
    let settings = [("--node-ttl", "1500ms")];
    let mut a = node(&cluster, "node-a", &settings).await;
    let b = node(&cluster, "node-b", &settings).await;
    let mut clients = Vec::new();
    for user in users() {
        clients.push(Client::as_user(&a, &user, "tab-1").await);
    }
    let _stays = Client::as_user(&b, "user-1", "tab-2").await;
    a.kill();
    for user in users() {
        let left: &[&str] = if user == "user-1" { &["tab-2@node-b"] } else { &[] };
        eventually(BOUND, "the users of the dead node", async || {
            same(members(&cluster, &user).await, left.iter().map(|it| (*it).to_owned()).collect())
        })
        .await;
    }
    eventually(BOUND, "`offline`", async || {
        same(cluster.presence("user-2").await, vec!["online".to_owned(), "offline".to_owned()])
    })
    .await;
    assert_eq!(cluster.presence("user-1").await, ["online"]);
}
