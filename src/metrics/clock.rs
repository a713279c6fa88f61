//! The clock of Redis, as this node reads it: event ids are its milliseconds.
//!
//! Each answer that brings Redis' time gives an estimate with a known error: half of how long the answer took, and
//! half of how coarse it is. The best one is kept; it grows worse with its age, because clocks drift.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lock;
use crate::ms::unix;

/// How fast two clocks drift apart at worst: 100 µs a second is more than quartz and NTP allow.
const DRIFT: u32 = 10_000;

/// An estimate of Redis' clock, without a lock to read.
#[derive(Debug)]
pub struct Clock {
    base: Instant,
    /// Unix µs of Redis' clock at `base`.
    redis_us: AtomicI64,
    best: Mutex<Option<Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    redis_us: i64,
    error: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Self { base: Instant::now(), redis_us: AtomicI64::new(machine_us()), best: Mutex::new(None) }
    }
}

/// This machine's clock, Unix µs.
fn machine_us() -> i64 {
    signed(unix().as_micros())
}

fn signed(us: u128) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

impl Clock {
    /// Redis' clock, Unix µs. This machine's own where Redis has not told yet.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.redis_now_us()).unwrap_or_default()
    }

    fn redis_now_us(&self) -> i64 {
        self.redis_us.load(Ordering::Relaxed) + signed(self.base.elapsed().as_micros())
    }

    /// Redis was asked at `asked`, has answered just now, and its clock showed `told_us`, in steps of `step`.
    pub fn told(&self, asked: Instant, told_us: i64, step: Duration) {
        let took = asked.elapsed();
        let middle = asked.saturating_duration_since(self.base) + took / 2;
        let redis_us = told_us + signed((step / 2).as_micros()) - signed(middle.as_micros());
        let sample = Sample { at: asked, redis_us, error: took / 2 + step / 2 };
        let mut best = lock(&self.best);
        let keep = best.is_some_and(|best| {
            let error = best.error + asked.saturating_duration_since(best.at) / DRIFT;
            // Two that cannot both be right: somebody has set the clock.
            let apart = Duration::from_micros(best.redis_us.abs_diff(sample.redis_us));
            error < sample.error && apart <= error + sample.error
        });
        if !keep {
            *best = Some(sample);
            self.redis_us.store(redis_us, Ordering::Relaxed);
        }
    }

    /// How far Redis' clock is ahead of this machine's as that stands now, seconds: it may have been set since the start.
    /// 0 where Redis has not told yet.
    pub fn ahead(&self) -> f64 {
        self.ahead_of(machine_us())
    }

    fn ahead_of(&self, machine_us: i64) -> f64 {
        let told = lock(&self.best).is_some();
        if told { (self.redis_now_us() - machine_us) as f64 / 1e6 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A machine's clock that runs with the time of tests.
    struct Machine(Instant, i64);

    impl Machine {
        fn us(&self) -> i64 {
            self.1 + signed(self.0.elapsed().as_micros())
        }

        fn behind_ms(&self, clock: &Clock) -> i64 {
            (clock.ahead_of(self.us()) * 1e3).round() as i64
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_that_took_least_counts_until_it_is_old() {
        let (clock, machine) = (Clock::default(), Machine(Instant::now(), 1_800_000_000_000_000));
        assert_eq!(machine.behind_ms(&clock), 0);
        let tell = async |took: Duration, ahead_us: i64| {
            let (asked, asked_us) = (Instant::now(), machine.us());
            tokio::time::advance(took).await;
            // Redis answered in the middle.
            clock.told(asked, asked_us + signed((took / 2).as_micros()) + ahead_us, Duration::ZERO);
        };
        tell(100 * MS, 5_000_000).await;
        assert_eq!(machine.behind_ms(&clock), 5_000);
        tell(2 * MS, 5_010_000).await;
        assert_eq!(machine.behind_ms(&clock), 5_010, "the better answer");
        tell(100 * MS, 4_990_000).await;
        assert_eq!(machine.behind_ms(&clock), 5_010, "the worse one changes nothing");
        tell(100 * MS, 9_000_000).await;
        assert_eq!(machine.behind_ms(&clock), 9_000, "but it shows that a clock was set");
        tell(2 * MS, 9_001_000).await;
        tokio::time::advance(Duration::from_secs(3600)).await;
        tell(100 * MS, 9_030_000).await;
        assert_eq!(machine.behind_ms(&clock), 9_030, "an old answer is worth less than a new one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_coarse_answer_counts_as_its_middle() {
        let (clock, machine) = (Clock::default(), Machine(Instant::now(), 1_800_000_000_000_000));
        clock.told(Instant::now(), machine.us() - 500, MS);
        assert_eq!(machine.behind_ms(&clock), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_whose_clock_is_set_is_no_longer_apart() {
        let (clock, mut machine) = (Clock::default(), Machine(Instant::now(), 1_800_000_000_000_000));
        clock.told(Instant::now(), machine.us() + 3_600_000_000, Duration::ZERO);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(machine.behind_ms(&clock), 3_600_000);
        machine.1 += 3_600_000_000;
        assert_eq!(machine.behind_ms(&clock), 0);
    }
}
