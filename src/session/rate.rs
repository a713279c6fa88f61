//! How many messages a client may send: a token bucket, and a bound on how long it may be ignored.

use std::time::Duration;

use tokio::time::Instant;

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

/// A client's allowance.
#[derive(Debug)]
pub struct Rate {
    per_second: f64,
    tokens: f64,
    refused: u32,
    /// Acks that cost nothing.
    free_acks: u32,
    filled: Instant,
}

/// Events whose acks may come all at once.
const MOST_FREE_ACKS: u32 = 10_000;

impl Rate {
    /// An allowance of `per_second` messages, with a burst of twice that.
    pub fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, tokens: 2.0 * per_second, refused: 0, free_acks: 0, filled: Instant::now() }
    }

    /// The client is sent an event: how many of those come is for publishers to say, so an ack of each costs nothing.
    pub fn sends_event(&mut self) {
        self.free_acks = MOST_FREE_ACKS.min(self.free_acks + 1);
    }

    /// Takes an ack into account.
    pub fn take_ack(&mut self) -> Verdict {
        if self.free_acks == 0 {
            return self.take();
        }
        self.free_acks -= 1;
        Verdict::Allowed
    }

    /// Takes one message into account. After two bursts' worth of refusals without a pause long enough to fill
    /// half the bucket, the client counts as persistent.
    pub fn take(&mut self) -> Verdict {
        let now = Instant::now();
        let burst = 2.0 * self.per_second;
        let passed = now.saturating_duration_since(self.filled).min(Duration::from_secs(60));
        self.tokens = (self.tokens + passed.as_secs_f64() * self.per_second).min(burst);
        self.filled = now;
        if self.tokens >= burst / 2.0 {
            self.refused = 0;
        }
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Verdict::Allowed;
        }
        self.refused += 1;
        if f64::from(self.refused) > 2.0 * burst { Verdict::Persistent } else { Verdict::Limited }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_the_rate_then_patience_ends() {
        let mut rate = Rate::new(10);
        assert!((0..20).all(|_| rate.take() == Verdict::Allowed));
        assert_eq!(rate.take(), Verdict::Limited);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(rate.take(), Verdict::Allowed);
        assert!((0..39).all(|_| rate.take() == Verdict::Limited));
        assert_eq!(rate.take(), Verdict::Persistent);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(rate.take(), Verdict::Allowed);
    }
}
