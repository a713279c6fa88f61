//! One node id, one node: a second process waits for the first one's lease to lapse, and says so.

use rustix::process::Signal;

use crate::support::db::set;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Db, NodeBuilder, RawClient, RedisServer, Worker, eventually, http};

async fn boot(db: &mut Db) -> Option<String> {
    db.hash("node:node-a").await.remove("boot")
}

/// A log line that says that somebody else holds the id, and that the process waits for that to end.
fn says_that_it_waits(line: &str) -> bool {
    let line = line.to_lowercase();
    line.contains("node-a") && (line.contains("lease") || line.contains("wait"))
}

#[tokio::test]
async fn a_restart_after_a_kill_waits_for_the_lease_and_says_so() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let builder = NodeBuilder::redis("node-a", &redis).set("--node-ttl", "4s");
    let mut first = builder.start().await;
    let _lost = Client::as_user(&first, "42", "tab-1").await;
    let first_boot = boot(&mut db).await.expect("the first boot");
    first.kill();

    let process = builder.spawn();
    process.log_line(BOUND, "a line about the lease that is held", says_that_it_waits).await;
    // Whichever comes first, its ports or its lease: it is ready in the end, as a new boot.
    let second = builder.listening(process).await;
    second.ready().await;
    let second_boot = boot(&mut db).await.expect("the second boot");
    assert_ne!(first_boot, second_boot);
    let mut client = Client::as_user(&second, "42", "tab-1").await;
    let id = Worker::open(&second).await.event("42", "1").await;
    assert_eq!(client.event().await.id, Some(id));
}

#[tokio::test]
async fn of_two_processes_with_one_id_only_the_first_serves_until_it_leaves() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let builder =
        NodeBuilder::redis("node-a", &redis).with(&[("--node-ttl", "3s"), ("--drain-timeout", "500ms")]);
    let mut first = builder.start().await;
    let mut client = Client::as_user(&first, "42", "tab-1").await;
    let mut worker = Worker::open(&first).await;
    let first_boot = boot(&mut db).await;

    let second = builder.spawn();
    second.log_line(BOUND, "a line about the lease that is held", says_that_it_waits).await;
    // Two whole leases later the first one still has it: counted by its renewals, not by a clock of ours.
    for _ in 0..2 {
        let lease = |db: &Db| {
            let mut db = db.clone();
            async move {
                let mut command = redis::cmd("ZSCORE");
                db.run::<Option<f64>>(command.arg("nodes").arg("node-a")).await.expect("a lease")
            }
        };
        let old = lease(&db).await;
        eventually(BOUND, "a lease a whole term later", async || {
            let new = lease(&db).await;
            if new >= old + 3000.0 { Ok(()) } else { Err(format!("{new} after {old}")) }
        })
        .await;
    }
    assert_eq!(boot(&mut db).await, first_boot, "the second one took the id from a live node");
    let id = worker.event("42", "1").await;
    assert_eq!(client.event().await.id, Some(id));
    let second = builder.listening(second).await;
    let ready = http::get(&second.worker_http("/readyz")).await;
    assert_eq!((ready.status, &*ready.body), (503, "not ready: another process has this node id\n"));

    first.signal(Signal::TERM);
    assert_eq!(client.closed().await.code, 1012);
    assert_eq!(first.exit(BOUND).await.code(), Some(0));
    second.ready().await;
    assert_ne!(boot(&mut db).await, first_boot);
    Client::as_user(&second, "42", "tab-1").await;
}

#[tokio::test]
async fn a_waiting_process_serves_nobody() {
    let redis = RedisServer::start().await;
    let builder = NodeBuilder::redis("node-a", &redis);
    let _first = builder.start().await;
    let second = builder.spawn();
    second.log_line(BOUND, "a line about the lease that is held", says_that_it_waits).await;
    let second = builder.listening(second).await;
    assert_eq!(http::get(&second.worker_http("/readyz")).await.status, 503);
    http::upgrade(&second.client_ws("userId=42"), &[]).await.refused(503);
}

