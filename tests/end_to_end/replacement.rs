//! A second connection with the same user and client id replaces the first, wherever the two are.

use rustix::process::Signal;

use crate::support::db::set;
use crate::support::pair::Single;
use crate::support::scrape::counted;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Db, Node, NodeBuilder, Pair, Worker, eventually, http};

async fn registered(db: &mut Db, member: &str) {
    eventually(BOUND, &format!("{member} alone in user:42"), async || {
        same(db.members("user:42").await, set([member]))
    })
    .await;
}

/// The new connection works, the old one was told, and Redis knows only the new one.
///
/// A client id of its own for each call: one that was here before would be sent what it did not confirm.
async fn replaces(pair: &mut Pair, client: &str, old_on_a: bool, new_on_a: bool) {
    let node = |on_a: bool| -> &Node { if on_a { &pair.a } else { &pair.b } };
    let mut old = Client::as_user(node(old_on_a), "42", client).await;
    let mut new = Client::as_user(node(new_on_a), "42", client).await;
    assert_eq!(old.closed().await.code, 4009);
    let mut worker = Worker::open(&pair.a).await;
    let ack = worker.publish(serde_json::json!({"userId": "42", "event": "e"})).await;
    assert_eq!(new.event().await.id.as_deref(), ack["id"].as_str());
    let member = format!("{client}@{}", node(new_on_a).id);
    registered(&mut pair.db, &member).await;
    new.round_trip().await;
    new.close().await;
    eventually(BOUND, "no key of a user who left", async || {
        same((pair.db.exists("user:42").await, pair.db.exists("nodes:{user:42}").await), (false, false))
    })
    .await;
}

#[tokio::test]
async fn on_the_same_node() {
    let mut pair = Pair::start().await;
    replaces(&mut pair, "tab-1", true, true).await;
}

#[tokio::test]
async fn across_nodes() {
    let mut pair = Pair::start().await;
    replaces(&mut pair, "tab-1", true, false).await;
    replaces(&mut pair, "tab-2", false, true).await;
}

#[tokio::test]
async fn in_local_mode() {
    let node = NodeBuilder::local("solo").start().await;
    let mut old = Client::as_user(&node, "42", "tab-1").await;
    let mut new = Client::as_user(&node, "42", "tab-1").await;
    assert_eq!(old.closed().await.code, 4009);
    let id = Worker::open(&node).await.event("42", "1").await;
    assert_eq!(new.event().await.id, Some(id));
}

#[tokio::test]
async fn another_client_id_or_another_user_replaces_nobody() {
    let pair = Pair::start().await;
    let mut first = Client::as_user(&pair.a, "42", "tab-1").await;
    let _second = Client::as_user(&pair.b, "42", "tab-2").await;
    let _other = Client::as_user(&pair.b, "43", "tab-1").await;
    let id = Worker::open(&pair.b).await.event("42", "1").await;
    assert_eq!(first.event().await.id, Some(id));
    first.round_trip().await;
}

#[tokio::test]
async fn back_and_forth_between_nodes_leaves_only_the_last_one() {
    let mut pair = Pair::start().await;
    let mut replaced = Vec::new();
    // Each one connects as soon as the one before it was welcomed: farewells and arrivals overlap.
    for round in 0..12 {
        let node = if round % 2 == 0 { &pair.a } else { &pair.b };
        replaced.push(Client::as_user(node, "42", "tab-1").await);
    }
    let mut last = replaced.pop().unwrap();
    for client in &mut replaced {
        assert_eq!(client.closed().await.code, 4009);
    }
    registered(&mut pair.db, "tab-1@node-b").await;
    let mut worker = Worker::open(&pair.a).await;
    worker.publish(serde_json::json!({"userId": "42", "event": "e", "data": "last"})).await;
    assert_eq!(last.event().await.data, "\"last\"");
    // The late farewells of the others have not taken the last one's registration away.
    registered(&mut pair.db, "tab-1@node-b").await;
    last.close().await;
    pair.db.offline("42").await;
}

