//! The ingress stream under faults: lost groups, lost streams, a reader that is killed under load.

use std::sync::Arc;

use rustix::process::Signal;
use tokio::sync::Notify;

use crate::support::client::{data, numbers};
use crate::support::pair::Single;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Db, NodeBuilder, RedisServer, eventually};

/// Waits until the group has nothing that was read and not acknowledged.
pub async fn all_acknowledged(db: &mut Db) {
    eventually(BOUND, "no pending entry in the group `switchboard`", async || {
        let mut command = redis::cmd("XPENDING");
        command.arg("events").arg("switchboard");
        let (count, ..): (usize, redis::Value, redis::Value, redis::Value) = db.run(&command).await;
        same(count, 0)
    })
    .await;
}

#[tokio::test]
async fn a_group_that_was_destroyed_is_made_again_and_no_later_entry_is_lost() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    stage.db.count("42", 1, 20).await;
    assert_eq!(data(&client.events(20).await), numbers(1, 20));
    all_acknowledged(&mut stage.db).await;
    let destroyed: i64 =
        stage.db.run(redis::cmd("XGROUP").arg("DESTROY").arg("events").arg("switchboard")).await;
    assert_eq!(destroyed, 1);
    stage.db.count("42", 21, 40).await;
    // The earlier ones were handled: from a known position on, they do not come again.
    assert_eq!(data(&client.events(20).await), numbers(21, 40));
    stage.db.count("42", 41, 41).await;
    assert_eq!(client.event().await.data, "41");
}

#[tokio::test]
async fn a_group_that_was_set_past_all_entries_reads_them_once_it_is_set_back() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    stage.db.count("42", 1, 2).await;
    assert_eq!(data(&client.events(2).await), numbers(1, 2));
    let set = |id: &str| redis::cmd("XGROUP").arg(&["SETID", "events", "switchboard", id]).to_owned();
    let () = stage.db.run(&set("99999999999999-0")).await;
    stage.db.count("42", 3, 9).await;
    let () = stage.db.run(&set("0")).await;
    assert_eq!(data(&client.events(7).await), numbers(3, 9));
}

/// The group is looked at as each is let go of, and no more often, and there is nothing to warn of.
#[tokio::test]
async fn entries_that_come_one_by_one_cost_one_look_at_the_group_each() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let reset = redis::cmd("CONFIG").arg("RESETSTAT").to_owned();
    let () = stage.db.run(&reset).await;
    for number in 1..=5 {
        stage.db.count("42", number, number).await;
        assert_eq!(data(&client.events(1).await), numbers(number, number));
        all_acknowledged(&mut stage.db).await;
    }
    let stats: String = stage.db.run(redis::cmd("INFO").arg("commandstats")).await;
    let looks = stats.split_once("cmdstat_xinfo|groups:calls=").and_then(|(_, calls)| calls.split_once(','));
    assert!(looks.is_none_or(|(looks, _)| looks.parse::<u32>().unwrap() <= 5), "{stats}");
    assert!(!stage.a.lines().iter().any(|line| line.contains("WARN")), "{:#?}", stage.a.lines());
}