#[tokio::test]
async fn a_waiting_process_ends_when_it_is_told_to() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let builder = NodeBuilder::redis("node-a", &redis);
    let first = builder.start().await;
    let mut second = builder.spawn();
    second.log_line(BOUND, "a line about the lease that is held", says_that_it_waits).await;
    let first_boot = boot(&mut db).await;
    second.signal(Signal::TERM);
    assert_eq!(second.exit(BOUND).await.code(), Some(0));
    // And it has not taken the other one's keys with it.
    same(boot(&mut db).await, first_boot).expect("the first one's boot");
    Client::as_user(&first, "42", "tab-1").await;
}

#[tokio::test]
async fn who_thaws_after_another_has_taken_its_id_takes_no_session_away() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    let builder = NodeBuilder::redis("node-a", &redis).set("--node-ttl", "1500ms");
    let mut first = builder.start().await;
    let users = ["42", "43"];
    let mut open = Client::as_user(&first, users[0], "tab-1").await;
    let closed = Client::as_user(&first, users[1], "tab-1").await;
    first.signal(Signal::STOP);
    let second = builder.start().await;
    let mut again = Vec::new();
    for user in users {
        again.push(Client::as_user(&second, user, "tab-1").await);
    }
    // One socket has ended when it thaws, the other one it closes itself.
    drop(closed);
    first.signal(Signal::CONT);
    assert_eq!(open.closed().await.code, 4201);
    first.exit(BOUND).await;
    for user in users {
        assert_eq!(db.members(&format!("user:{user}")).await, set(["tab-1@node-a"]));
        assert_eq!(db.presence(user).await, ["online", "offline", "online"], "{user}");
    }
    let mut worker = Worker::open(&second).await;
    for (user, client) in users.iter().zip(&mut again) {
        let id = worker.event(user, "1").await;
        assert_eq!(client.event().await.id, Some(id));
    }
}

#[tokio::test]
async fn whose_id_is_taken_while_it_drains_sends_the_rest_away_at_once() {
    let redis = RedisServer::start().await;
    let settings = [("--node-ttl", "1500ms"), ("--drain-timeout", "10m")];
    let builder = NodeBuilder::redis("node-a", &redis).with(&settings);
    let mut first = builder.start().await;
    let mut open = Vec::new();
    for user in ["42", "43", "44"] {
        open.push(Client::as_user(&first, user, "tab-1").await);
    }
    first.signal(Signal::TERM);
    http::answers(&first.worker_http("/readyz"), 503, BOUND).await;
    first.signal(Signal::STOP);
    let _second = builder.start().await;
    first.signal(Signal::CONT);
    let mut codes = Vec::new();
    for client in &mut open {
        codes.push(client.closed().await.code);
    }
    assert!(codes.iter().filter(|code| **code == 4201).count() >= 2, "{codes:?}"); // one may have gone before
    assert_eq!(first.exit(BOUND).await.code(), Some(1));
}

#[tokio::test]
async fn who_leaves_because_its_id_is_taken_still_ends_at_once_when_told_twice() {
    let redis = RedisServer::start().await;
    let builder = NodeBuilder::redis("node-a", &redis).set("--node-ttl", "1500ms");
    // Again where the machine was so busy that it had waited long enough for an answer to its goodbye.
    eventually(4 * BOUND, "its end when it is told twice", async || {
        let mut first = builder.start().await;
        let (_takes_no_goodbye, _) = RawClient::open(&first, "userId=42").await;
        first.signal(Signal::STOP);
        let _second = builder.start().await;
        first.signal(Signal::CONT);
        first.log_line(BOUND, "that it leaves", |line| line.contains("closing all sockets")).await;
        // Two of a kind may be heard as one.
        first.signal(Signal::TERM);
        first.signal(Signal::INT);
        assert_eq!(first.exit(BOUND).await.code(), Some(1));
        let log = first.last_log().await;
        if log.iter().any(|line| line.contains("asked to stop again")) { Ok(()) } else { Err(log.join("\n")) }
    })
    .await;
}
