//! A Redis that comes back without its newest writes: replication is asynchronous, and so may be the disk.

use serde_json::json;

use crate::servers::Server;
use crate::support::client::{data, numbers};
use crate::support::{BOUND, Client, NodeBuilder, Worker, within};

#[tokio::test]
async fn a_session_that_has_seen_what_the_log_has_lost_is_told() {
    let mut server = Server::start(&["--save", ""]).await;
    let url = format!("redis://127.0.0.1:{}", server.port);
    let node = NodeBuilder::redis_at("node-a", &url).start().await;
    let mut client = Client::as_user(&node, "42", "tab-1").await;
    let mut worker = Worker::open(&node).await;
    worker.count("42", 1, 5).await;
    server.ask::<String>(&["SAVE"]).await;
    worker.count("42", 6, 10).await;
    assert_eq!(data(&client.events(10).await), numbers(1, 10));
    server.kill();
    server.launch().await; // with what it had at the fifth event

    let gap = client.frame("a gap").await;
    assert_eq!(gap["type"], "gap", "{gap}");
    node.ready().await;
    let event = json!({"ref": "r", "userId": "42", "event": "e", "data": 11}).to_string();
    within(2 * BOUND, "an ack", async { while worker.ask(&event).await["type"] != "ack" {} }).await;
    assert_eq!(client.event().await.data, "11");
    let log: usize = server.ask(&["XLEN", "log:{user:42}"]).await;
    assert_eq!(log, 6, "the five that were kept, and the new one");
}
