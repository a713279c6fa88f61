//! Publishing by `XADD` to the ingress streams, as any back end may: each user to one of them.

use std::rc::Rc;

use tokio::sync::mpsc;

use super::load::Load;
use crate::engine::redis::appender::{Appender, Entry};
use crate::settings::redis::Redis;

/// Entries of one round trip.
const BATCH: usize = 256;
/// Why an event may wait for long.
const SLOW: &str = "Redis to take it: that, or this machine, does not keep up";

/// An entry, its user's number within the share, and when it was due.
type Queued = (usize, u64, Entry);

/// A connection for each stream, which adds entries in the order in which they were queued.
pub struct Feed {
    // What waits here is bounded by the window, or by the length of the run at its rate.
    queues: Vec<mpsc::UnboundedSender<Queued>>,
}

impl Feed {
    /// Opens it.
    ///
    /// # Errors
    /// Where Redis is not there.
    pub async fn open(load: &Rc<Load>, redis: &Redis) -> Result<Self, String> {
        let mut queues = Vec::with_capacity(redis.ingress.len());
        for stream in &redis.ingress {
            let opened = Appender::open(&redis.address, &redis.key_prefix, stream).await;
            let appender = opened.map_err(|error| format!("--redis-url: {error}"))?;
            queues.push(Self::spawn(load.clone(), appender));
        }
        Ok(Self { queues })
    }

    fn spawn(load: Rc<Load>, mut appender: Appender) -> mpsc::UnboundedSender<Queued> {
        let (queue, mut queued) = mpsc::unbounded_channel::<Queued>();
        tokio::task::spawn_local(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while queued.recv_many(&mut batch, BATCH).await > 0 {
                let added = appender.add(batch.iter().map(|(.., entry)| entry)).await;
                match added {
                    Ok(()) => {
                        let first_ns = batch[0].1;
                        load.handed_over(batch.len() as u64, first_ns, load.now_ns(), SLOW);
                        batch.iter().for_each(|(user, then_ns, _)| load.answered(*user, *then_ns));
                    }
                    Err(error) => {
                        let why = error.to_string();
                        batch.iter().for_each(|(user, ..)| load.refuse(Some(*user), why.as_bytes()));
                    }
                }
                batch.clear();
            }
        });
        queue
    }

    /// Queues an event of user `number`, the share's `user`, on the stream that is theirs.
    pub fn queue(&self, load: &Load, number: usize, user: usize, then_ns: u64, data: &[u8]) {
        load.ask(user);
        let entry = Entry { user: load.plan.user(number), event: "bench", data: data.to_vec() };
        // The other end goes only with the thread itself.
        let _ = self.queues[number % self.queues.len()].send((user, then_ns, entry));
    }
}
