//! How many may do a thing at once, how many may wait for it, and for how long. Whoever finds too many waiting is
//! turned away at once, which is better for both than an answer that nobody waits for any more. [`Rounds`] turn nobody
//! away, but let others have a go between.

use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;
use tokio::time::timeout;

/// How many of one kind, and of those that share its lane, may be inside at once: one that keeps coming does not fill the
/// gate.
const OF_A_KIND: usize = 8;
/// Lanes; kinds that share one by chance are few.
const LANES: usize = 1024;

/// The gate.
#[derive(Debug)]
pub struct Gate {
    inside: Semaphore,
    most: usize,
    lanes: Box<[Semaphore]>,
    hasher: RandomState,
    queue: Semaphore,
    patience: Duration,
}

/// A turn inside, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    _of_lane: Option<SemaphorePermit<'a>>,
    _inside: SemaphorePermit<'a>,
}

impl Gate {
    /// A gate that lets `inside` in at once, in the order in which they came; `queue` may wait, for `patience`.
    pub fn new(inside: usize, queue: usize, patience: Duration) -> Self {
        Self {
            inside: Semaphore::new(inside),
            most: inside,
            lanes: (0..LANES).map(|_| Semaphore::new(OF_A_KIND)).collect(),
            hasher: RandomState::new(),
            queue: Semaphore::new(queue),
            patience,
        }
    }

    /// How many are inside.
    pub fn inside(&self) -> usize {
        self.most - self.inside.available_permits()
    }

    /// Waits for a turn; none where too many wait already, or for too long.
    pub async fn enter(&self) -> Option<Turn<'_>> {
        self.turn(None).await
    }

    /// The same, as one of a `kind`, of which eight are inside at once.
    pub async fn enter_as(&self, kind: &impl Hash) -> Option<Turn<'_>> {
        let lane = self.hasher.hash_one(kind) as usize % LANES;
        self.turn(Some(&self.lanes[lane])).await
    }

    async fn turn<'a>(&'a self, lane: Option<&'a Semaphore>) -> Option<Turn<'a>> {
        if let (Ok(of_lane), Ok(inside)) =
            (lane.map(Semaphore::try_acquire).transpose(), self.inside.try_acquire())
        {
            return Some(Turn { _of_lane: of_lane, _inside: inside });
        }
        let _waiting = self.queue.try_acquire().ok()?;
        let turn = async {
            let of_lane = match lane {
                Some(lane) => Some(lane.acquire().await.ok()?),
                None => None,
            };
            Some(Turn { _of_lane: of_lane, _inside: self.inside.acquire().await.ok()? })
        };
        timeout(self.patience, turn).await.ok()?
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
    async fn one_kind_does_not_fill_the_gate() {
        let gate = Gate::new(2 * OF_A_KIND, 1000, Duration::from_secs(5));
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(gate.enter_as(&1))).collect();
        let mut inside: Vec<_> = waiting.iter_mut().filter_map(|turn| turn.now_or_never()).collect();
        assert_eq!(inside.len(), OF_A_KIND);
        assert!(gate.enter_as(&2).now_or_never().unwrap().is_some(), "others are let in at once");
        inside.pop();
        let next = waiting.iter_mut().skip(OF_A_KIND).filter_map(|turn| turn.now_or_never());
        assert_eq!(next.collect::<Vec<_>>().len(), 1, "and the kind goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn some_are_let_in_some_wait_and_the_rest_is_turned_away() {
        let gate = Gate::new(2, 1, Duration::from_secs(5));
        let (first, _second) = (gate.enter().await.unwrap(), gate.enter().await.unwrap());
        let waits = gate.enter();
        tokio::pin!(waits);
        assert!(waits.as_mut().now_or_never().is_none(), "it waits");
        assert!(gate.enter().now_or_never().unwrap().is_none(), "turned away at once");
        assert_eq!(gate.inside(), 2);
        drop(first);
        assert_eq!(gate.inside(), 2, "the next has the place");
        let _third = waits.await.unwrap();
        assert!(gate.enter().await.is_none(), "nobody came out in time");
        assert!(
            gate.enter().await.is_none(),
            "whoever gave up waiting does not take its place in the queue along"
        );
    }
}
