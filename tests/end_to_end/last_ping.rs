//! The last ping: whoever is asked to come back confirms first what it has, so that it does not get that again.

use rustix::process::Signal;
use serde_json::json;

use crate::drain::check_farewell;
use crate::support::client::ids;
use crate::support::raw::{PING, PONG, RawFrame};
use crate::support::wait::same;
use crate::support::{BOUND, Client, Node, NodeBuilder, Pair, RawClient, Worker, eventually, http};

#[tokio::test]
async fn who_answers_the_last_ping_and_comes_back_by_id_alone_gets_nothing_again() {
    // Again where the machine was too busy to answer within the second.
    eventually(2 * BOUND, "a pong in time", async || {
        let pair = Pair::with(&[("--drain-timeout", "1s")]).await;
        let mut worker = Worker::open(&pair.b).await;
        let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
        let published = worker.count("42", 1, 3).await;
        assert_eq!(ids(&client.events(3).await), published);
        pair.a.signal(Signal::TERM);
        check_farewell(&client.closed().await);

        let mut again = Client::as_user(&pair.b, "42", "tab-1").await;
        assert_eq!(again.welcome["recovered"], true, "{}", again.welcome);
        // No event since the last regular ping comes twice.
        same(&again.welcome["replayed"], &0.into())?;
        let next = worker.event("42", "4").await;
        same(again.event().await.id, Some(next))
    })
    .await;
}

#[tokio::test]
async fn who_does_not_answer_the_last_ping_is_sent_away_too_and_gets_it_again() {
    let mut pair = Pair::with(&[("--drain-timeout", "1s")]).await;
    let mut worker = Worker::open(&pair.b).await;
    let (mut client, _) = RawClient::open(&pair.a, "userId=42&clientId=tab-1").await;
    let published = worker.count("42", 1, 3).await;
    for id in &published {
        assert_eq!(client.json("an event").await["id"], **id);
    }
    pair.a.signal(Signal::TERM);
    assert_eq!(client.json("the bye").await["code"], 1012);
    drop(client);
    assert_eq!(pair.a.exit(BOUND).await.code(), Some(0));
    let mut again = Client::as_user(&pair.b, "42", "tab-1").await;
    assert_eq!(again.welcome["replayed"], 3, "{}", again.welcome);
    assert_eq!(ids(&again.events(3).await), published);
}

/// A session that has got three events and its last ping, which it has a second to answer; `Err` where the machine was
/// too busy, and the ping came among the events.
async fn pinged_last(
    node: &Node,
    worker: &mut Worker,
    client: &str,
) -> Result<(RawClient, RawFrame), String> {
    let (mut raw, _) = RawClient::open(node, &format!("userId=42&clientId={client}")).await;
    for id in worker.count("42", 1, 3).await {
        same(&raw.json("an event").await["id"], &id.into())?;
    }
    // The first regular one comes after 12 s at least.
    let frame = raw.frame("the last ping").await.expect("an open connection");
    if frame.opcode == PING { Ok((raw, frame)) } else { Err(format!("{frame:?}")) }
}

#[tokio::test]
async fn what_comes_during_the_last_ping_comes_once() {
    let node = NodeBuilder::local("solo").set("--max-connection-age", "2s").start().await;
    let mut worker = Worker::open(&node).await;
    let mut attempt = 0;
    // Again where the machine was too busy to answer within the second.
    eventually(BOUND, "a pong in time", async || {
        attempt += 1;
        let id = format!("tab-{attempt}");
        let (mut client, ping) = pinged_last(&node, &mut worker, &id).await?;
        let logged = worker.event("42", "4").await;
        worker.publish(json!({"userId": "42", "event": "t", "transient": true})).await;
        client.send(true, PONG, &ping.payload).await;
        let first = client.json("the transient event").await;
        same((&first["type"], &first["event"]), (&"event".into(), &"t".into()))?;
        same(&client.json("the bye").await["code"], &1012.into())?;
        let mut again = Client::as_user(&node, "42", &id).await;
        same(&again.welcome["replayed"], &1.into())?;
        same(again.event().await.id, Some(logged))
    })
    .await;
}

#[tokio::test]
async fn whoever_is_signed_out_during_the_last_ping_does_not_come_back() {
    let node = NodeBuilder::local("solo").set("--max-connection-age", "2s").start().await;
    let mut worker = Worker::open(&node).await;
    let mut attempt = 0;
    eventually(BOUND, "a sign-out in time", async || {
        attempt += 1;
        let (mut client, _) = pinged_last(&node, &mut worker, &format!("tab-{attempt}")).await?;
        http::delete(&node.worker_http("/users/42/sessions")).await;
        same(client.closed().await.code, 4010)
    })
    .await;
}

#[tokio::test]
async fn whoever_is_replaced_during_the_last_ping_does_not_come_back() {
    let pair = Pair::with(&[("--max-connection-age", "2s")]).await;
    let mut worker = Worker::open(&pair.b).await;
    let mut attempt = 0;
    eventually(BOUND, "a newer connection in time", async || {
        attempt += 1;
        let id = format!("tab-{attempt}");
        let (mut client, _) = pinged_last(&pair.a, &mut worker, &id).await?;
        let _newer = Client::as_user(&pair.b, "42", &id).await;
        same(client.closed().await.code, 4009)
    })
    .await;
}
