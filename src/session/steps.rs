//! What becomes of a session's events, for whoever follows one event by its id in the log (`debug`), or one user live.

use tracing::debug;

use super::{End, Session};
use crate::engine::Registration;
use crate::id::EventId;
use crate::router::Registered;
use crate::trace::Fields;

/// Events that were handed to the socket and are not flushed: of a user who is followed, else none. What waits for a
/// flush is bounded by the outbox and a page.
#[derive(Default)]
pub(super) struct Steps {
    unflushed: Vec<Option<EventId>>,
}

impl Steps {
    /// An event was handed to the socket: it is written when the next flush is done.
    pub(super) fn handed(&mut self, registered: &Registered, id: Option<EventId>) {
        if let Some(id) = id {
            debug!(user = %registered.user(), client = %registered.client(), %id, "written");
        }
        if registered.router().engine().tracer().follows(registered.user().as_str()) {
            self.unflushed.push(id);
        }
    }

    /// The peer's system has all that was handed over.
    pub(super) fn flushed(&mut self, registered: &Registered) {
        for id in std::mem::take(&mut self.unflushed) {
            note(registered, "written", || event(id));
        }
    }
}

/// Notes a step, where the user is followed.
pub(super) fn note(registered: &Registered, step: &'static str, fields: impl FnOnce() -> Fields) {
    registered.router().engine().tracer().note(registered.user().as_str(), step, || {
        let mut fields = fields();
        fields.push(("client", registered.client().to_string()));
        fields
    });
}

/// The field of an event; a transient one has no id.
pub(super) fn event(id: Option<EventId>) -> Fields {
    vec![id.map_or(("transient", "1".to_owned()), |id| ("id", id.to_string()))]
}

impl Session {
    pub(super) fn note_connected(&self, registration: &Registration) {
        note(&self.registered, "connected", || {
            vec![
                ("since", registration.from.to_string()),
                ("position", registration.position.to_string()),
                ("recovered", registration.whole.to_string()),
                ("replayed", registration.replayed.to_string()),
            ]
        });
    }

    pub(super) fn note_gap(&self, registration: &Registration) {
        note(&self.registered, "gap", || {
            vec![("since", registration.from.to_string()), ("position", registration.position.to_string())]
        });
    }

    pub(super) fn note_end(&self, end: &End) {
        note(&self.registered, "disconnected", || match end {
            End::Gone(code) => {
                let code = code.map(|code| ("code", code.to_string()));
                code.into_iter().chain([("reason", "the client went".to_owned())]).collect()
            }
            End::Close(close) => {
                vec![("code", close.code().to_string()), ("reason", close.reason().to_owned())]
            }
        });
    }
}