#[tokio::test]
async fn a_flood_of_bad_entries_is_told_of_once() {
    let mut stage = Single::start().await;
    let mut flood = redis::pipe();
    for _ in 0..500 {
        flood.cmd("XADD").arg(&["events", "*", "user", "4 2", "event", "e"]).ignore();
    }
    stage.db.run_pipeline::<()>(&flood).await;
    eventually(BOUND, "all of them put aside", async || {
        same(stage.db.run::<usize>(redis::cmd("XLEN").arg("events:dead")).await, 500)
    })
    .await;
    let told = "an ingress entry could not be routed";
    let line = stage.a.log_line(BOUND, "the first of them", |line| line.contains(told)).await;
    assert!(line.contains(r#""times":1"#), "{line}");
    assert_eq!(stage.a.lines().iter().filter(|line| line.contains("could not be routed")).count(), 1);
}

#[tokio::test]
async fn an_entry_that_cannot_be_put_aside_is_tried_again_quietly() {
    let mut stage = Single::start().await;
    let () = stage.db.run(redis::cmd("SET").arg("events:dead").arg("not a stream")).await;
    let id = stage.db.xadd("events", &[("user", "4 2"), ("event", "e")]).await;
    let stuck = "cannot be read on now";
    let line = stage.a.log_line(BOUND, "that it cannot go on", |line| line.contains(stuck)).await;
    assert!(line.contains(&id) && line.contains("WRONGTYPE"), "{line}");
    // Some four times more.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let lines = stage.a.lines();
    let about = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    let told = [about(stuck), about("could not be routed"), about("reading the ingress stream")];
    assert_eq!(told, [1, 0, 1], "{lines:#?}");

    let () = stage.db.run(redis::cmd("DEL").arg("events:dead")).await;
    eventually(BOUND, "the entry put aside", async || {
        same(stage.db.run::<usize>(redis::cmd("XLEN").arg("events:dead")).await, 1)
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_was_deleted_is_read_again_from_its_new_start() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    stage.db.count("42", 1, 20).await;
    assert_eq!(data(&client.events(20).await), numbers(1, 20));
    all_acknowledged(&mut stage.db).await;
    let deleted: i64 = stage.db.run(redis::cmd("DEL").arg("events")).await;
    assert_eq!(deleted, 1);
    stage.db.count("42", 21, 40).await;
    assert_eq!(data(&client.events(20).await), numbers(21, 40));
    stage.a.log_line(BOUND, "what has happened", |line| line.contains("has been made anew")).await;
    assert!(!stage.a.lines().iter().any(|line| line.contains("another process")), "nobody took it");

    all_acknowledged(&mut stage.db).await;
    assert_eq!(stage.db.run::<i64>(redis::cmd("DEL").arg("events")).await, 1);
    eventually(BOUND, "the stream made anew", async || same(stage.db.exists("events").await, true)).await;
    let low = ["return redis.pcall('XADD', 'events', '1-1', 'user', '42', 'event', 'e').err", "0"];
    let refusal: Option<String> = stage.db.run(redis::cmd("EVAL").arg(&low)).await;
    assert!(refusal.is_some_and(|error| error.contains("equal or smaller")), "it would count as routed");
}

#[tokio::test]
async fn a_stream_that_is_none_is_told_of_once_and_read_when_it_is_one_again() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    stage.db.count("42", 1, 1).await;
    assert_eq!(client.event().await.data, "1");
    let () = stage.db.run(redis::cmd("SET").arg("events").arg("not a stream")).await;
    let told = |line: &str| line.contains("the ingress stream cannot be read");
    let line = stage.a.log_line(BOUND, "that it cannot be read", told).await;
    assert!(line.contains("WRONGTYPE"), "{line}");
    stage.db.refused("WRONGTYPE", 10).await;
    let lines = stage.a.lines();
    assert_eq!(lines.iter().filter(|line| told(line)).count(), 1, "{lines:#?}");
    assert!(
        !lines.iter().any(|line| line.contains("another process") || line.contains("made anew")),
        "{lines:#?}"
    );
    let _: i64 = stage.db.run(redis::cmd("DEL").arg("events")).await;
    stage.db.count("42", 2, 2).await;
    assert_eq!(client.event().await.data, "2");
}

#[tokio::test]
async fn what_stops_the_reading_again_is_told_again_though_it_was_told_a_moment_ago() {
    let mut stage = Single::with(&[("--node-ttl", "2s")]).await;
    let (reads, stops) = ("reading the ingress stream", "the ingress stream cannot be read");
    let last_word = async |wanted: &str| {
        eventually(BOUND, wanted, async || {
            let lines = stage.a.lines();
            let last = lines.iter().rfind(|line| line.contains(reads) || line.contains(stops));
            same(last.is_some_and(|line| line.contains(wanted)), true)
        })
        .await;
    };
    for _ in 0..3 {
        last_word(reads).await;
        let () = stage.db.run(redis::cmd("SET").arg("events").arg("not a stream")).await;
        last_word(stops).await;
        let _: i64 = stage.db.run(redis::cmd("DEL").arg("events")).await;
    }
}

#[tokio::test]
async fn a_reader_that_is_stopped_again_and_again_does_not_say_that_it_reads() {
    let mut stage = Single::start().await;
    stage.a.log_line(BOUND, "the reader", |line| line.contains("reading the ingress stream")).await;
    // It may take what there is, and not wait for what comes.
    let () = stage.db.run(redis::cmd("ACL").arg(&["SETUSER", "default", "-xread"])).await;
    stage.db.refused("NOPERM", 5).await;
    let lines = stage.a.lines();
    let about = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!((about("cannot be read on now"), about("reading the ingress stream")), (1, 1), "{lines:#?}");
}

#[tokio::test]
async fn what_another_consumer_of_the_group_took_stays_until_it_is_routed() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    // The node reads, and has taken over what there was.
    stage.db.count("42", 0, 0).await;
    assert_eq!(client.event().await.data, "0");
    let mut transaction = redis::pipe();
    transaction.atomic().cmd("XADD").arg(&["events", "*", "user", "43", "event", "e", "data", "1"]);
    transaction.cmd("XREADGROUP").arg(&["GROUP", "switchboard", "me", "STREAMS", "events", ">"]);
    transaction.cmd("XADD").arg(&["events", "*", "user", "42", "event", "e", "data", "2"]);
    let _: redis::Value = stage.db.run_pipeline(&transaction).await;
    assert_eq!(client.event().await.data, "2");
    eventually(BOUND, "the entry that was routed gone, and no other", async || {
        same(stage.db.run::<usize>(redis::cmd("XLEN").arg("events")).await, 1)
    })
    .await;
    // The next reader takes it over.
    stage.a.signal(Signal::TERM);
    assert!(stage.a.exit(BOUND).await.success());
    let next = NodeBuilder::redis("node-b", &stage.redis).start().await;
    let mut other = Client::open(&next, "userId=43&since=0").await;
    assert_eq!(other.event().await.data, "1");
}

#[tokio::test]
async fn a_lost_inbox_costs_no_event() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    stage.db.count("42", 1, 5).await;
    assert_eq!(data(&client.events(5).await), numbers(1, 5));
    let inbox = "inbox:{node:node-a}";
    let destroyed: i64 = stage.db.run(redis::cmd("XGROUP").arg("DESTROY").arg(inbox).arg("node")).await;
    assert_eq!(destroyed, 1);
    stage.db.count("42", 6, 10).await;
    assert_eq!(data(&client.events(5).await), numbers(6, 10));
    let _: i64 = stage.db.run(redis::cmd("DEL").arg(inbox)).await;
    stage.db.count("42", 11, 15).await;
    assert_eq!(data(&client.events(5).await), numbers(11, 15));
}

#[tokio::test]
async fn what_was_on_its_way_when_the_inbox_connection_broke_is_read_again() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let inbox = "inbox:{node:node-a}";
    // Handed out to the node, which never saw it.
    let mut transaction = redis::pipe();
    transaction.atomic().cmd("XADD").arg(inbox).arg("*").arg("hints").arg("1 broadcast e\n7\n");
    transaction.cmd("XREADGROUP").arg(&["GROUP", "node", "node-a", "STREAMS", inbox, ">"]);
    let _: redis::Value = stage.db.run_pipeline(&transaction).await;
    let connections: String = stage.db.run(redis::cmd("CLIENT").arg("LIST")).await;
    let reader =
        connections.lines().find(|line| line.contains("cmd=xreadgroup")).expect("the inbox's reader");
    let id = reader.split(' ').find_map(|field| field.strip_prefix("id=")).expect("its id");
    let killed: i64 = stage.db.run(redis::cmd("CLIENT").arg(&["KILL", "ID", id])).await;
    assert_eq!(killed, 1);
    assert_eq!(client.event().await.data, "7");
    nothing_pending(&mut stage.db, inbox).await;
}

