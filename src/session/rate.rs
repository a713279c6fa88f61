//! How many messages a client may send: a token bucket, and a bound on how long it may be ignored.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::id::{ClientId, UserId};
use crate::lock::lock;

/// What a message costs its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is acted on.
    Allowed,
    /// It is not; the client is told.
    Limited,
    /// The client has not heeded that for long: it is to be closed.
    Persistent,
}

/// The allowances of all clients: `per_second` messages each, with bursts of twice that. A client that comes back finds its
/// own again, or reconnecting would be a way around it; one that is whole again need not be remembered.
#[derive(Debug)]
pub struct Rates {
    per_second: f64,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    of: HashMap<(UserId, ClientId), Bucket>,
    /// With so many, those that are whole again are let go of.
    enough: usize,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    refused: u32,
    filled: Instant,
}

/// Clients whose allowance is remembered before any is let go of.
const ENOUGH: usize = 1024;

impl Rates {
    /// Allowances of `per_second` messages, with a burst of twice that.
    pub fn new(per_second: u32) -> Self {
        let buckets = Mutex::new(Buckets { of: HashMap::new(), enough: ENOUGH });
        Self { per_second: f64::from(per_second), buckets }
    }

    /// Takes one message into account. After two bursts' worth of refusals without a pause long enough to fill
    /// half the bucket, the client counts as persistent.
    pub fn take(&self, user: &UserId, client: &ClientId) -> Verdict {
        let (now, burst) = (Instant::now(), 2.0 * self.per_second);
        let tokens_of = |bucket: &Bucket| {
            let passed = now.saturating_duration_since(bucket.filled).min(Duration::from_secs(60));
            (bucket.tokens + passed.as_secs_f64() * self.per_second).min(burst)
        };
        let Buckets { of, enough } = &mut *lock(&self.buckets);
        if of.len() >= *enough {
            of.retain(|_, bucket| tokens_of(bucket) < burst);
            *enough = ENOUGH.max(2 * of.len());
            of.shrink_to(*enough);
        }
        let new = || Bucket { tokens: burst, refused: 0, filled: now };
        let bucket = of.entry((user.clone(), client.clone())).or_insert_with(new);
        (bucket.tokens, bucket.filled) = (tokens_of(bucket), now);
        if bucket.tokens >= burst / 2.0 {
            bucket.refused = 0;
        }
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Verdict::Allowed;
        }
        bucket.refused += 1;
        if f64::from(bucket.refused) <= 2.0 * burst {
            return Verdict::Limited;
        }
        bucket.refused = 0; // it is told again before it is closed again
        Verdict::Persistent
    }
}

/// Acks of one session that cost nothing: how many events come is for publishers to say.
#[derive(Debug, Default)]
pub struct FreeAcks(u32);

/// Events whose acks may come all at once.
const MOST_FREE_ACKS: u32 = 10_000;

impl FreeAcks {
    /// The client is sent an event.
    pub fn sends_event(&mut self) {
        self.0 = MOST_FREE_ACKS.min(self.0 + 1);
    }

    /// Whether this ack is one of them.
    pub fn take(&mut self) -> bool {
        let is_free = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        is_free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_the_rate_then_patience_ends() {
        let (rates, user, client) = (Rates::new(10), "42".parse().unwrap(), "tab-1".parse().unwrap());
        let take = || rates.take(&user, &client);
        assert!((0..20).all(|_| take() == Verdict::Allowed));
        assert_eq!(take(), Verdict::Limited);
        assert_eq!(rates.take(&user, &"tab-2".parse().unwrap()), Verdict::Allowed, "each has its own");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(take(), Verdict::Allowed);
        assert!((0..39).all(|_| take() == Verdict::Limited));
        assert_eq!(take(), Verdict::Persistent);
        assert_eq!(take(), Verdict::Limited, "who comes back is told first");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(take(), Verdict::Allowed);
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_has_spent_something_is_remembered() {
        let (rates, user) = (Rates::new(1), "42".parse().unwrap());
        let spend = |client: usize| rates.take(&user, &format!("c{client}").parse().unwrap());
        let remembered = || lock(&rates.buckets).of.len();
        for client in 0..5 * ENOUGH {
            assert_eq!(spend(client), Verdict::Allowed);
        }
        assert_eq!(remembered(), 5 * ENOUGH, "a second has not passed");
        tokio::time::advance(Duration::from_secs(1)).await;
        (0..5 * ENOUGH).for_each(|client| assert_eq!(spend(client), Verdict::Allowed));
        tokio::time::advance(Duration::from_secs(1)).await;
        (5 * ENOUGH..10 * ENOUGH).for_each(|client| assert_eq!(spend(client), Verdict::Allowed));
        assert!(remembered() <= 8 * ENOUGH, "{} are", remembered());
    }
}
