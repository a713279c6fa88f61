//! Times as Redis, frames and logs have them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A duration in whole milliseconds; the largest number stands for what is longer.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// This machine's clock, as the time since 1970; zero where it is set before that.
pub fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