/// A read that was held back on its way, by a connection that was given up: what it takes, nobody hears of.
#[tokio::test]
async fn what_a_read_took_that_nobody_awaits_comes_all_the_same() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let inbox = "inbox:{node:node-a}";
    let mut transaction = redis::pipe();
    transaction.atomic();
    for hints in ["1 broadcast e\n1\n", "1 broadcast e\n2\n"] {
        transaction.cmd("XADD").arg(&[inbox, "*", "hints", hints]);
        transaction.cmd("XREADGROUP").arg(&["GROUP", "node", "node-a", "STREAMS", inbox, ">"]);
    }
    // One of them has been cut off, as where the inbox is full.
    transaction.cmd("XTRIM").arg(&[inbox, "MAXLEN", "=", "1"]);
    // The reader goes on behind it, and lets go of what it has read.
    transaction.cmd("XADD").arg(&[inbox, "*", "hints", "1 broadcast e\n3\n"]);
    let _: redis::Value = stage.db.run_pipeline(&transaction).await;
    let mut came = data(&client.events(2).await);
    came.sort_unstable();
    assert_eq!(came, ["2", "3"]);
    nothing_pending(&mut stage.db, inbox).await;
}

async fn nothing_pending(db: &mut Db, inbox: &str) {
    eventually(BOUND, "nothing pending in the inbox", async || {
        let (count, ..): (usize, redis::Value, redis::Value, redis::Value) =
            db.run(redis::cmd("XPENDING").arg(inbox).arg("node")).await;
        same(count, 0)
    })
    .await;
}

/// Entries added in the test of the killed reader, and how many of them before it is: the kill falls into their middle.
const LOAD: usize = 1500;
const BEFORE: usize = 1000;

#[tokio::test]
async fn when_the_active_reader_is_killed_under_load_the_other_node_delivers_all_once_in_order() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let settings = [("--node-ttl", "1500ms"), ("--log-length", "4000")];
    // The first node alone becomes the reader, and stays it while it lives.
    let mut reader = NodeBuilder::redis("node-a", &redis).with(&settings).start().await;
    db.xadd("events", &[("user", "warm-up"), ("event", "e")]).await;
    eventually(BOUND, "the first entry in its log", async || same(db.log_ids("warm-up").await.len(), 1))
        .await;
    let other = NodeBuilder::redis("node-b", &redis).with(&settings).start().await;
    let mut client = Client::as_user(&other, "42", "tab-1").await;

    let mut adding_db = redis.db().await;
    let killed = Arc::new(Notify::new());
    let told = killed.clone();
    let adding = tokio::spawn(async move {
        adding_db.count("42", 1, BEFORE).await;
        told.notified().await;
        adding_db.count("42", BEFORE + 1, LOAD).await;
    });
    let mut received = client.events(LOAD / 5).await;
    reader.kill();
    killed.notify_one();
    received.extend(client.events(LOAD - LOAD / 5).await);
    assert_eq!(data(&received), numbers(1, LOAD));
    adding.await.unwrap();
    // One more is the next one: nothing was delivered twice behind the last.
    db.count("42", 9999, 9999).await;
    assert_eq!(client.event().await.data, "9999");
    assert_eq!(db.log_ids("42").await.len(), LOAD + 1);
}
