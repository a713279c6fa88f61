//! The ingress stream: anyone may publish with XADD.

use std::collections::BTreeMap;

use rustix::process::Signal;

use crate::support::client::{data, numbers};
use crate::support::pair::Single;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Db, NodeBuilder, Pair, RedisServer, Worker, eventually};

#[tokio::test]
async fn an_entry_is_delivered_with_the_logs_id() {
    let mut pair = Pair::start().await;
    let mut on_a = Client::as_user(&pair.a, "42", "tab-a").await;
    let mut on_b = Client::as_user(&pair.b, "42", "tab-b").await;
    let fields = [("user", "42"), ("event", "progress"), ("data", r#"{"percent":40}"#)];
    pair.db.xadd("events", &fields).await;
    let (first, second) = (on_a.event().await, on_b.event().await);
    assert_eq!(first, second);
    assert_eq!((first.event.as_str(), first.data.as_str()), ("progress", r#"{"percent":40}"#));
    assert_eq!(pair.db.log_ids("42").await, [first.id.expect("an id")]);
}

#[tokio::test]
async fn entries_of_one_user_are_delivered_in_the_order_they_were_added() {
    let mut pair = Pair::with(&[("--log-length", "1000")]).await;
    let mut clients = Vec::new();
    for (user, node) in [("u1", &pair.a), ("u2", &pair.b), ("u3", &pair.a)] {
        clients.push(Client::as_user(node, user, "tab-1").await);
    }
    for number in 1..=300 {
        for user in ["u1", "u2", "u3"] {
            pair.db.count(user, number, number).await;
        }
    }
    for client in &mut clients {
        assert_eq!(data(&client.events(300).await), numbers(1, 300));
    }
}

#[tokio::test]
async fn entries_added_before_any_node_starts_are_delivered() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    db.count("42", 1, 50).await;
    let node = NodeBuilder::redis("node-a", &redis).start().await;
    db.count("42", 51, 60).await;
    let mut client = Client::open(&node, "userId=42&since=0").await;
    assert_eq!(data(&client.events(60).await), numbers(1, 60));
}

#[tokio::test]
async fn entries_added_while_no_node_runs_are_delivered_by_the_next() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let builder = NodeBuilder::redis("node-a", &redis).set("--drain-timeout", "500ms");
    let mut first = builder.start().await;
    db.count("42", 1, 5).await;
    let mut client = Client::open(&first, "userId=42&since=0").await;
    assert_eq!(data(&client.events(5).await), numbers(1, 5));
    first.signal(rustix::process::Signal::TERM);
    first.exit(BOUND).await;
    db.count("42", 6, 10).await;
    let second = builder.start().await;
    let mut client = Client::open(&second, "userId=42&since=0").await;
    assert_eq!(data(&client.events(10).await), numbers(1, 10));
}

#[tokio::test]
async fn entries_take_the_fields_of_a_workers_frame() {
    let mut stage = Single::start().await;
    let mut first = Client::as_user(&stage.a, "u1", "tab-1").await;
    let mut second = Client::as_user(&stage.a, "u1", "tab-2").await;
    let mut other = Client::as_user(&stage.a, "u2", "tab-1").await;
    let db = &mut stage.db;
    db.xadd("events", &[("user", "u1"), ("event", "one"), ("client", "tab-1")]).await;
    db.xadd("events", &[("user", "u1"), ("event", "not-one"), ("except", "tab-1")]).await;
    db.xadd("events", &[("users", "u1,u2"), ("event", "both"), ("data", "[1]")]).await;
    db.xadd("events", &[("user", "u1"), ("event", "typing"), ("transient", "1")]).await;
    db.xadd("events", &[("broadcast", "1"), ("event", "notice"), ("data", "2")]).await;
    for (client, names) in [
        (&mut first, vec!["one", "both", "typing", "notice"]),
        (&mut second, vec!["not-one", "both", "typing", "notice"]),
        (&mut other, vec!["both", "notice"]),
    ] {
        let events = client.events(names.len()).await;
        let received: Vec<&str> = events.iter().map(|event| event.event.as_str()).collect();
        assert_eq!(received, names);
        for event in &events {
            let logged = !["typing", "notice"].contains(&event.event.as_str());
            assert_eq!(event.id.is_some(), logged, "only logged events have an id: {event:?}");
        }
    }
    assert_eq!(db.log_ids("u1").await.len(), 3);
    assert_eq!(db.log_ids("u2").await.len(), 1);
}

#[tokio::test]
async fn an_idempotency_key_counts_in_the_stream_and_across_the_ways_in() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let mut worker = Worker::open(&stage.a).await;
    let entry = [("user", "42"), ("event", "e"), ("data", "1"), ("key", "order 7")];
    stage.db.xadd("events", &entry).await;
    let first = client.event().await;
    stage.db.xadd("events", &entry).await;
    let frame = serde_json::json!({"userId": "42", "event": "e", "data": 1, "key": "order 7"});
    assert_eq!(worker.publish(frame).await["id"].as_str(), first.id.as_deref());
    // This entry comes after the repeated one: once it is there, the repeated one has been handled.
    stage.db.count("42", 2, 2).await;
    assert_eq!(client.event().await.data, "2");
}

#[tokio::test]
async fn bad_entries_go_to_the_dead_ones_with_a_reason_and_stop_nobody() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let bad: Vec<Vec<(&str, &str)>> = vec![
        vec![("user", "a b"), ("event", "e"), ("data", "1")],
        vec![("user", "42"), ("event", "not a name"), ("data", "1")],
        vec![("user", "42"), ("data", "no event")],
        vec![("user", "42"), ("event", "e"), ("data", "{\"a\":")],
        vec![("user", "42"), ("event", "e"), ("data", "plain text")],
        vec![("event", "e"), ("data", "1")],
        vec![("user", "42"), ("users", "43,44"), ("event", "e")],
        vec![("user", "42"), ("client", "a/b"), ("event", "e")],
        vec![("something", "else")],
        vec![("user", "app"), ("event", "e")],
    ];
    // An application that shares the Redis may have keys of these names.
    let () = stage.db.run(redis::cmd("SET").arg("log:{user:app}").arg("x")).await;
    for (number, entry) in bad.iter().enumerate() {
        stage.db.xadd("events", entry).await;
        stage.db.count("42", number, number).await;
    }
    let good = client.events(bad.len()).await;
    assert_eq!(data(&good), numbers(0, bad.len() - 1), "the good ones around them arrive");
    eventually(BOUND, "all bad entries in events:dead", async || {
        same(stage.db.stream("events:dead").await.len(), bad.len())
    })
    .await;
    let dead = stage.db.stream("events:dead").await;
    for (entry, dead) in bad.iter().zip(&dead) {
        assert!(!dead.get("reason").is_empty(), "{dead:?}");
        let wanted: BTreeMap<_, _> = entry.iter().copied().collect();
        for (field, value) in wanted {
            assert_eq!(dead.get(field), value, "field {field} of {dead:?}");
        }
    }
}

