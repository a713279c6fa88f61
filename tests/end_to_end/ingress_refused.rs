//! Entries of the ingress stream that Redis refuses for a while, and what is read beside them.

use crate::ingress_faults::all_acknowledged;
use crate::support::client::{data, numbers};
use crate::support::pair::Single;
use crate::support::scrape::counted;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Db, NodeBuilder, eventually};

/// Memory runs full between two entries of a user, and a collapse, which frees some, may still be done.
#[tokio::test]
async fn what_is_refused_is_not_overtaken_and_what_is_not_logged_is_sent_once() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let collapse = |data| [("user", "42"), ("event", "progress"), ("collapse", "k"), ("data", data)];
    stage.db.xadd("events", &collapse("1")).await;
    assert_eq!(client.event().await.data, "1");
    let mut all = redis::pipe();
    all.atomic();
    let transient = [("user", "42"), ("event", "transient"), ("transient", "1"), ("data", "1")];
    let important = [("user", "42"), ("event", "important"), ("data", "1")];
    for fields in [&transient[..], &important, &collapse("2")] {
        let add = all.cmd("XADD").arg("events").arg("*");
        for (field, value) in fields {
            add.arg(field).arg(value);
        }
    }
    all.cmd("CONFIG").arg("SET").arg("maxmemory").arg("1mb");
    let _: redis::Value = stage.db.run_pipeline(&all).await;
    stage.db.refused("OOM", 10).await;
    let _: () = stage.db.run(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0")).await;
    let mut received = Vec::new();
    while received.last().is_none_or(|event: &(String, String)| event.1 != "2") {
        let event = client.event().await;
        received.push((event.event, event.data));
    }
    let expected = [("transient", "1"), ("important", "1"), ("progress", "2")];
    assert_eq!(received, expected.map(|(event, data)| (event.to_owned(), data.to_owned())));
    assert_eq!(stage.db.log_ids("42").await.len(), 2);
}

/// An inbox takes nothing while memory is full: those whom the reading node reaches all the same get an event once.
#[tokio::test]
async fn what_is_not_logged_is_sent_once_to_those_who_can_have_it() {
    let mut stage = Single::start().await;
    // It does not take turns with the other one.
    let b = NodeBuilder::redis("node-b", &stage.redis).set("--ingress", "others").start().await;
    let mut here = Client::as_user(&stage.a, "here", "tab-1").await;
    let mut there = Client::as_user(&b, "there", "tab-1").await;
    let mut both = Client::as_user(&stage.a, "both", "tab-a").await;
    let _other = Client::as_user(&b, "both", "tab-b").await;
    let mut all = redis::pipe();
    all.atomic();
    for user in ["here,there", "both"] {
        let add = all.cmd("XADD").arg("events").arg("*");
        add.arg(&["users", user, "event", "e", "transient", "1", "data", "1"]);
    }
    all.cmd("CONFIG").arg("SET").arg("maxmemory").arg("1mb");
    let _: redis::Value = stage.db.run_pipeline(&all).await;
    stage.db.refused("OOM", 20).await;
    let _: () = stage.db.run(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0")).await;
    assert_eq!(there.event().await.data, "1", "what reached nobody is tried again");
    all_acknowledged(&mut stage.db).await;
    for user in ["here", "both"] {
        stage.db.xadd("events", &[("user", user), ("event", "e"), ("data", "2")]).await;
    }
    assert_eq!(data(&here.events(2).await), numbers(1, 2));
    assert_eq!(data(&both.events(2).await), numbers(1, 2));
}

/// A user whose log takes nothing more, as its last id is the last one there is. An event for it is refused again and
/// again, and nobody else's is, whatever memory there is.
const FULL: &str = "log:{user:full}";

/// Entries that are read together, with the user who takes nothing more among them.
async fn add_beside_full(db: &mut Db, entries: &[&[(&str, &str)]]) {
    let last = format!("{0}-{0}", u64::MAX);
    let () = db.run(redis::cmd("XADD").arg(&[FULL, &last, "event", "e", "data", "0", "prev", "0-0"])).await;
    let mut all = redis::pipe();
    all.atomic();
    for fields in entries {
        let add = all.cmd("XADD").arg("events").arg("*");
        for (field, value) in *fields {
            add.arg(field).arg(value);
        }
    }
    let _: redis::Value = db.run_pipeline(&all).await;
    eventually(BOUND, "an entry that was handed out several times", async || {
        let mut command = redis::cmd("XPENDING");
        command.arg(&["events", "switchboard", "-", "+", "1"]);
        let pending: Vec<(String, String, u64, u64)> = db.run(&command).await;
        match pending[..] {
            [(.., times)] if times >= 3 => Ok(()),
            _ => Err(format!("{pending:?}")),
        }
    })
    .await;
}

/// The user takes events again, and what was refused is published after all.
async fn relieve(db: &mut Db) {
    let deleted: i64 = db.run(redis::cmd("DEL").arg(FULL)).await;
    assert_eq!(deleted, 1);
    eventually(BOUND, "what was refused", async || same(db.log_ids("full").await.len(), 1)).await;
    all_acknowledged(db).await;
}

#[tokio::test]
async fn what_was_to_go_out_after_what_is_refused_goes_out_later() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    // Too large for one call of the script together: the later calls are not made once the first has failed.
    let large = |mark: &str| format!(r#""{mark}{}""#, "x".repeat(200 << 10));
    let (first, second) = (large("1"), large("2"));
    let entries = [
        [("user", "full"), ("event", "e"), ("data", &first)],
        [("user", "42"), ("event", "e"), ("data", &first)],
        [("user", "42"), ("event", "e"), ("data", &second)],
    ];
    add_beside_full(&mut stage.db, &entries.each_ref().map(|fields| &fields[..])).await;
    relieve(&mut stage.db).await;
    for expected in [first, second] {
        assert!(client.event().await.data == expected, "not the large event that was due");
    }
    assert_eq!(stage.db.log_ids("42").await.len(), 2);
}

#[tokio::test]
async fn what_is_refused_is_not_let_go_of_with_what_is_done_after_it() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let full = [("user", "full"), ("event", "e")];
    let other = [("user", "42"), ("event", "e"), ("data", "1")];
    add_beside_full(&mut stage.db, &[&full, &other]).await;
    assert_eq!(client.event().await.data, "1", "what is not concerned does not wait");
    relieve(&mut stage.db).await;
    stage.db.count("42", 2, 2).await;
    assert_eq!(client.event().await.data, "2");
}

#[tokio::test]
async fn what_is_tried_again_beside_what_is_refused_is_counted_once() {
    let mut stage = Single::start().await;
    let entry = [("users", "full,42"), ("event", "e")];
    let with_key = [("user", "42"), ("event", "e"), ("key", "k")];
    add_beside_full(&mut stage.db, &[&entry, &with_key, &with_key]).await;
    relieve(&mut stage.db).await;
    counted(&stage.a, "events_published_total{via=\"ingress\"}", 4.0).await;
}

#[tokio::test]
async fn broadcasts_around_what_is_refused_are_sent_once() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let full = [("user", "full"), ("event", "e")];
    let broadcast = |data| [("broadcast", "1"), ("event", "e"), ("data", data)];
    add_beside_full(&mut stage.db, &[&broadcast("1"), &full, &broadcast("2")]).await;
    relieve(&mut stage.db).await;
    stage.db.count("42", 3, 3).await;
    let mut received = data(&client.events(3).await);
    // A broadcast comes by the inbox, and the last one may be overtaken by what follows it.
    received[1..].sort();
    assert_eq!(received, numbers(1, 3));
}
