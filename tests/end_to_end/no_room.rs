//! A Redis that takes no more connections, `maxclients`: nodes say so, and go on with those that they have.

use redis::cmd;

use crate::support::{BOUND, Client, Db, NodeBuilder, Pair, RedisServer, Worker, eventually};

const REASON: &str = "max number of clients reached";

async fn set_most(db: &mut Db, clients: usize) {
    let () = db.run(cmd("CONFIG").arg("SET").arg("maxclients").arg(clients)).await;
}

/// How many it has turned away.
async fn turned_away(db: &mut Db) -> u64 {
    let stats: String = db.run(cmd("INFO").arg("stats")).await;
    let count = stats.lines().find_map(|line| line.strip_prefix("rejected_connections:"));
    count.and_then(|count| count.trim().parse().ok()).expect("a count of rejected connections")
}

#[tokio::test]
async fn a_node_that_gets_no_connection_says_why() {
    let redis = RedisServer::start().await;
    let mut db = redis.db().await;
    set_most(&mut db, 1).await;
    let node = NodeBuilder::redis("node-a", &redis).start_listening().await;
    let told = |line: &str| line.contains("Redis cannot be used") && line.contains(REASON);
    node.log_line(BOUND, "why", told).await;
}

/// With entries that are still to be let go, the reader's first words are three commands.
#[tokio::test]
async fn a_reader_that_gets_no_connection_says_why_and_keeps_nobody_from_publishing() {
    let Pair { a, b, mut db, redis: _redis } = Pair::start().await;
    let mut client = Client::as_user(&a, "42", "tab-1").await;
    let mut worker = Worker::open(&b).await;
    let event = r#"{"ref":"1","userId":"42","event":"e"}"#;
    worker.ask(event).await;
    client.event().await;
    let clients: String = db.run(cmd("CLIENT").arg("LIST")).await;
    let readers: Vec<_> = clients.lines().filter(|line| line.contains(" cmd=xreadgroup ")).collect();
    assert!(readers.len() >= 2, "{clients}");
    set_most(&mut db, clients.lines().count() - readers.len()).await;
    // What came a moment ago is still there.
    for _ in 0..20 {
        assert_eq!(worker.ask(event).await["type"], "ack");
    }
    for reader in readers {
        let id = reader.split([' ', '=']).nth(1).expect("an id");
        let () = db.run(cmd("CLIENT").arg("KILL").arg("ID").arg(id)).await;
    }
    let told = |line: &str| line.contains("the inbox cannot be read") && line.contains(REASON);
    a.log_line(BOUND, "why", told).await;
    // One that was of use has broken, so that all was looked at once.
    eventually(BOUND, "publishing", async || match worker.ask(event).await {
        answer if answer["type"] == "ack" => Ok(()),
        answer => Err(answer.to_string()),
    })
    .await;
    let wanted = turned_away(&mut db).await + 10;
    eventually(BOUND, "many more attempts", async || {
        assert_eq!(worker.ask(event).await["type"], "ack");
        let seen = turned_away(&mut db).await;
        if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) }
    })
    .await;
    set_most(&mut db, 1000).await;
    a.log_line(BOUND, "that it is read", |line| line.contains("the inbox is read again")).await;
}