#[tokio::test]
async fn an_entry_that_is_too_large_is_dead_and_not_lost() {
    let mut stage = Single::with(&[("--max-event", "1KiB")]).await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let large = format!("\"{}\"", "x".repeat(4096));
    stage.db.xadd("events", &[("user", "42"), ("event", "e"), ("data", &large)]).await;
    stage.db.count("42", 1, 1).await;
    assert_eq!(client.event().await.data, "1");
    let dead = eventually(BOUND, "the large entry in events:dead", async || {
        let dead = stage.db.stream("events:dead").await;
        dead.into_iter().next().ok_or("nothing".to_owned())
    })
    .await;
    assert_eq!(dead.get("data"), large);
}

#[tokio::test]
async fn entries_that_are_far_too_large_are_put_aside_by_their_beginning_and_hardly_cost_memory() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let (data, commas) = (format!("\"{}\"", "x".repeat(30 << 20)), ",".repeat(30 << 20));
    let mut many = vec![("user", "1"), ("event", "many")];
    many.extend(std::iter::repeat_n(("a", "b"), 300_000));
    // The first three have been handed to a reader that has died.
    let mut group = redis::cmd("XGROUP");
    let () = db.run(group.arg(&["CREATE", "events", "switchboard", "0", "MKSTREAM"])).await;
    for at in 0..2 {
        db.xadd("events", &[("user", "1"), ("event", "large"), ("data", &data)]).await;
        db.xadd("events", &[("users", &commas), ("event", "commas")]).await;
        db.xadd("events", &many).await;
        if at == 0 {
            let mut read = redis::cmd("XREADGROUP");
            read.arg(&["GROUP", "switchboard", "gone", "COUNT", "3", "STREAMS", "events", ">"]);
            let _: redis::Value = db.run(&read).await;
        }
    }
    db.count("42", 1, 1).await;
    let node = NodeBuilder::redis("node-a", &redis).start().await;
    let mut client = Client::open(&node, "userId=42&since=0").await;
    assert_eq!(client.event().await.data, "1");
    let dead = eventually(BOUND, "all large ones in events:dead", async || {
        let dead = db.stream("events:dead").await;
        same(dead.len(), 6).map(|()| dead)
    })
    .await;
    for (at, dead) in dead.iter().enumerate() {
        assert_eq!(dead.get("event"), ["large", "commas", "many"][at % 3], "{at}");
        let reason = dead.get("reason");
        assert!(reason.starts_with("too_large: an entry of ") && reason.contains(" fields"), "{reason}");
    }
    assert_eq!((dead[0].get("user"), dead[0].get("data").len()), ("1", 128));
    assert!(dead[0].get("reason").contains(&format!("{} bytes in 3 fields", data.len() + 19)));
    let peak = node.peak_memory();
    assert!(peak < 64 << 20, "it had {} MiB", peak >> 20);
}

