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

/// The end of a lease that the node does not have, as it knows.
const GIVEN_UP: u64 = 0;

/// Whether the node may speak for its id.
#[derive(Debug)]
pub struct Lease {
    base: Instant,
    /// Milliseconds after `base`; or [`GIVEN_UP`].
    until_ms: AtomicU64,
    missed: AtomicBool,
    check: Notify,
    /// What keeps the node from having it, where Redis has said so.
    obstacle: Mutex<Option<&'static str>>,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            base: Instant::now(),
            until_ms: AtomicU64::new(GIVEN_UP),
            missed: AtomicBool::new(false),
            check: Notify::new(),
            obstacle: Mutex::default(),
        }
    }
}

impl Lease {
    /// Whether the lease is held now.
    pub fn is_held(&self) -> bool {
        let now = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX);
        now < self.until_ms.load(Ordering::Acquire)
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
        self.until_ms.store(self.end_ms(asked, ttl), Ordering::Release);
        self.missed.store(false, Ordering::Release);
    }

    /// The lease was renewed for `ttl` from when that was asked for; false where something was not delivered meanwhile.
    /// One that was given up meanwhile is not had by that: it has yet to be claimed.
    pub fn renewed(&self, asked: Instant, ttl: Duration) -> bool {
        let end = |until| (until != GIVEN_UP).then(|| self.end_ms(asked, ttl));
        let renewed = self.until_ms.fetch_update(Ordering::AcqRel, Ordering::Acquire, end).is_ok();
        !renewed || !self.missed.swap(false, Ordering::AcqRel)
    }

    fn end_ms(&self, asked: Instant, ttl: Duration) -> u64 {
        let end = asked.saturating_duration_since(self.base) + ttl;
        u64::try_from(end.as_millis()).unwrap_or(u64::MAX)
    }

    /// The lease is not held any more.
    pub fn lost(&self) {
        self.until_ms.store(GIVEN_UP, Ordering::Release);
    }

    /// Whether it was said that it is lost, as opposed to that it ran out.
    pub fn was_given_up(&self) -> bool {
        self.until_ms.load(Ordering::Acquire) == GIVEN_UP
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
