//! Handing this node's clients over to the others.
//!
//! Closes are spread evenly over `--drain-timeout`. When a client should come back is another question: nodes that
//! leave together share one budget in the engine, so that those who stay are not flooded, however many leave and
//! however short their time is.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use crate::close::Close;
use crate::engine::{Leaving, Slots};
use crate::router::Router;

/// Those of one moment come back within this, at random.
const SPREAD: Duration = Duration::from_secs(1);
/// How often clients are sent away, at most: those of one tick share one look at the budget.
const TICK: Duration = Duration::from_millis(20);
/// How long it may take to find out that all have left by themselves.
const LOOK: Duration = Duration::from_millis(50);
/// How long the budget may take to answer: without it clients are sent away all the same.
const PATIENCE: Duration = Duration::from_millis(500);

/// Closes every session, evenly over `within`, in no particular order.
pub async fn hand_over(router: &Router, within: Duration) {
    let mut sessions = Vec::with_capacity(router.registry().len());
    router.registry().each(|session| sessions.push(session.clone()));
    fastrand::shuffle(&mut sessions);
    let (start, count) = (Instant::now(), sessions.len());
    // Nobody waits longer than the hand-over itself may take: a log outlives both.
    let longest = within.max(SPREAD);
    let mut sent = 0;
    while sent < count && !router.registry().is_empty() {
        let elapsed = start.elapsed();
        let due = due(count, elapsed, within);
        // Those who left by themselves use up no budget.
        let mut leaving: Vec<_> = sessions[sent..due].iter().filter(|session| !session.has_ended()).collect();
        sent = due;
        if !leaving.is_empty() {
            let (clients, later) = (leaving.len(), count - sent);
            let left = within.saturating_sub(elapsed);
            let slots = budget(router, Leaving { clients, later, left, longest }).await;
            let mut back = slots.first;
            for session in leaving.drain(..) {
                session.close(Close::Drain(back.min(longest) + SPREAD.mul_f64(fastrand::f64())));
                back += slots.step;
            }
        }
        let next = within.mul_f64(sent as f64 / count as f64).max(elapsed + TICK);
        sleep_until(start + next.min(elapsed + LOOK)).await;
    }
    budget(router, Leaving { longest, ..Leaving::default() }).await;
}

/// How many of `count` should have been sent away: the first at once, the last one step before the end.
fn due(count: usize, elapsed: Duration, within: Duration) -> usize {
    if elapsed >= within {
        return count;
    }
    let share = elapsed.as_secs_f64() / within.as_secs_f64();
    ((share * count as f64) as usize + 1).min(count)
}

async fn budget(router: &Router, leaving: Leaving) -> Slots {
    match timeout(PATIENCE, router.engine().drain(leaving)).await {
        Ok(Ok(slots)) => slots,
        Ok(Err(error)) => {
            debug!(%error, "no budget to drain by");
            Slots::default()
        }
        Err(_) => Slots::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_are_even_and_all_come() {
        let second = Duration::from_secs(1);
        let at = |elapsed: u64| due(10, Duration::from_millis(elapsed), second);
        assert_eq!([0, 99, 101, 550, 999, 1000, 5000].map(at), [1, 1, 2, 6, 10, 10, 10]);
        assert_eq!(due(3, Duration::ZERO, Duration::ZERO), 3);
        assert_eq!(due(0, Duration::ZERO, second), 0);
    }
}
