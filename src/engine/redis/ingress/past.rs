//! What a process remembers of an ingress stream from one reader of its own to the next.

use std::collections::HashSet;

use tracing::warn;

use super::super::retold::Retold;
use crate::engine::Event;
use crate::id::UserId;

#[derive(Default)]
pub struct Past {
    /// Tells of bad entries: an application may send nothing else.
    pub bad: Retold,
    /// Who was sent which entry that is not logged, none: all. A log knows what it has been given, but these would come again
    /// each time that something beside them is tried again. Another process that reads on knows nothing of it.
    sent: HashSet<(String, Option<UserId>)>,
}

impl Past {
    /// Tells of bad entries that came in the minute after one was told of.
    pub fn tell_bad(&mut self, stream: &str) {
        if let Some(times) = self.bad.due() {
            warn!(stream, times, "more ingress entries could not be routed: `events:dead` says why");
        }
    }

    /// An entry's event was published.
    pub fn sent(&mut self, entry: &str, event: &Event) {
        if event.transient {
            self.sent.insert((entry.to_owned(), Some(event.user.clone())));
        }
    }

    /// An entry was broadcast.
    pub fn broadcast(&mut self, entry: &str) {
        self.sent.insert((entry.to_owned(), None));
    }

    /// Whether an entry was broadcast before.
    pub fn has_broadcast(&self, entry: &str) -> bool {
        self.sent.contains(&(entry.to_owned(), None))
    }

    /// Whether an entry's event went out before, and is in no log that knows.
    pub fn has_sent(&self, entry: &str, event: &Event) -> bool {
        event.transient && self.sent.contains(&(entry.to_owned(), Some(event.user.clone())))
    }

    /// Nothing is pending, whoever saw to it.
    pub fn forget_all(&mut self) {
        self.sent.clear();
    }

    /// These entries are never read again.
    pub fn forget(&mut self, entries: &[&str]) {
        if !self.sent.is_empty() {
            let entries: HashSet<_> = entries.iter().collect();
            self.sent.retain(|(entry, _)| !entries.contains(&&entry[..]));
        }
    }
}
