//! Deliberate faults, one cargo feature each, to show that the chaos run would notice them.
//!
//! No build that is shipped has any of them: nothing but `scripts/check-checker` turns a feature on, and there is no
//! switch at run time. Each condition below is a constant, so a build without the feature has no trace of it.

use crate::engine::LogEvent;

/// `fault-skip-replay`: whoever comes back is told that it missed nothing, and gets nothing.
pub fn replayed(events: Vec<LogEvent>) -> Vec<LogEvent> {
    if cfg!(feature = "fault-skip-replay") { Vec::new() } else { events }
}

/// `fault-drop-hint`: one hint in fifty is passed off as delivered, and nothing is caught up.
pub fn drops_hint() -> bool {
    cfg!(feature = "fault-drop-hint") && fastrand::u8(..50) == 0
}
