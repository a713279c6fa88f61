//! What Redis refuses though it is there: a right is missing, or a key that is not one user's holds something else. Whoever
//! asked is told `unavailable`, the node is ready, and nothing gets better by itself: so it is told to who can mend it.
//!
//! It is told once the node has renewed its lease: where Redis refuses that as well (it is full, or takes no writes), it
//! cannot be used as a whole, and that is told already.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tracing::warn;

use super::retold::Retold;
use crate::engine::{Cause, Unavailable};
use crate::lock::lock;

/// What was refused, by what was asked: how often, and why at last.
pub type Refusals = BTreeMap<&'static str, (u64, Unavailable)>;

/// What is refused. Each verb is told of apart; there are a dozen of them.
#[derive(Default)]
pub struct Refused {
    untold: Mutex<Refusals>,
    told: Mutex<BTreeMap<&'static str, Retold>>,
}

impl Refused {
    /// Passes on what came of something, and notes it where Redis refused it.
    pub fn hear<T>(&self, what: &'static str, outcome: Result<T, Unavailable>) -> Result<T, Unavailable> {
        if let Err(error) = &outcome
            && error.cause == Cause::Refused
        {
            let mut untold = lock(&self.untold);
            let (times, why) = untold.entry(what).or_insert_with(|| (0, error.clone()));
            *times += 1;
            why.clone_from(error);
        }
        outcome
    }

    /// What was refused since this was last asked.
    pub fn take(&self) -> Refusals {
        std::mem::take(&mut lock(&self.untold))
    }

    /// Tells of it, though the lease was renewed since.
    pub fn tell(&self, refusals: Refusals) {
        for (what, (times, error)) in refusals {
            if let Some(times) = lock(&self.told).entry(what).or_default().more(times) {
                warn!(what, %error, times, "Redis is there and refuses this: so does the node, until it is mended");
            }
        }
    }
}
