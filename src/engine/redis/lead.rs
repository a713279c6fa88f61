//! The lease on an ingress stream: one process at a time has it, and reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{Context, ms, reply, scripts};
use crate::engine::Unavailable;

/// How many this process has asked for.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The lease, as this process has it or asks for it.
pub struct StreamLease {
    context: Arc<Context>,
    /// As `--ingress` names it.
    stream: String,
    /// What it is called: this process's id, and a number. What was asked in an earlier one's name comes too late.
    pub name: String,
    /// By this process's own clock, counted from when it was asked for.
    end: Instant,
    /// Where the stream has been there, the newest id that was read of it: where it is not there any more, it was deleted.
    read: Option<(u64, u64)>,
    /// See [`StreamLease::was_renewed`].
    renewed: bool,
}

/// Why a stream may not be read on.
#[derive(Debug, thiserror::Error)]
pub enum NotHeld {
    /// Redis was not asked, or did not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Another process reads it now.
    #[error("the ingress lease went to another process")]
    Lost,
    /// It was this process's for as long as is known, and that is over.
    #[error("the ingress lease ran out before all that was read went out: Redis is slow, or this machine is")]
    Over,
}

impl StreamLease {
    /// That of a stream, which nobody has asked for yet.
    pub fn new(context: &Arc<Context>, stream: &str) -> Self {
        let (context, stream, end) = (context.clone(), stream.to_owned(), Instant::now());
        Self { context, stream, name: String::new(), end, read: None, renewed: false }
    }

    /// Takes it; false where another process has it. After that the stream is there.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn take(&mut self) -> Result<bool, Unavailable> {
        self.name = format!("{}.{}", self.context.config.boot, NUMBER.fetch_add(1, Ordering::Relaxed));
        self.renewed = false;
        self.ask().await
    }

    /// An entry of the stream was read.
    pub fn has_read(&mut self, id: &str) {
        self.read = self.read.max(reply::numbers(id));
    }

    /// Before anything is read, and before anything goes out of that. Renews it where it is time for that, however long the
    /// whole of it takes.
    ///
    /// # Errors
    /// As [`StreamLease::renew`], and where it was over for a moment, though it is had again: it may have been another
    /// process's meanwhile, which went on from what was pending.
    pub async fn go_on(&mut self) -> Result<(), NotHeld> {
        let end = self.end;
        let left = end.saturating_duration_since(Instant::now());
        if left < self.context.config.node_ttl * 2 / 3 {
            self.renew().await?;
            self.renewed = true;
        }
        if Instant::now() < end { Ok(()) } else { Err(NotHeld::Over) }
    }

    /// Whether it was time to renew it since this was last asked.
    pub fn was_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// Renews it.
    ///
    /// # Errors
    /// Where Redis is away, or another process has it.
    pub async fn renew(&mut self) -> Result<(), NotHeld> {
        if self.ask().await? { Ok(()) } else { Err(NotHeld::Lost) }
    }

    async fn ask(&mut self) -> Result<bool, Unavailable> {
        let (asked, ttl) = (Instant::now(), self.context.config.node_ttl);
        let held = self.lead(ttl).await?;
        self.read.get_or_insert((0, 0));
        if held {
            self.end = asked + ttl;
        }
        Ok(held)
    }

    /// Gives it back, if this process still has it.
    ///
    /// # Errors
    /// Where Redis is away: then it lapses.
    pub async fn give_back(&self) -> Result<(), Unavailable> {
        self.lead(Duration::ZERO).await.map(drop)
    }

    async fn lead(&self, ttl: Duration) -> Result<bool, Unavailable> {
        let mut call = scripts::call(&scripts::LEAD, 1, 4);
        call.arg(self.context.keys.ingress(&self.stream))
            .arg(self.context.config.node.as_str())
            .arg(&self.name)
            .arg(ms(ttl))
            .arg(self.read.map_or_else(String::new, |(ms, seq)| format!("{ms}-{seq}")));
        Ok(reply::integer(&self.context.link.run_one(call).await?)? == 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use super::super::tests::{context, fake};
    use super::*;

    const TTL: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_lease_goes_on_while_it_is_renewed_before_its_end() {
        let (mut left, names) = (3, Arc::new(Mutex::new(HashSet::new())));
        let asked = names.clone();
        let place = fake(move |command| {
            if !command.starts_with("EVALSHA") {
                return Some("+OK");
            }
            asked.lock().unwrap().insert(command.split(' ').nth(5).unwrap().to_owned());
            left -= 1;
            Some(if left >= 0 { ":1" } else { ":0" })
        });
        let context = context(place.await, TTL);
        let mut lease = StreamLease::new(&context, "events");
        assert!(lease.take().await.unwrap());
        lease.go_on().await.unwrap();
        assert!(!lease.was_renewed(), "it has only begun");
        let half = lease.end - TTL / 2;
        lease.end = half;
        lease.go_on().await.unwrap();
        assert!(lease.end > half && lease.was_renewed() && !lease.was_renewed());
        lease.end = Instant::now();
        assert!(matches!(lease.go_on().await, Err(NotHeld::Over)));
        lease.go_on().await.unwrap();
        lease.end = half;
        assert!(matches!(lease.go_on().await, Err(NotHeld::Lost)));
        assert_eq!(names.lock().unwrap().len(), 1, "it is one and the same");
        let _ = lease.take().await;
        assert_eq!(names.lock().unwrap().len(), 2, "and the next is another");
    }
}
