//! A worker: a back end's connection that publishes events.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use super::node::Node;
use super::socket::{Closed, Socket};
use super::wait::{BOUND, eventually, same};

/// A connected worker. Dropping it breaks the connection without a close.
pub struct Worker {
    socket: Socket,
    next_ref: u64,
}

impl Worker {
    /// Connects to a node whose worker port is open.
    pub async fn open(node: &Node) -> Self {
        let url = format!("{}/?workerId=test", node.worker_url);
        let worker = Self::open_with(&url, None).await;
        worker.unwrap_or_else(|error| panic!("no WebSocket at {url}: {error}"))
    }

    /// Connects with a bearer token, or is refused.
    pub async fn open_with(url: &str, bearer: Option<&str>) -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(url, bearer).await?, next_ref: 1 })
    }

    /// Sends a frame as it is.
    pub async fn send(&mut self, text: &str) {
        self.socket.send(text).await;
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Value {
        self.socket.json("an answer").await
    }

    /// Sends a frame as it is, and gives the next answer.
    pub async fn ask(&mut self, text: &str) -> Value {
        self.send(text).await;
        self.answer().await
    }

    /// Publishes a frame with a `ref` of its own and gives the `ack`; anything else is a failure.
    pub async fn publish(&mut self, mut frame: Value) -> Value {
        let reference = self.mint_ref();
        frame["ref"] = json!(reference);
        let text = frame.to_string();
        let ack = self.ask(&text).await;
        assert_eq!((&ack["type"], &ack["ref"]), (&json!("ack"), &json!(reference)), "{text} got {ack}");
        ack
    }

    /// Publishes to a user until an answer says that no node holds any of its sockets.
    pub async fn nobody_left(&mut self, user: &str) {
        eventually(BOUND, "an ack without nodes", async || {
            let ack = self.publish(json!({"userId": user, "event": "e"})).await;
            same(ack["nodes"].clone(), json!([]))
        })
        .await;
    }

    /// Publishes an event named `e` with this JSON text to a user, and gives its id.
    pub async fn event(&mut self, user: &str, data: &str) -> String {
        let reference = self.mint_ref();
        let user = json!(user);
        let frame = format!(r#"{{"ref":"{reference}","userId":{user},"event":"e","data":{data}}}"#);
        let ack = self.ask(&frame).await;
        let id = ack["id"].as_str();
        id.unwrap_or_else(|| panic!("no id in the answer to {frame}: {ack}")).to_owned()
    }

    /// Publishes the numbers `first..=last` to a user, one after the other, and gives their ids.
    pub async fn count(&mut self, user: &str, first: usize, last: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for number in first..=last {
            ids.push(self.event(user, &number.to_string()).await);
        }
        ids
    }

    /// Reads on to the close that the node begins; its `bye` has been checked.
    pub async fn closed(&mut self) -> Closed {
        self.socket.closed().await
    }

    fn mint_ref(&mut self) -> String {
        self.next_ref += 1;
        self.next_ref.to_string()
    }
}
