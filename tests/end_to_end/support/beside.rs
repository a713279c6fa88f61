//! A healthy client and a healthy worker, for tests of what the others do: they must not notice.

use std::time::Duration;

use super::client::Client;
use super::node::Node;
use super::wait::within;
use super::worker::Worker;

/// Far beyond what an event takes on a busy machine, far below what a held-up node would take.
const SOON: Duration = Duration::from_secs(5);

/// The two, as user `healthy`.
pub struct Beside {
    client: Client,
    worker: Worker,
    events: usize,
}

impl Beside {
    pub async fn open(node: &Node) -> Self {
        let client = Client::as_user(node, "healthy", "beside").await;
        Self { client, worker: Worker::open(node).await, events: 0 }
    }

    /// Panics unless an event gets from one to the other, soon and in its turn.
    pub async fn served(&mut self) {
        self.events += 1;
        let number = self.events.to_string();
        let published = self.worker.event("healthy", &number);
        let id = within(SOON, "an answer for a healthy worker", published).await;
        let event = within(SOON, "an event for a healthy client", self.client.event()).await;
        assert_eq!((event.id, event.data), (Some(id), number));
    }
}
