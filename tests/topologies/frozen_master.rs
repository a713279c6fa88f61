//! A master of a Cluster that freezes, or dies, and has no replica: what lies on the others goes on, and is told of.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::{node, users};
use crate::servers::Cluster;
use crate::support::scrape::counted;
use crate::support::terminal::at;
use crate::support::wait::same;
use crate::support::{BOUND, Node, Scrape, eventually, http};

/// Short: a question that a frozen master leaves open takes as long.
const SETTINGS: &[(&str, &str)] = &[("--node-ttl", "3s")];
/// Two leases, and the beat in which the master is found frozen.
const FROZEN: Duration = Duration::from_secs(8);

/// As far apart as two looks may be where the machine is not busy; after that a lease may well be lost.
const BUSY: Duration = Duration::from_secs(1);
/// So often a master is frozen anew where it is.
const TRIES: u32 = 3;

/// How often a node has lost its lease.
fn losses(node: &&Node) -> usize {
    node.lines().iter().filter(|line| line.contains("lease was lost")).count()
}

/// Freezes the master of a key until `checks` is done; it must not be the one of the bystanders' own keys. In the end all
/// nodes are ready again.
async fn while_frozen(
    cluster: &Cluster,
    key: &str,
    bystanders: &[&Node],
    all: &[&Node],
    checks: impl AsyncFnOnce(),
) {
    let frozen = &cluster.servers[cluster.holders(key).await[0]];
    for tries_left in (0..TRIES).rev() {
        let lost = || bystanders.iter().map(losses).collect::<Vec<_>>();
        let before = lost();
        frozen.signal(Signal::STOP);
        let (since, mut not_ready) = (Instant::now(), Vec::new());
        let (mut last, mut apart) = (Instant::now(), Duration::ZERO);
        while since.elapsed() < FROZEN {
            for node in bystanders {
                let answer = http::get(&node.worker_http("/readyz")).await;
                if answer.status != 200 {
                    not_ready.push((since.elapsed(), answer.body));
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            (last, apart) = (Instant::now(), apart.max(last.elapsed()));
        }
        let is_calm = not_ready.is_empty() && lost() == before;
        if !is_calm && apart > BUSY && tries_left > 0 {
            frozen.signal(Signal::CONT);
            ready(all).await;
            continue;
        }
        checks().await;
        frozen.signal(Signal::CONT);
        assert_eq!(lost(), before, "leases lost: {key}");
        assert!(not_ready.is_empty(), "{key}: {not_ready:?}");
        break;
    }
    ready(all).await;
}

async fn ready(nodes: &[&Node]) {
    for node in nodes {
        http::answers(&node.worker_http("/readyz"), 200, BOUND * 2).await;
    }
}

async fn status(node: &Node) -> Value {
    let answer = http::get(&node.worker_http("/status")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Who lives cannot be read; and nothing can have been done by asking for it.
async fn has_no_list(node: &Node) {
    let answer = http::get(&node.worker_http("/nodes")).await;
    let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(message.contains("not for this part") && !message.contains("may not have been"), "{message}");
}

#[tokio::test]
async fn a_frozen_master_costs_nodes_on_others_no_lease_and_hides_no_other_part() {
    let cluster = Cluster::of_masters().await;
    let (a, c, d) = (
        node(&cluster, "node-a", SETTINGS).await,
        node(&cluster, "node-c", SETTINGS).await,
        node(&cluster, "node-d", SETTINGS).await,
    );
    let master = async |key: &str| cluster.holders(key).await[0];
    let (nodes, traced) = (master("nodes").await, master("traced").await);
    assert_eq!((master("node:node-a").await, master("node:node-d").await), (nodes, traced));
    assert_eq!((master("events").await, master("uplink").await), (nodes, traced));
    assert!(![nodes, traced].contains(&master("node:node-c").await), "alone on the third");

    while_frozen(&cluster, "traced", &[&a, &c], &[&a, &c, &d], async || {
        let status = status(&c).await;
        let known = |node: usize| {
            let node = &status["nodes"][node];
            [&node["nodeId"], &node["sessions"], &node["users"], &node["inbox"]["lag"]].map(Value::clone)
        };
        assert_eq!(known(0), [json!("node-a"), json!(0), json!(0), json!(0)], "{status}");
        assert_eq!(known(2), [json!("node-d"), Value::Null, Value::Null, Value::Null], "{status}");
        let streams = &status["streams"];
        assert_eq!([&streams["uplink"], &streams["presence"]], [&Value::Null; 2], "{status}");
        assert_eq!((&streams["dead"], &streams["ingress"][0]["lag"]), (&json!(0), &json!(0)), "{status}");
        // Its lease is over: it is not live.
        let live = http::answers(&c.worker_http("/nodes"), 200, BOUND).await.json();
        let ids: Vec<_> = live["nodes"].as_array().unwrap().iter().map(|node| &node["nodeId"]).collect();
        assert_eq!(ids, ["node-a", "node-c"], "{live}");
    })
    .await;
    let again = d.log_line(BOUND, "a lease that is held again", |line| line.contains("lease was lost")).await;
    assert!(again.contains("Redis could not be used"), "{again}");

    while_frozen(&cluster, "nodes", &[&c, &d], &[&a, &c, &d], async || {
        let status = status(&c).await;
        assert_eq!(status["nodes"], Value::Null, "{status}");
        let streams = &status["streams"];
        assert_eq!((&streams["dead"], &streams["uplink"]), (&Value::Null, &json!(0)), "{status}");
        assert_eq!(streams["ingress"][0]["lag"], Value::Null, "{status}");
        let ran = at(&c, &["status"]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(
            ran.out.contains("reader unknown") && ran.out.contains("uplink       0 entries"),
            "{}",
            ran.out
        );
        has_no_list(&c).await;
    })
    .await;
}

/// A master with none of the keys that every node needs.
struct Spare {
    master: usize,
    /// A node id whose own keys it has.
    with: String,
    /// One whose own keys another has.
    without: String,
}

impl Spare {
    async fn of(cluster: &Cluster) -> Self {
        let mut needed = Vec::new();
        for key in ["nodes", "events", "presence"] {
            needed.push(cluster.holders(key).await[0]);
        }
        let master = (0..3).find(|master| !needed.contains(master)).expect("a master without any of these");
        let (mut with, mut without) = (None, None);
        for number in 0..50 {
            let id = format!("node-{number}");
            let is_there = cluster.holders(&format!("node:{id}")).await[0] == master;
            if is_there { &mut with } else { &mut without }.get_or_insert(id);
        }
        Self { master, with: with.expect("a node there"), without: without.expect("a node elsewhere") }
    }
}

#[tokio::test]
async fn a_dead_node_whose_keys_nobody_can_read_ends_neither_broadcasts_nor_the_list() {
    let mut cluster = Cluster::of_masters().await;
    let Spare { master, with, without } = Spare::of(&cluster).await;
    let a = node(&cluster, &without, &[("--node-ttl", "2s")]).await;
    let b = node(&cluster, &with, &[("--node-ttl", "2s")]).await;
    cluster.servers[master].kill();
    b.signal(Signal::KILL);
    http::answers(&a.worker_http("/nodes"), 200, BOUND * 2).await; // the list without it
    let answer = http::post(&a.worker_http("/publish"), r#"{"broadcast":true,"event":"e"}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_master_that_is_away_is_told_of_once_and_so_is_that_it_is_back() {
    let mut cluster = Cluster::of_masters().await;
    let Spare { master, with, without } = Spare::of(&cluster).await;
    let mut elsewhere = node(&cluster, &without, SETTINGS).await;
    let mut there = node(&cluster, &with, SETTINGS).await;
    let mut user = None;
    for name in users() {
        if cluster.holders(&format!("user:{name}")).await[0] == master {
            user.get_or_insert(name);
        }
    }
    let event = json!({"userId": user.expect("a user there"), "event": "e"}).to_string();
    let url = elsewhere.worker_http("/publish");
    assert_eq!(http::post(&url, &event).await.status, 200);

    let server = &mut cluster.servers[master];
    server.kill();
    http::post(&url, &event).await.refused(503);
    let name = format!(r#""server":"127.0.0.1:{}""#, server.port());
    let tells = |what: &'static str| {
        let name = name.clone();
        move |line: &str| line.contains(what) && line.contains(&name)
    };
    let (away, back) =
        (tells("a master of the Cluster is away"), tells("a master of the Cluster answers again"));
    let line = elsewhere.log_line(BOUND, "that a master is away", &away).await;
    assert!(line.contains(r#""level":"WARN""#) && line.contains(r#""times":1"#), "{line}");
    assert!(line.contains("onnection refused"), "why: {line}");
    there.log_line(BOUND, "that Redis is away", |line| line.contains("Redis cannot be used")).await;
    http::answers(&elsewhere.worker_http("/readyz"), 200, BOUND).await;
    http::post(&url, &event).await.refused(503);
    counted(&elsewhere, "redis_masters_away", 1.0).await;
    assert_eq!(Scrape::of(&elsewhere).await.get("redis_up"), 1.0);

    server.start_again().await;
    let line = elsewhere.log_line(BOUND, "that it answers again", &back).await;
    assert!(line.contains(r#""level":"INFO""#), "{line}");
    eventually(BOUND, "an event", async || same(http::post(&url, &event).await.status, 200)).await;
    counted(&elsewhere, "redis_masters_away", 0.0).await;
    there.log_line(BOUND, "that Redis is back", |line| line.contains("Redis is back")).await;
    let log = elsewhere.whole_log().await;
    let count = |fits: &dyn Fn(&str) -> bool| log.iter().filter(|line| fits(line)).count();
    assert_eq!((count(&away), count(&back)), (1, 1), "{log:#?}");
    assert_eq!(count(&|line| line.contains("Redis cannot be used")), 0, "{log:#?}");
    let log = there.whole_log().await;
    assert!(!log.iter().any(|line| away(line) || back(line)), "its own: {log:#?}");
}
