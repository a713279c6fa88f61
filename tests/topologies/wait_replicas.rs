//! `--wait-replicas`: an event is acknowledged when so many replicas have it, and not before.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::access::{documented_addition, documented_rule, refused};
use crate::support::client::{data, numbers};
use crate::support::wait::same;
use crate::support::{BOUND, Client, Node, NodeBuilder, RedisServer, Worker, eventually, http, within};

/// A master, and its replica in step.
async fn replicated() -> (RedisServer, RedisServer) {
    let master = RedisServer::start_with(&["--save", "", "--repl-diskless-sync-delay", "0"]).await;
    let port = master.port().to_string();
    let replica = RedisServer::start_with(&["--save", "", "--replicaof", "127.0.0.1", &port]).await;
    replica.in_step().await;
    (master, replica)
}

async fn waiting(master: &RedisServer) -> Node {
    let rule = [documented_rule(), documented_addition("with `--wait-replicas`")].join(" ");
    master.allow(&rule).await;
    let url = format!("redis://switchboard:geheim@127.0.0.1:{}", master.port());
    let settings = [("--wait-replicas", "1"), ("--wait-timeout", "200ms"), ("--node-ttl", "2s")];
    NodeBuilder::redis_at("node-a", &url).with(&settings).start().await
}

fn numbered(number: usize) -> Value {
    json!({"ref": "r", "userId": "42", "event": "e", "data": number, "key": format!("k{number}")})
}

/// Sends an event again, with its key, until it is acknowledged.
async fn again(worker: &mut Worker, number: usize) -> Value {
    let acknowledged = async {
        loop {
            let answer = worker.ask(&numbered(number).to_string()).await;
            match answer["code"].as_str() {
                None => return answer,
                Some(code) => assert_eq!(code, "unavailable", "{answer}"),
            }
        }
    };
    within(2 * BOUND, "an ack", acknowledged).await
}

#[tokio::test]
async fn without_its_replica_nothing_is_acknowledged_however_often_it_is_sent() {
    let (master, mut replica) = replicated().await;
    let node = waiting(&master).await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    assert_eq!(again(&mut worker, 1).await["nodes"], json!(["node-a"]));

    // Connected, and silent.
    replica.signal(Signal::STOP);
    // More often than the pool has connections: none of them may take another one's word for the replica's.
    for _ in 0..12 {
        let answer = worker.ask(&numbered(2).to_string()).await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("unavailable")), "{answer}");
    }
    let answer = http::post(&node.worker_http("/publish"), &numbered(3).to_string()).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("unavailable")));
    // It is there all the same, once.
    assert_eq!(master.ask::<usize>(&["XLEN", "log:{user:42}"]).await, 3);
    // An entry of the ingress stream is kept until it is done.
    let entry = ["XADD", "events", "*", "user", "42", "event", "e", "data", "4"];
    master.ask::<String>(&entry).await;
    eventually(BOUND, "the entry in the log", async || {
        same(master.ask::<usize>(&["XLEN", "log:{user:42}"]).await, 4)
    })
    .await;
    assert_eq!(master.ask::<usize>(&["XLEN", "events"]).await, 1);

    replica.signal(Signal::CONT);
    assert_eq!(again(&mut worker, 2).await["type"], "ack");
    assert_eq!(again(&mut worker, 3).await["type"], "ack");
    eventually(BOUND, "the entry let go of", async || {
        same(master.ask::<usize>(&["XLEN", "events"]).await, 0)
    })
    .await;
    assert_eq!(data(&client.events(4).await), numbers(1, 4));

    // Gone altogether.
    replica.kill();
    let answer = worker.ask(&numbered(5).to_string()).await;
    assert_eq!(answer["code"], "unavailable", "{answer}");
    replica.start_again().await;
    replica.in_step().await;
    assert_eq!(again(&mut worker, 5).await["type"], "ack");
    assert_eq!(again(&mut worker, 6).await["type"], "ack");
    assert_eq!(data(&client.events(2).await), numbers(5, 6));
    // What was acknowledged is on the replica.
    assert_eq!(replica.ask::<usize>(&["XLEN", "log:{user:42}"]).await, 6);
    assert_eq!(refused(&master).await, [""; 0]);
}
