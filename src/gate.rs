//! How many may do a thing at once, how many may wait for it, and for how long. Whoever finds too many waiting is
//! turned away at once, which is better for both than an answer that nobody waits for any more.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

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