#[tokio::test]
async fn of_many_that_connect_at_once_exactly_one_stays() {
    let mut pair = Pair::start().await;
    let connecting = (0..10).map(|number| {
        let node = if number % 2 == 0 { &pair.a } else { &pair.b };
        Client::as_user(node, "42", "tab-1")
    });
    let clients = futures_util::future::join_all(connecting).await;
    let (ended, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    for mut client in clients {
        let ended = ended.clone();
        tokio::spawn(async move {
            let frame = client.frame("an event or a bye").await;
            ended.send((frame, client)).ok();
        });
    }
    // All but one are closed, and closed as replaced.
    for _ in 0..9 {
        let (bye, _) = outcomes.recv().await.unwrap();
        assert_eq!((&bye["type"], &bye["code"]), (&"bye".into(), &4009.into()), "{bye}");
    }
    let id = Worker::open(&pair.b).await.event("42", "1").await;
    let (event, mut survivor) = outcomes.recv().await.unwrap();
    assert_eq!(event["id"], id, "{event}");
    registered(&mut pair.db, &format!("tab-1@{}", survivor.welcomed("nodeId"))).await;
    survivor.round_trip().await;
}

#[tokio::test]
async fn a_replacement_with_events_in_flight_loses_nothing() {
    let pair = Pair::start().await;
    let mut worker = Worker::open(&pair.a).await;
    let publishing = tokio::spawn(async move { worker.count("42", 1, 200).await });
    let mut last = "0".to_owned();
    let mut received = Vec::new();
    let mut old: Option<Client> = None;
    let mut round = 0;
    while received.len() < 200 {
        round += 1;
        let node = if round % 2 == 0 { &pair.a } else { &pair.b };
        let query = format!("userId=42&clientId=tab-1&since={last}");
        let mut new = Client::open(node, &query).await;
        if let Some(mut old) = old.take() {
            assert_eq!(old.closed().await.code, 4009);
        }
        let events = new.events(20.min(200 - received.len())).await;
        last = events.last().unwrap().id.clone().unwrap();
        received.extend(crate::support::client::ids(&events));
        old = Some(new);
    }
    assert_eq!(received, publishing.await.unwrap());
}

/// Tabs that are each opened twice more while Redis does not answer: whichever of those two fails first, at some the
/// place is the third one's by then.
const TABS: usize = 8;

#[tokio::test]
async fn of_three_connections_none_is_left_that_nobody_knows() {
    let stage = Single::with(&[("--node-ttl", "60s")]).await;
    let mut clients = Vec::new();
    for tab in 0..TABS {
        clients.push(Client::as_user(&stage.a, "42", &format!("tab-{tab}")).await);
    }
    stage.redis.signal(Signal::STOP);
    let again = (0..2 * TABS).map(|at| stage.a.client_ws(&format!("userId=42&clientId=tab-{}", at / 2)));
    let again = again.map(|url| async move { http::upgrade(&url, &[]).await.refused(503) });
    futures_util::future::join_all(again).await;
    stage.redis.signal(Signal::CONT);
    let mut worker = Worker::open(&stage.a).await;
    eventually(BOUND, "an event to be taken", async || {
        let answer = worker.ask(r#"{"ref":"r","userId":"42","event":"e","data":"last","key":"k"}"#).await;
        same(answer["type"].clone(), "ack".into())
    })
    .await;
    // Who has its place back is served; who has not is told to come back.
    for client in &mut clients {
        let frame = client.frame("an event or a bye").await;
        let told = (frame["type"].as_str(), frame["code"].as_u64(), frame["data"].as_str());
        assert!(matches!(told, (Some("event"), _, Some("last")) | (Some("bye"), Some(1013), _)), "{frame}");
    }
}

/// A client that has got three events, and acknowledged two of them.
async fn acknowledged(node: &Node) -> (Client, Vec<String>) {
    let mut client = Client::as_user(node, "42", "tab-1").await;
    let published = Worker::open(node).await.count("42", 1, 3).await;
    client.events(3).await;
    client.send(&format!(r#"{{"type":"ack","id":"{}"}}"#, published[1])).await;
    client.round_trip().await;
    (client, published)
}

#[tokio::test]
async fn what_was_acknowledged_on_the_old_one_does_not_come_again() {
    let (solo, stage) = (NodeBuilder::local("solo").start().await, Single::start().await);
    for node in [&solo, &stage.a] {
        let (mut old, published) = acknowledged(node).await;
        let mut new = Client::as_user(node, "42", "tab-1").await;
        assert_eq!(new.welcome["replayed"], 1, "{}", new.welcome);
        assert_eq!(new.event().await.id.as_ref(), Some(&published[2]));
        assert_eq!(old.closed().await.code, 4009);
        // Nor where it closes, and its end is on its way when the next one comes.
        new.send(&format!(r#"{{"type":"ack","id":"{}"}}"#, published[2])).await;
        new.round_trip().await;
        let (_, again) = tokio::join!(new.close(), Client::as_user(node, "42", "tab-1"));
        assert_eq!(again.welcome["replayed"], 0, "{}", again.welcome);
    }
}

#[tokio::test]
async fn on_another_node_it_counts_once_the_old_one_has_ended() {
    let mut pair = Pair::start().await;
    let (mut old, published) = acknowledged(&pair.a).await;
    let _new = Client::as_user(&pair.b, "42", "tab-1").await;
    assert_eq!(old.closed().await.code, 4009);
    eventually(BOUND, "what was acknowledged, saved", async || {
        let mut position = redis::cmd("HGET");
        position.arg("cursor:{user:42}").arg("tab-1");
        same(pair.db.run::<String>(&position).await, published[1].clone())
    })
    .await;
    let last = Client::as_user(&pair.a, "42", "tab-1").await;
    assert_eq!(last.welcome["replayed"], 1, "{}", last.welcome);
}

#[tokio::test]
async fn a_late_word_of_what_replaced_it_before_it_was_registered_anew_is_nothing_to_it() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let (seconds, micros): (u64, u64) = stage.db.run(&redis::cmd("TIME")).await;
    let inbox = "inbox:{node:node-a}";
    stage.db.xadd(inbox, &[("hints", "0 look 42\n\n")]).await;
    counted(&stage.a, "catch_ups_total", 1.0).await;
    let id = Worker::open(&stage.a).await.event("42", "1").await;
    assert_eq!(client.event().await.id, Some(id));
    // It has its place by then, so whoever had it meanwhile is gone.
    let late = format!("0 replaced 42 tab-1 {seconds}{micros:06}\n\n1 transient 42 t\n2\n");
    stage.db.xadd(inbox, &[("hints", &late)]).await;
    assert_eq!(client.event().await.data, "2");
    client.round_trip().await;
}

/// The newer one is refused, though its user's keys have it already: the list of users of its node takes nothing.
#[tokio::test]
async fn where_the_newer_one_is_refused_the_older_has_its_place_again() {
    let mut pair = Pair::with(&[("--session-ttl", "1h")]).await; // no heartbeat sees to it
    let mut old = Client::as_user(&pair.b, "42", "tab-1").await;
    let () = pair.db.run(redis::cmd("DEL").arg("users:{node:node-a}")).await;
    let () = pair.db.run(redis::cmd("SET").arg("users:{node:node-a}").arg("x")).await;
    let refused = http::upgrade(&pair.a.client_ws("userId=42&clientId=tab-1"), &[]).await;
    assert_eq!(refused.refused(503), "unavailable");
    registered(&mut pair.db, "tab-1@node-b").await;
    let mut worker = Worker::open(&pair.a).await;
    let ack = worker.publish(serde_json::json!({"userId": "42", "event": "e"})).await;
    assert_eq!(ack["nodes"], serde_json::json!(["node-b"]));
    assert_eq!(old.event().await.id.as_deref(), ack["id"].as_str());
}
