//! Times as Redis, frames and logs have them.

use std::time::Duration;

/// A duration in whole milliseconds; the largest number stands for what is longer.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
