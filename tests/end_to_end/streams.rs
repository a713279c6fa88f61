//! The streams that back ends read: `uplink` and `presence`.

use crate::support::pair::Single;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Pair, Scrape, eventually};

#[tokio::test]
async fn what_clients_send_upward_is_on_the_uplink_stream_untouched_and_in_order() {
    let mut pair = Pair::start().await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    let texts = [r#"{ "b":1, "a":1e400 }"#, "null", r#""\u0041""#, "12345678901234567890123"];
    for data in texts {
        client.send(&format!(r#"{{"type":"message","event":"cancel","data":{data}}}"#)).await;
    }
    let entries = eventually(BOUND, "four entries in `uplink`", async || {
        let entries = pair.db.stream("uplink").await;
        same(entries.len(), texts.len())?;
        Ok(entries)
    })
    .await;
    for (entry, data) in entries.iter().zip(texts) {
        assert_eq!(entry.fields.len(), 4, "{entry:?}");
        assert_eq!((entry.get("user"), entry.get("client")), ("42", "tab-1"));
        assert_eq!((entry.get("event"), entry.get("data")), ("cancel", data));
    }
    // A message that went well is not answered.
    client.round_trip().await;
}

#[tokio::test]
async fn a_bad_upward_message_is_answered_and_not_on_the_stream() {
    let mut pair = Pair::start().await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    client.send(r#"{"type":"message","event":"not a name","data":1}"#).await;
    assert_eq!(client.frame("an error").await["code"], "invalid_frame");
    client.send(r#"{"type":"message","event":"good"}"#).await;
    let entries = eventually(BOUND, "an entry in `uplink`", async || {
        let entries = pair.db.stream("uplink").await;
        if entries.is_empty() { Err("none".to_owned()) } else { Ok(entries) }
    })
    .await;
    assert_eq!(entries[0].get("event"), "good");
    assert_eq!(entries[0].get("data"), "null", "data that was left out");
}

#[tokio::test]
async fn presence_tells_the_first_session_and_the_last_and_nothing_between() {
    let mut pair = Pair::start().await;
    let first = Client::as_user(&pair.a, "42", "tab-1").await;
    let second = Client::as_user(&pair.b, "42", "tab-2").await;
    let third = Client::as_user(&pair.b, "42", "tab-3").await;
    for client in [first, second, third] {
        client.close().await;
    }
    let states = |states: &[&str]| states.iter().map(|state| (*state).to_owned()).collect::<Vec<_>>();
    eventually(BOUND, "one `online` and one `offline`", async || {
        same(pair.db.presence("42").await, states(&["online", "offline"]))
    })
    .await;
    let again = Client::as_user(&pair.b, "42", "tab-1").await;
    eventually(BOUND, "`online` again", async || {
        same(pair.db.presence("42").await, states(&["online", "offline", "online"]))
    })
    .await;
    let entries = pair.db.stream("presence").await;
    for entry in &entries {
        assert_eq!(entry.fields.len(), 3, "{entry:?}");
    }
    assert_eq!(entries[0].get("node"), "node-a");
    assert_eq!(entries[2].get("node"), "node-b");
    drop(again);
}

#[tokio::test]
async fn a_replacement_is_no_change_of_presence() {
    let mut pair = Pair::start().await;
    let mut old = Client::as_user(&pair.a, "42", "tab-1").await;
    let new = Client::as_user(&pair.b, "42", "tab-1").await;
    assert_eq!(old.closed().await.code, 4009);
    new.close().await;
    eventually(BOUND, "`offline`", async || {
        let states = pair.db.presence("42").await;
        if states.last().is_some_and(|state| state == "offline") {
            Ok(())
        } else {
            Err(format!("{states:?}"))
        }
    })
    .await;
    assert_eq!(pair.db.presence("42").await, ["online", "offline"]);
}

#[tokio::test]
async fn a_drain_says_offline_for_whoever_it_sends_away() {
    let mut pair = Pair::with(&[("--drain-timeout", "500ms")]).await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    pair.a.signal(rustix::process::Signal::TERM);
    assert_eq!(client.closed().await.code, 1012);
    pair.a.exit(BOUND).await;
    assert_eq!(pair.db.presence("42").await, ["online", "offline"]);
}

#[tokio::test]
async fn both_streams_are_bounded() {
    let mut pair = Pair::with(&[("--uplink-length", "50"), ("--client-rate", "100000")]).await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    for number in 0..600 {
        client.send(&format!(r#"{{"type":"message","event":"e","data":{number}}}"#)).await;
    }
    client.round_trip().await;
    for number in 0..250 {
        Client::as_user(&pair.b, &format!("u{number}"), "tab-1").await.close().await;
    }
    let last = eventually(BOUND, "the last message", async || {
        let entries = pair.db.stream("uplink").await;
        let last = entries.last().map(|entry| entry.get("data").to_owned()).unwrap_or_default();
        same(last, "599".to_owned())?;
        Ok(entries.len())
    })
    .await;
    let presence = pair.db.stream("presence").await.len();
    for number in 0..60 {
        pair.db.xadd("events", &[("user", "42"), ("number", &number.to_string())]).await;
    }
    let dead = eventually(BOUND, "the last dead entry", async || {
        let entries = pair.db.stream("events:dead").await;
        same(entries.last().and_then(|entry| entry.fields.get("number").cloned()), Some("59".to_owned()))?;
        Ok(entries.len())
    })
    .await;
    assert_eq!((last, presence, dead), (50, 50, 50));
}

#[tokio::test]
async fn a_message_is_refused_while_redis_is_away_and_the_socket_stays() {
    let mut pair = Pair::start().await;
    let mut client = Client::as_user(&pair.a, "42", "tab-1").await;
    pair.redis.kill();
    client.send(r#"{"type":"message","event":"cancel","data":1}"#).await;
    let error = client.frame("an error").await;
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str()),
        (Some("error"), Some("unavailable")),
        "{error}"
    );
    client.round_trip().await;
}

#[tokio::test]
async fn a_presence_that_takes_nothing_is_told_of_once_and_hears_of_who_left_later() {
    let mut stage = Single::start().await;
    let mut clients = Vec::new();
    for user in ["1", "2", "3"] {
        clients.push(Client::as_user(&stage.a, user, "tab").await);
    }
    let () = stage.db.run(redis::cmd("SET").arg("presence").arg("not a stream")).await;
    drop(clients);
    for user in ["1", "2", "3"] {
        stage.db.offline(user).await;
    }
    let told = "`presence` takes nothing";
    let line = stage.a.log_line(BOUND, "that it takes nothing", |line| line.contains(told)).await;
    assert!(line.contains("WRONGTYPE"), "{line}");
    assert_eq!(Scrape::of(&stage.a).await.get("presence_up"), 0.0);
    let _: i64 = stage.db.run(redis::cmd("DEL").arg("presence")).await;
    for user in ["1", "2", "3"] {
        eventually(BOUND, "the edge told", async || {
            same(stage.db.presence(user).await, vec!["offline".to_owned()])
        })
        .await;
    }
    stage.a.log_line(BOUND, "that it is over", |line| line.contains("`presence` takes entries again")).await;
    assert_eq!(Scrape::of(&stage.a).await.get("presence_up"), 1.0);
    assert_eq!(stage.a.lines().iter().filter(|line| line.contains(told)).count(), 1);
}
