//! What the engine hears from a session that looks into its log, so that losses are noticed and told once.

use crate::id::EventId;

/// What a session was told so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// The newest event, or zero: the log has it, or what took its place, or Redis has lost it.
    pub event: EventId,
    /// Redis is known to have lost that event.
    pub is_lost: bool,
    /// [`Registration::knows`](super::Registration::knows) of the last time. Where the session has got to says less: it may
    /// have come past a loss that nobody knew of then.
    pub knows: EventId,
}
