//! How many may do a thing at once, how many may wait for it, and for how long. Whoever finds too many waiting is
//! turned away at once, which is better for both than an answer that nobody waits for any more. [`Rounds`] turn nobody
//! away, but let others have a go between.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;
use tokio::time::timeout;

/// The gate.
#[derive(Debug)]
pub struct Gate {
    inside: Semaphore,
    queue: Semaphore,
    patience: Duration,
}

impl Gate {
    /// A gate that lets `inside` in at once, in the order in which they came; `queue` may wait, for `patience`.
    pub fn new(inside: usize, queue: usize, patience: Duration) -> Self {
        Self { inside: Semaphore::new(inside), queue: Semaphore::new(queue), patience }
    }

    /// Waits for a turn, which lasts until it is dropped; none where too many wait already, or for too long.
    pub async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.inside.try_acquire() {
            return Some(turn);
        }
        let _waiting = self.queue.try_acquire().ok()?;
        timeout(self.patience, self.inside.acquire()).await.ok()?.ok()
    }
}

/// Work that thousands of tasks may have at once, done by a few in each round of all tasks that are ready: on a thread
/// that takes its tasks in turn, whoever else is ready waits for no more than these.
#[derive(Debug)]
pub struct Rounds(Semaphore);

impl Rounds {
    /// Rounds of `few`.
    pub fn new(few: usize) -> Self {
        Self(Semaphore::new(few))
    }

    /// Waits for a turn; the work is to follow at once.
    pub async fn turn(&self) {
        let _turn = self.0.acquire().await;
        // Until the next round: else the turn would be free again before the next task of this one asks for it.
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn others_have_a_go_between_rounds() {
        let (rounds, done) = (Arc::new(Rounds::new(4)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..100 {
            let (rounds, done) = (rounds.clone(), done.clone());
            tokio::spawn(async move {
                rounds.turn().await;
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        let mut before = 0;
        while before < 100 {
            tokio::task::yield_now().await;
            let now = done.load(Ordering::Relaxed);
            assert!(now - before <= 8, "{} at once", now - before);
            before = now;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn some_are_let_in_some_wait_and_the_rest_is_turned_away() {
        let gate = Gate::new(2, 1, Duration::from_secs(5));
        let (first, _second) = (gate.enter().await.unwrap(), gate.enter().await.unwrap());
        let waits = gate.enter();
        tokio::pin!(waits);
        assert!(waits.as_mut().now_or_never().is_none(), "it waits");
        assert!(gate.enter().now_or_never().unwrap().is_none(), "turned away at once");
        drop(first);
        let _third = waits.await.unwrap();
        assert!(gate.enter().await.is_none(), "nobody came out in time");
        assert!(
            gate.enter().await.is_none(),
            "whoever gave up waiting does not take its place in the queue along"
        );
    }
}