#[tokio::test]
async fn a_node_that_goes_leaves_no_reader_behind() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    stage.db.count("42", 1, 3).await;
    assert_eq!(data(&client.events(3).await), numbers(1, 3));
    let readers = async |db: &mut Db| {
        let listed: String = db
            .run(redis::cmd("EVAL").arg(
                "local names = {} for _, reader in ipairs(redis.call('XINFO', 'CONSUMERS', 'events', 'switchboard')) do \
                 names[#names + 1] = reader[2] end return table.concat(names, ',')",
            ).arg(0))
            .await;
        listed
    };
    assert!(readers(&mut stage.db).await.split(',').any(|name| name == "node-a"));
    stage.a.signal(Signal::TERM);
    stage.a.exit(BOUND).await;
    let left = readers(&mut stage.db).await;
    assert!(!left.contains("node-a"), "{left}");
}

#[tokio::test]
async fn whatever_ids_the_entries_have_none_counts_as_one_before() {
    let mut stage = Single::start().await;
    let mut client = Client::as_user(&stage.a, "42", "tab-1").await;
    let entry = ["user", "42", "event", "e", "data"];
    // Nanoseconds: more than a double can tell apart.
    for at in 1..=3 {
        let id = format!("173236000000000000{at}-0");
        let _: String = stage.db.run(redis::cmd("XADD").arg("events").arg(id).arg(&entry).arg(at)).await;
    }
    for at in 1..=3 {
        assert_eq!(client.event().await.data, at.to_string());
    }
    eventually(BOUND, "all of them gone", async || {
        same(stage.db.run::<usize>(redis::cmd("XLEN").arg("events")).await, 0)
    })
    .await;
    // They were ahead of the clock, and all that comes after them must be as well.
    let _: i64 = stage.db.run(redis::cmd("DEL").arg("events")).await;
    eventually(BOUND, "the stream made anew", async || same(stage.db.exists("events").await, true)).await;
    let _: String = stage.db.run(redis::cmd("XADD").arg("events").arg("*").arg(&entry).arg(4)).await;
    assert_eq!(client.event().await.data, "4");
}
