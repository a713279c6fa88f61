//! Confirmed positions: a client that comes back with its id, and without `since`, gets what it did not confirm.

use crate::support::client::{data, ids};
use crate::support::pair::Single;
use crate::support::wait::same;
use crate::support::{BOUND, Client, NodeBuilder, Pair, RawClient, Worker, eventually};

/// Reads the next events of a client that answers no ping, and so confirms nothing by reading.
async fn read_ids(client: &mut RawClient, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let frame = client.json("an event").await;
        assert_eq!(frame["type"], "event", "{frame}");
        ids.push(frame["id"].as_str().expect("an id").to_owned());
    }
    ids
}

#[tokio::test]
async fn unconfirmed_events_come_again_after_a_broken_connection() {
    let mut pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let (mut client, welcome) = RawClient::open(&pair.a, "userId=42&clientId=tab-1").await;
    assert_eq!(welcome["replayed"], 0);
    let published = worker.count("42", 1, 3).await;
    assert_eq!(read_ids(&mut client, 3).await, published);
    drop(client);
    pair.db.offline("42").await;

    // On the other node: the position is not the first node's secret.
    let mut again = Client::as_user(&pair.b, "42", "tab-1").await;
    assert_eq!(again.welcome["replayed"], 3, "{}", again.welcome);
    assert_eq!(again.welcome["recovered"], true, "{}", again.welcome);
    assert_eq!(ids(&again.events(3).await), published);
}

