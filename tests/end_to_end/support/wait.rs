//! Waiting for a condition with a bound: the only way in which these tests let time pass.

use std::time::{Duration, Instant};

/// How long a test waits for something that normally takes milliseconds.
///
/// Generous because two tests with five processes each may share two cores; a passing test never uses it up.
pub const BOUND: Duration = Duration::from_secs(15);

/// How often a condition is looked at again: rare enough not to load the machine, often enough not to be felt.
const STEP: Duration = Duration::from_millis(20);

/// What the last look has at least: the test may have been held up for all the time that there was.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Looks again and again until `probe` answers `Ok`, and panics with its last `Err` once `bound` is over.
pub async fn eventually<T>(
    bound: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + bound;
    let mut last;
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(LAST_LOOK);
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(seen)) => last = seen,
            Err(_) => last = "the question itself got no answer in that time".to_owned(),
        }
        if Instant::now() >= end {
            panic!("waited {bound:?} for {what}; last seen: {last}");
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Awaits one future, and panics with what was awaited once `bound` is over.
pub async fn within<F: Future>(bound: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(bound, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {bound:?} for {what}"),
    }
}

/// `Ok` where the two are equal, else an `Err` that shows both: for use inside [`eventually`].
pub fn same<T: PartialEq + std::fmt::Debug>(seen: T, wanted: T) -> Result<(), String> {
    if seen == wanted { Ok(()) } else { Err(format!("{seen:?} instead of {wanted:?}")) }
}
