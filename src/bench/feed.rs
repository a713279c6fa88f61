//! Publishing by `XADD` to the ingress streams, as any back end may: each user to one of them.

use std::rc::Rc;

use tokio::sync::mpsc;

use super::load::Load;
use super::publisher::answered;
use crate::engine::redis::appender::{Appender, Entry};
use crate::engine::redis::connection::Address;

/// Entries of one round trip.
const BATCH: usize = 256;

/// Where the ingress streams are.
#[derive(Debug, Clone)]
pub struct Ingress {
    /// Redis.
    pub redis: Address,
    /// Before every key.
    pub key_prefix: String,
    /// Their names.
    pub streams: Vec<String>,
}

/// A connection for each stream, which adds entries in the order in which they were queued.
pub struct Feed {
    // What waits here is bounded by the window, or by the length of the run at its rate.
    queues: Vec<mpsc::UnboundedSender<(u64, Entry)>>,
}

impl Feed {
    /// Opens it.
    ///
    /// # Errors
    /// Where Redis is not there.
    pub async fn open(load: &Rc<Load>, ingress: &Ingress) -> Result<Self, String> {
        let mut queues = Vec::with_capacity(ingress.streams.len());
        for stream in &ingress.streams {
            let opened = Appender::open(&ingress.redis, &ingress.key_prefix, stream).await;
            let appender = opened.map_err(|error| format!("--redis-url: {error}"))?;
            queues.push(Self::spawn(load.clone(), appender));
        }
        Ok(Self { queues })
    }

    fn spawn(load: Rc<Load>, mut appender: Appender) -> mpsc::UnboundedSender<(u64, Entry)> {
        let (queue, mut queued) = mpsc::unbounded_channel::<(u64, Entry)>();
        tokio::task::spawn_local(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while queued.recv_many(&mut batch, BATCH).await > 0 {
                let added = appender.add(batch.iter().map(|(_, entry)| entry)).await;
                load.handed_over();
                match added {
                    Ok(()) => batch.iter().for_each(|(then_ns, _)| answered(&load, *then_ns)),
                    Err(error) => batch.iter().for_each(|_| load.refuse(error.to_string().as_bytes())),
                }
                batch.clear();
            }
        });
        queue
    }

    /// Queues an event of user `number`, on the stream that is theirs.
    pub fn queue(&self, number: usize, user: String, then_ns: u64, data: &[u8]) {
        let entry = Entry { user, event: "bench", data: data.to_vec() };
        // The other end goes only with the thread itself.
        let _ = self.queues[number % self.queues.len()].send((then_ns, entry));
    }
}
