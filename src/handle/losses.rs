//! What a session knows of events that Redis has lost.

use super::Handle;
use crate::engine::Told;
use crate::id::EventId;

impl Handle {
    /// A look has ended without a gap, and the engine knows what it was told with it. What was lost before `knows` concerns
    /// this session no more.
    pub fn looked(&self, knows: EventId) {
        let mut state = self.state();
        if std::mem::take(&mut state.tells_loss) {
            state.told = Told::default();
        }
        state.told.knows = knows;
    }

    /// The newest event that this session had heard of when its last look began: the log must have it, unless Redis
    /// has lost it.
    pub fn heard_before_look(&self) -> EventId {
        self.state().heard_before_look
    }

    /// The session has read the log up to this event.
    pub fn read(&self, id: EventId) {
        self.state().told_of(id);
    }

    /// What the session was told, which has got all up to `last`. A loss of what it has got itself it need not be told of.
    pub fn told(&self, last: EventId) -> Told {
        let told = self.state().told;
        let got = if told.is_lost && told.event < last { told.event.next() } else { EventId::ZERO };
        Told { knows: told.knows.max(got), ..told }
    }

    /// The client was told of a gap, and knows of what was lost before `knows`: whatever was hinted before may have been in
    /// it.
    pub fn told_gap(&self, knows: EventId) {
        self.state().told = Told { knows, ..Told::default() };
    }

    /// As [`Handle::look`], where the session does not know of what was lost before `lost`.
    pub fn look_for_lost(&self, lost: EventId) {
        if self.state().told.knows < lost {
            self.look();
        }
    }

    /// Redis has lost what came after `newest`: ids may begin there again.
    pub fn went_back(&self, newest: EventId) {
        let mut state = self.state();
        if state.heard == state.heard_before_look {
            state.heard = newest.min(state.heard);
        }
        state.heard_before_look = newest;
        state.confirmed = newest.min(state.confirmed);
        state.saved = newest.min(state.saved);
    }
}
