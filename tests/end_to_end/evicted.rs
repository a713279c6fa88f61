//! Redis threw something away: what is told then, and what is mended.

use std::collections::BTreeSet;

use redis::cmd;

use crate::support::wait::same;
use crate::support::{BOUND, Client, RedisServer, Worker, eventually, pair::Single};

/// A heartbeat a second.
const QUICK: &[(&str, &str)] = &[("--session-ttl", "3s")];

#[tokio::test]
async fn whoever_missed_something_of_a_log_that_is_gone_is_told_so() {
    let mut stage = Single::start().await;
    let (user, mut worker) = ("42", Worker::open(&stage.a).await);
    for (since, later) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut client = Client::as_user(&stage.a, user, "tab-1").await;
        let had = worker.event(user, "1").await;
        while client.event_after_gaps().await.id.as_deref() != Some(&had) {}
        client.send(&format!(r#"{{"type":"ack","id":"{had}"}}"#)).await;
        client.round_trip().await;
        client.close().await;
        stage.db.offline("42").await;
        worker.event(user, "2").await;
        stage.db.run::<i64>(cmd("DEL").arg("log:{user:42}")).await;
        let newer = if later { Some(worker.event(user, "3").await) } else { None };

        let since = if since { format!("&since={had}") } else { String::new() };
        let mut back = Client::open(&stage.a, &format!("userId=42&clientId=tab-1{since}")).await;
        assert_eq!(back.welcome["recovered"], false, "{}", back.welcome);
        let gap = back.frame("a gap").await;
        assert_eq!((&gap["type"], &gap["since"]), (&"gap".into(), &had.as_str().into()), "{gap}");
        if newer.is_some() {
            assert_eq!(back.event().await.id, newer);
        }
        back.close().await;
    }
}

#[tokio::test]
async fn whoever_missed_nothing_of_a_log_that_is_gone_is_told_nothing() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let mut worker = Worker::open(&stage.a).await;
    let had = worker.event("42", "1").await;
    client.event().await;
    stage.db.run::<i64>(cmd("DEL").arg("log:{user:42}")).await;
    let next = worker.event("42", "2").await;
    assert_eq!(client.event().await.id, Some(next.clone()), "the chain goes on");
    client.close().await;
    for since in [had, next] {
        let back = Client::open(&stage.a, &format!("userId=42&clientId=tab-1&since={since}")).await;
        assert_eq!(back.welcome["recovered"], true, "{}", back.welcome);
        back.close().await;
    }
}

#[tokio::test]
async fn whoever_comes_hides_no_loss_of_those_who_are_there() {
    let mut stage = Single::with(QUICK).await;
    let mut tabs = Vec::new();
    for tab in ["tab-1", "tab-2"] {
        tabs.push(Client::as_user(&stage.a, "42", tab).await);
    }
    stage.db.run::<i64>(cmd("DEL").arg("user:42")).await;
    let _third = Client::as_user(&stage.a, "42", "tab-3").await;
    let all = BTreeSet::from(["tab-1@node-a", "tab-2@node-a", "tab-3@node-a"].map(str::to_owned));
    eventually(BOUND, "all three", async || same(stage.db.members("user:42").await, all.clone())).await;
}

#[tokio::test]
async fn positions_that_are_gone_are_noted_again_by_whoever_is_there() {
    let mut stage = Single::with(QUICK).await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let mut worker = Worker::open(&stage.a).await;
    let had = worker.event("42", "1").await;
    client.event().await;
    client.send(&format!(r#"{{"type":"ack","id":"{had}"}}"#)).await;
    let saved =
        async |stage: &mut Single| same(stage.db.hash("cursor:{user:42}").await.get("tab-1"), Some(&had));
    // Else the acknowledgement, which is saved a moment later, would note it.
    eventually(BOUND, "the position", async || saved(&mut stage).await).await;
    stage.db.run::<i64>(cmd("DEL").arg("cursor:{user:42}")).await;
    // A key makes the hash anew, without any position.
    worker.publish(serde_json::json!({"userId": "42", "event": "e", "key": "k"})).await;
    eventually(BOUND, "the position again", async || saved(&mut stage).await).await;
}

#[tokio::test]
async fn an_edge_that_was_noted_and_not_told_is_told_once() {
    let mut stage = Single::with(QUICK).await;
    let _client = Client::as_user(&stage.a, "42", "tab-1").await;
    let online = eventually(BOUND, "the edge", async || {
        stage.db.stream("presence").await.pop().ok_or("none".to_owned())
    })
    .await;
    let us = format!("{}000", online.id.split('-').next().expect("an id"));
    // As a node leaves it that dies right after it told, and one that dies right before.
    for told in [true, false] {
        if !told {
            stage.db.run::<i64>(cmd("XTRIM").arg("presence").arg("MAXLEN").arg(0)).await;
        }
        stage.db.run::<i64>(cmd("HDEL").arg("cursor:{user:42}").arg("@told")).await;
        let owed = format!("{us} online node-a");
        stage.db.run::<i64>(cmd("HSET").arg("cursor:{user:42}").arg("@owed").arg(owed)).await;
        eventually(BOUND, "the debt to be settled", async || {
            same(stage.db.hash("cursor:{user:42}").await.contains_key("@owed"), false)
        })
        .await;
        assert_eq!(stage.db.presence("42").await, ["online"], "told before: {told}");
    }
}

#[tokio::test]
async fn one_users_old_debt_does_not_pass_for_anothers() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    for (id, user) in [("1000-0", "41"), ("1001-0", "42")] {
        let mut add = cmd("XADD");
        add.arg("presence").arg(id).arg("user").arg(user).arg("state").arg("online").arg("node").arg("a");
        db.run::<String>(&add).await;
    }
    // 41 has been online since before 42 was, and nobody settled it; 42 goes offline a moment later.
    let (old, young) = ("0 1003000 1000000 online a", "1001-0 1003000 1002000 offline a");
    let mut tell = cmd("EVAL");
    tell.arg(include_str!("../../lua/tell.lua")).arg(1).arg("presence").arg(100);
    tell.arg("41").arg(old).arg("42").arg(young);
    let told: Vec<String> = db.run(&tell).await;
    assert_eq!(told[0], "online 1000-0");
    assert_eq!(
        (db.presence("41").await.join(" "), db.presence("42").await.join(" ")),
        ("online".into(), "online offline".into())
    );
    // The same again tells nothing more.
    assert_eq!(db.run::<Vec<String>>(&tell).await[0], told[0]);
    assert_eq!(db.stream("presence").await.len(), 3);
}
