//! The node's lease: it may deliver only while it has it, by its own clock.
//!
//! A frozen process does not know that it was frozen. So every delivery looks at a deadline that each renewal
//! sets, counted from before the renewal was asked for; a thawed node finds it passed before anything else runs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::lock;
use crate::ms::ms;

/// The end of a lease that is not had.
const NONE: u64 = 0;

/// When a lease ends, for many who look at once.
#[derive(Debug)]
pub struct Deadline {
    base: Instant,
    /// Milliseconds after `base`; or [`NONE`].
    at_ms: AtomicU64,
}

impl Default for Deadline {
    fn default() -> Self {
        Self { base: Instant::now(), at_ms: AtomicU64::new(NONE) }
    }
}

impl Deadline {
    /// Puts it to this time, whether there was one or not.
    pub fn set(&self, at: Instant) {
        self.at_ms.store(self.ms(at), Ordering::Release);
    }

    /// Puts it to this time, unless it was cleared meanwhile. Returns whether it was put there.
    fn put_off(&self, at: Instant) -> bool {
        let put_off = |was| (was != NONE).then(|| self.ms(at));
        self.at_ms.fetch_update(Ordering::AcqRel, Ordering::Acquire, put_off).is_ok()
    }

    /// There is none any more: [`Deadline::is_over`] from now on, until it is set again.
    pub fn clear(&self) {
        self.at_ms.store(NONE, Ordering::Release);
    }

    /// Whether there is none, as opposed to one that has passed.
    fn is_cleared(&self) -> bool {
        self.at_ms.load(Ordering::Acquire) == NONE
    }

    /// Whether it has passed, or there is none.
    pub fn is_over(&self) -> bool {
        self.ms(Instant::now()) >= self.at_ms.load(Ordering::Acquire)
    }

    fn ms(&self, at: Instant) -> u64 {
        ms(at.saturating_duration_since(self.base))
    }
}

/// Whether the node may speak for its id.
#[derive(Debug, Default)]
pub struct Lease {
    end: Deadline,
    missed: AtomicBool,
    check: Notify,
    /// What keeps the node from having it, where Redis has said so.
    obstacle: Mutex<Option<&'static str>>,
}

impl Lease {
    /// Whether the lease is held now.
    pub fn is_held(&self) -> bool {
        !self.end.is_over()
    }

    /// As [`Lease::is_held`]; where it is not, sessions will have to look into their logs.
    pub fn allows_delivery(&self) -> bool {
        let held = self.is_held();
        if !held {
            self.missed.store(true, Ordering::Release);
        }
        held
    }

    /// The lease was claimed for `ttl` from when that was asked for.
    pub fn claimed(&self, asked: Instant, ttl: Duration) {
        self.end.set(asked + ttl);
        self.missed.store(false, Ordering::Release);
    }

    /// The lease was renewed for `ttl` from when that was asked for; false where something was not delivered meanwhile.
    /// One that was given up meanwhile is not had by that: it has yet to be claimed.
    pub fn renewed(&self, asked: Instant, ttl: Duration) -> bool {
        !self.end.put_off(asked + ttl) || !self.missed.swap(false, Ordering::AcqRel)
    }

    /// The lease is not held any more.
    pub fn lost(&self) {
        self.end.clear();
    }

    /// Whether it was said that it is lost, as opposed to that it ran out.
    pub fn was_given_up(&self) -> bool {
        self.end.is_cleared()
    }

    /// Notes what keeps the node from having the lease; none where nothing does, or where that is not known. Whether that
    /// is another thing than before.
    pub fn waits_for(&self, obstacle: Option<&'static str>) -> bool {
        let mut noted = lock(&self.obstacle);
        std::mem::replace(&mut *noted, obstacle) != obstacle
    }

    /// What keeps the node from having the lease, as it was noted last.
    pub fn obstacle(&self) -> Option<&'static str> {
        *lock(&self.obstacle)
    }

    /// The inbox must be made anew: claim again.
    pub fn claim_again(&self) {
        self.lost();
        self.check.notify_one();
    }

    /// Waits until the lease should be looked at before its time.
    pub async fn doubted(&self) {
        self.check.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_claim_that_is_asked_for_during_a_beat_is_due_after_it() {
        let (lease, now, ttl) = (Lease::default(), Instant::now(), Duration::from_secs(600));
        lease.claimed(now, ttl);
        lease.claim_again();
        lease.renewed(now, ttl);
        assert!(!lease.is_held() && lease.was_given_up());
        assert!(lease.doubted().now_or_never().is_some(), "and it is looked at at once");
        lease.claimed(now, ttl);
        assert!(lease.is_held());
    }
}
