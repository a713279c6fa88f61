//! How much of it: the figures of a run, from the environment, so that a short run and a long one are one program.

use std::time::Duration;

/// The figures of a run.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Decides which node is hit when, and what is sent to whom. Printed, so that a run can be repeated.
    pub seed: u64,
    /// Goes on through the faults in random order until this is over; none: each of them once.
    pub length: Option<Duration>,
    pub users: usize,
    /// Sessions of each user.
    pub sessions: usize,
    /// Events a second, all senders together.
    pub rate: usize,
    /// How long a client does not read, where that is the fault.
    pub deaf: Duration,
    /// The program of an older release, to be run beside this one.
    pub old_program: Option<String>,
    /// Only faults with one of these, with commas between them, in their name.
    pub only: Option<String>,
}

impl Scale {
    /// From `CHAOS_SEED`, `CHAOS_MINUTES`, `CHAOS_USERS`, `CHAOS_SESSIONS`, `CHAOS_RATE`, `CHAOS_DEAF`, `CHAOS_ONLY`,
    /// `CHAOS_OLD_BINARY`.
    pub fn from_env() -> Self {
        let minutes = number("CHAOS_MINUTES");
        Self {
            seed: number("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000)),
            length: minutes.map(|minutes| Duration::from_secs(60 * minutes)),
            users: number("CHAOS_USERS").unwrap_or(200) as usize,
            sessions: number("CHAOS_SESSIONS").unwrap_or(3) as usize,
            rate: number("CHAOS_RATE").unwrap_or(500) as usize,
            deaf: Duration::from_secs(number("CHAOS_DEAF").unwrap_or(if minutes.is_some() { 30 } else { 8 })),
            old_program: text("CHAOS_OLD_BINARY"),
            only: text("CHAOS_ONLY"),
        }
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(name: &str) -> Option<u64> {
    let text = text(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: a whole number is wanted")))
}
