//! Whoever keeps up sees everything: what is transient, and each event of a collapse key, whatever crosses on the way.

use serde_json::json;

use crate::support::client::data;
use crate::support::pair::Single;
use crate::support::{Client, Scrape, Worker};

/// Puts hints into the node's inbox, as another node does: all in one entry, so that they come at once.
async fn hint(single: &mut Single, hints: &[(&str, &str)]) {
    let text: String = hints.iter().map(|(what, data)| format!("{} {what}\n{data}\n", data.len())).collect();
    single.db.xadd("inbox:{node:node-a}", &[("hints", &text)]).await;
}

#[tokio::test]
async fn hints_that_crossed_on_the_way_are_put_in_order() {
    let mut single = Single::start().await;
    let mut client = Client::as_user(&single.a, "42", "tab-1").await;
    // The log has neither: only in order are both of them seen.
    let position = client.welcomed("position").to_owned();
    let ms: u64 = position.split_once('-').unwrap().0.parse().unwrap();
    let [first, second] = [1, 2].map(|later| format!("{}-0", ms + later));
    let late = format!("event 42 {first} {position} e");
    let early = format!("event 42 {second} {first} e");
    hint(&mut single, &[(&early, "2"), (&late, "1")]).await;
    assert_eq!(data(&client.events(2).await), ["1", "2"]);
    assert_eq!(Scrape::of(&single.a).await.get("catch_ups_total"), 0.0);
}

#[tokio::test]
async fn a_hint_that_comes_twice_is_one_event() {
    let mut single = Single::start().await;
    let mut client = Client::as_user(&single.a, "42", "tab-1").await;
    let position = client.welcomed("position").to_owned();
    let id = Worker::open(&single.a).await.event("42", "1").await;
    assert_eq!(client.event().await.data, "1");
    let again = format!("event 42 {id} {position} e");
    // What comes after it shows that it has been handled.
    hint(&mut single, &[(&again, "1"), ("transient 42 t", "2")]).await;
    assert_eq!(client.event().await.data, "2");
}

#[tokio::test]
async fn what_is_missing_for_long_is_read_from_the_log() {
    let mut single = Single::start().await;
    let mut client = Client::as_user(&single.a, "42", "tab-1").await;
    let position = client.welcomed("position").to_owned();
    let first = single.db.xadd("log:{user:42}", &[("event", "e"), ("data", "1"), ("prev", &position)]).await;
    let second = single.db.xadd("log:{user:42}", &[("event", "e"), ("data", "2"), ("prev", &first)]).await;
    hint(&mut single, &[(&format!("event 42 {second} {first} e"), "2")]).await;
    assert_eq!(data(&client.events(2).await), ["1", "2"]);
}

#[tokio::test]
async fn what_is_transient_waits_while_the_log_is_read() {
    let mut single = Single::start().await;
    let mut client = Client::as_user(&single.a, "42", "tab-1").await;
    hint(&mut single, &[("look 42", ""), ("transient 42 t", "7")]).await;
    assert_eq!(data(&client.events(1).await), ["7"]);
    assert_eq!(Scrape::of(&single.a).await.get("catch_ups_total"), 1.0);
}

#[tokio::test]
async fn a_repeated_key_makes_nobody_read_the_log() {
    let single = Single::start().await;
    let mut client = Client::as_user(&single.a, "42", "tab-1").await;
    let mut worker = Worker::open(&single.a).await;
    let keyed = json!({"userId": "42", "event": "k", "key": "K"});
    let progress = |step: u32| json!({"userId": "42", "event": "p", "collapseKey": "job", "data": step});
    worker.publish(keyed.clone()).await;
    assert_eq!(client.event().await.event, "k");
    for step in 0..8 {
        // One after the other without waiting, so that they share a batch.
        for frame in [keyed.clone(), progress(2 * step), progress(2 * step + 1)] {
            worker.send(&frame.to_string()).await;
        }
    }
    assert_eq!(data(&client.events(16).await), (0..16).map(|step| step.to_string()).collect::<Vec<_>>());
    assert_eq!(Scrape::of(&single.a).await.get("catch_ups_total"), 0.0);
}