#[tokio::test]
async fn acknowledged_events_do_not_come_again() {
    let mut pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let (mut client, _) = RawClient::open(&pair.a, "userId=42&clientId=tab-1").await;
    let published = worker.count("42", 1, 3).await;
    read_ids(&mut client, 3).await;
    client.send_text(&format!(r#"{{"type":"ack","id":"{}"}}"#, published[0])).await;
    client.round_trip().await;
    drop(client);
    pair.db.offline("42").await;
    let offline_event = worker.event("42", "4").await;

    let mut again = Client::as_user(&pair.b, "42", "tab-1").await;
    assert_eq!(again.welcome["replayed"], 3, "{}", again.welcome);
    let events = again.events(3).await;
    assert_eq!(ids(&events), [&published[1..], &[offline_event]].concat());
}

/// Waits until the position is saved, and kills the node that the client is on: nothing comes again at the other.
async fn outlives_the_node(pair: &mut Pair, position: Option<&String>) {
    eventually(BOUND, "the saved position", async || {
        same(pair.db.hash("cursor:{user:42}").await.remove("tab-1").as_ref(), position)
    })
    .await;
    pair.a.kill();
    let again = Client::as_user(&pair.b, "42", "tab-1").await;
    assert_eq!((&again.welcome["replayed"], &again.welcome["recovered"]), (&0.into(), &true.into()));
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_node_that_is_killed() {
    // No heartbeat comes within the test.
    let mut pair = Pair::with(&[("--session-ttl", "10m")]).await;
    let mut worker = Worker::open(&pair.b).await;
    let (mut client, _) = RawClient::open(&pair.a, "userId=42&clientId=tab-1").await;
    let published = worker.count("42", 1, 3).await;
    read_ids(&mut client, 3).await;
    for id in &published {
        client.send_text(&format!(r#"{{"type":"ack","id":"{id}"}}"#)).await;
    }
    outlives_the_node(&mut pair, published.last()).await;
}

#[tokio::test]
async fn an_old_acknowledgement_does_not_take_a_newer_one_back() {
    let mut stage = Single::start().await;
    let mut worker = Worker::open(&stage.a).await;
    let (mut client, _) = RawClient::open(&stage.a, "userId=42&clientId=tab-1").await;
    let published = worker.count("42", 1, 3).await;
    read_ids(&mut client, 3).await;
    for id in [&published[1], &published[0]] {
        client.send_text(&format!(r#"{{"type":"ack","id":"{id}"}}"#)).await;
    }
    client.round_trip().await;
    drop(client);
    stage.db.offline("42").await;
    let mut again = Client::as_user(&stage.a, "42", "tab-1").await;
    assert_eq!(again.welcome["replayed"], 1, "{}", again.welcome);
    assert_eq!(again.event().await.id.as_ref(), Some(&published[2]));
}

#[tokio::test]
async fn a_pong_confirms_what_was_sent_before_its_ping() {
    let mut pair = Pair::with(&[("--ping-interval", "200ms")]).await;
    let mut worker = Worker::open(&pair.b).await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    worker.count("42", 1, 3).await;
    client.events(3).await;
    client.pinged_twice().await;
    client.close().await;
    pair.db.offline("42").await;
    worker.event("42", "4").await;
    let mut again = Client::as_user(&pair.b, "42", "tab-1").await;
    assert_eq!(again.welcome["replayed"], 1, "{}", again.welcome);
    assert_eq!(again.event().await.data, "4");
}

#[tokio::test]
async fn what_a_pong_confirmed_outlives_a_node_that_is_killed() {
    // No heartbeat comes within the test.
    let mut pair = Pair::with(&[("--ping-interval", "200ms"), ("--session-ttl", "10m")]).await;
    let mut worker = Worker::open(&pair.b).await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let published = worker.count("42", 1, 3).await;
    client.events(3).await;
    outlives_the_node(&mut pair, published.last()).await;
}

#[tokio::test]
async fn the_first_welcome_is_the_first_confirmed_position() {
    let mut pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    worker.count("42", 1, 3).await;
    let (client, welcome) = RawClient::open(&pair.a, "userId=42&clientId=tab-1").await;
    assert_eq!(welcome["replayed"], 0, "a new client: {welcome}");
    drop(client);
    pair.db.offline("42").await;
    worker.event("42", "4").await;
    let mut again = Client::as_user(&pair.b, "42", "tab-1").await;
    assert_eq!(again.welcome["replayed"], 1, "{}", again.welcome);
    assert_eq!(again.event().await.data, "4");
}

#[tokio::test]
async fn each_client_of_a_user_has_a_position_of_its_own() {
    let mut pair = Pair::start().await;
    let mut worker = Worker::open(&pair.b).await;
    let (mut first, _) = RawClient::open(&pair.a, "userId=42&clientId=tab-1").await;
    let (mut second, _) = RawClient::open(&pair.b, "userId=42&clientId=tab-2").await;
    let published = worker.count("42", 1, 2).await;
    for (client, confirmed) in [(&mut first, 0), (&mut second, 1)] {
        read_ids(client, 2).await;
        let id = &published[confirmed];
        client.send_text(&format!(r#"{{"type":"ack","id":"{id}"}}"#)).await;
        client.round_trip().await;
    }
    drop((first, second));
    pair.db.offline("42").await;
    let first = Client::as_user(&pair.b, "42", "tab-1").await;
    let second = Client::as_user(&pair.a, "42", "tab-2").await;
    assert_eq!(first.welcome["replayed"], 1, "{}", first.welcome);
    assert_eq!(second.welcome["replayed"], 0, "{}", second.welcome);
}

#[tokio::test]
async fn since_wins_over_the_confirmed_position() {
    let mut pair = Pair::start().await;
    let published = {
        let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
        let published = Worker::open(&pair.b).await.count("42", 1, 3).await;
        client.events(3).await;
        client.send(&format!(r#"{{"type":"ack","id":"{}"}}"#, published[2])).await;
        client.round_trip().await;
        client.close().await;
        published
    };
    pair.db.offline("42").await;
    let query = format!("userId=42&clientId=tab-1&since={}", published[0]);
    let mut again = Client::open(&pair.b, &query).await;
    assert_eq!(data(&again.events(2).await), ["2", "3"]);
}

#[tokio::test]
async fn local_mode_remembers_positions_too() {
    let node = NodeBuilder::local("solo").start().await;
    let mut worker = Worker::open(&node).await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let published = worker.count("42", 1, 2).await;
    client.events(2).await;
    client.send(&format!(r#"{{"type":"ack","id":"{}"}}"#, published[1])).await;
    client.round_trip().await;
    client.close().await;
    // Once the ack is empty of nodes, nobody is there and the position has been kept.
    let published = eventually(BOUND, "an offline user", async || {
        let frame = serde_json::json!({"userId": "42", "event": "e", "data": "later"});
        let ack = worker.publish(frame).await;
        let id = ack["id"].as_str().expect("an id").to_owned();
        if ack["nodes"] == serde_json::json!([]) { Ok(id) } else { Err(ack.to_string()) }
    })
    .await;
    let mut again = Client::as_user(&node, "42", "tab-1").await;
    loop {
        let event = again.event().await;
        assert_eq!(event.data, "\"later\"", "a confirmed event came again");
        if event.id.as_ref() == Some(&published) {
            break;
        }
    }
}
