//! A load with its books: who published what and got an ack, who got what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::client::numbers;
use crate::support::{BOUND, Client, Node, Worker, eventually, within};

/// How long after the other an event of one user comes: together some hundred a second.
const PACE: Duration = Duration::from_millis(15);

/// What one user's session got.
#[derive(Debug)]
pub struct Seen {
    pub user: String,
    pub data: Vec<String>,
    pub gaps: usize,
}

/// A load under way.
pub struct Ledger {
    events: usize,
    delivered: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<Seen>>,
}

impl Ledger {
    /// One session for each user at `at`; to each the numbers from 1 to `events` are published at `by`, one after the
    /// other: what is refused as unavailable is sent again with the same key until it is acknowledged.
    pub async fn open(users: &[String], events: usize, at: &Node, by: &Node) -> Self {
        let (delivered, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for user in users {
            let client = Client::as_user(at, user, "tab-1").await;
            readers.push(tokio::spawn(read(client, user.clone(), events, delivered.clone())));
        }
        for user in users {
            let worker = Worker::open(by).await;
            writers.push(tokio::spawn(write(worker, user.clone(), events, refused.clone())));
        }
        Self { events, delivered, refused, writers, readers }
    }

    /// Waits until so many events have arrived, all users together.
    pub async fn delivered(&self, wanted: usize) {
        eventually(BOUND, "events under way", async || {
            let seen = self.delivered.load(Ordering::Acquire);
            if seen >= wanted { Ok(()) } else { Err(format!("{seen} delivered")) }
        })
        .await;
    }

    /// How many publishes were refused so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Acquire)
    }

    /// Waits for the end: each session must have got every number once and in order, and no gap.
    pub async fn close_whole(self) {
        for writer in self.writers {
            writer.await.expect("a writer");
        }
        for reader in self.readers {
            let seen = reader.await.expect("a reader");
            assert_eq!(seen.data, numbers(1, self.events), "{}", seen.user);
            assert_eq!(seen.gaps, 0, "{}", seen.user);
        }
    }
}

async fn write(mut worker: Worker, user: String, events: usize, refused: Arc<AtomicUsize>) {
    for number in 1..=events {
        let frame =
            json!({"ref": "r", "userId": user, "event": "e", "data": number, "key": number.to_string()});
        let acknowledged = async {
            loop {
                let answer = worker.ask(&frame.to_string()).await;
                if answer["type"] == "ack" {
                    break;
                }
                assert_eq!(answer["code"], "unavailable", "{answer}");
                refused.fetch_add(1, Ordering::AcqRel);
                sleep(2 * PACE).await;
            }
        };
        within(2 * BOUND, "an ack", acknowledged).await;
        sleep(PACE).await;
    }
}

async fn read(mut client: Client, user: String, events: usize, delivered: Arc<AtomicUsize>) -> Seen {
    let mut seen = Seen { user, data: Vec::new(), gaps: 0 };
    while seen.data.last() != Some(&events.to_string()) {
        let frame = client.frame("an event or a gap").await;
        match frame["type"].as_str() {
            Some("event") => {
                seen.data.push(frame["data"].to_string());
                delivered.fetch_add(1, Ordering::AcqRel);
            }
            Some("gap") => seen.gaps += 1,
            _ => panic!("neither an event nor a gap: {frame}"),
        }
    }
    seen
}
