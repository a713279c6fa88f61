//! What the engine hears from a session that looks into its log, so that losses are noticed and told once.

use crate::id::EventId;

/// What a session has heard of so far. It says so whenever it looks into its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// The newest event that it has heard of, or zero. Where the log has neither that event nor a newer one of its
    /// collapse key, Redis has lost it (a failover, a restart with older data): this is how losses are noticed.
    pub event: EventId,
    /// A hint has shown already that Redis has lost that event: a later one names an older event as the one before it.
    pub is_lost: bool,
    /// [`Registration::knows`](super::Registration::knows) of its last look: losses before this id are no news to it.
    /// The newest event that it has got would not say that: it may have come past a loss that nobody knew of then.
    pub knows: EventId,
}
