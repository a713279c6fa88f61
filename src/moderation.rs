//! When a busy thread sleeps for a moment before it waits: what comes meanwhile is done at one go, as network cards do it
//! with interrupts.
//!
//! A thread that waits is woken for the first thing that comes; and where nodes, Redis and others share few cores, it takes
//! a core for it from Redis, in the middle of a call. At 20,000 events a second on two cores, Redis and two nodes so got
//! stuck on one of these for up to 90 ms, while the other was half idle (`src/docs/performance.md` has what this changes).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long it sleeps. The system makes some 0.15 ms of it.
const NAP: Duration = Duration::from_micros(100);
/// Events a second, in or out, from which each thread does: fewer than two would come meanwhile, and it would be a delay
/// for nothing.
const BUSY: f64 = 14_000.0;
/// How often the rate is taken.
const SAMPLE: Duration = Duration::from_millis(10);
/// What is left of a rate at the next sample, however little has come: where all are stuck, little comes.
const LEFT: f64 = 0.95;

static PASSED: AtomicU64 = AtomicU64::new(0);

/// So many events go to Redis, or have come from there.
pub fn passed(events: usize) {
    PASSED.fetch_add(events as u64, Ordering::Relaxed);
}

/// Events a second that pass a thread.
#[derive(Debug, Clone, Copy)]
struct Rate {
    sampled: Instant,
    passed: u64,
    rate: f64,
}

impl Rate {
    /// `passed`: all events since the process began, of which each of `threads` has its part.
    fn is_busy(&mut self, now: Instant, passed: u64, threads: usize) -> bool {
        let since = now.saturating_duration_since(self.sampled);
        if since >= SAMPLE {
            let rate = (passed - self.passed) as f64 / since.as_secs_f64() / threads as f64;
            // As often as it was not taken meanwhile.
            let samples = since.as_secs_f64() / SAMPLE.as_secs_f64();
            *self = Self { sampled: now, passed, rate: rate.max(self.rate * LEFT.powf(samples)) };
        }
        self.rate >= BUSY
    }
}

thread_local! {
    static RATE: Cell<Option<Rate>> = const { Cell::new(None) };
}

/// A thread has nothing to do, and is about to wait: one of so many of a node.
pub fn before_waiting(threads: usize) {
    let (now, passed) = (Instant::now(), PASSED.load(Ordering::Relaxed));
    let mut rate = RATE.get().unwrap_or(Rate { sampled: now, passed, rate: 0.0 });
    let is_busy = rate.is_busy(now, passed, threads);
    RATE.set(Some(rate));
    if is_busy {
        std::thread::sleep(NAP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many events a second pass four threads for so long, one of which waits every 0.1 ms. Whether it is busy then.
    fn goes_on(rate: &mut Rate, events: u64, time: Duration) -> bool {
        let step = Duration::from_micros(100);
        let (start, before, mut is_busy) = (rate.sampled, rate.passed, false);
        let steps = u32::try_from(time.as_micros() / step.as_micros()).unwrap();
        for at in 1..=steps {
            let passed = before + events * u64::from(at) / 10_000;
            is_busy = rate.is_busy(start + step * at, passed, 4);
        }
        is_busy
    }

    #[test]
    fn a_thread_is_busy_while_enough_passes_it_and_a_little_longer() {
        let mut rate = Rate { sampled: Instant::now(), passed: 0, rate: 0.0 };
        let ms = Duration::from_millis;
        assert!(!goes_on(&mut rate, 4 * 13_000, ms(1000)));
        assert!(goes_on(&mut rate, 4 * 20_000, ms(20)));
        assert!(goes_on(&mut rate, 0, ms(50)), "all are stuck");
        assert!(!goes_on(&mut rate, 0, ms(50)));
        assert!(goes_on(&mut rate, 4 * 20_000, ms(20)));
        assert!(!goes_on(&mut rate, 4 * 13_000, ms(200)));
    }

    #[test]
    fn what_was_long_ago_counts_for_nothing() {
        let now = Instant::now();
        let mut rate = Rate { sampled: now, passed: 0, rate: 1e6 };
        assert!(!rate.is_busy(now + Duration::from_secs(3), 100, 1));
    }
}
