//! What a process remembers of an ingress stream from one reader of its own to the next.

use std::collections::{HashMap, HashSet};

use smol_str::SmolStr;
use tracing::warn;

use super::super::publish::Appended;
use crate::engine::Event;
use crate::id::UserId;
use crate::retold::{Outage, Retold};

#[derive(Default)]
pub struct Past {
    /// Tells of bad entries: an application may send nothing else.
    pub bad: Retold,
    /// Tells that the stream cannot be read: from when that was told first until it is told that it is read.
    pub stopped: Outage,
    /// What came of entries that are not let go of yet. Another process that reads on knows nothing of it.
    entries: HashMap<SmolStr, Tried>,
}

/// What came of an entry so far.
#[derive(Default)]
struct Tried {
    /// Whom it was sent to, none: all.
    sent: HashSet<Option<UserId>>,
    /// Whom it could not be sent to. It may be in their logs all the same.
    failed: HashSet<UserId>,
    /// It is on `events:dead`.
    is_put_aside: bool,
}

impl Past {
    /// Tells of bad entries that came in the minute after one was told of.
    pub fn tell_bad(&mut self, stream: &str) {
        if let Some(times) = self.bad.due() {
            warn!(stream, times, "more ingress entries could not be routed: `events:dead` says why");
        }
    }

    /// An entry's event was published. Whether that counts: not where it did before, as it is published again with each time
    /// that something beside it is tried again; nor where its log knew the entry from another process, which counted it. What
    /// is not logged counts once for all of an entry's users, as on every other way in.
    pub fn sent(&mut self, entry: &str, event: &Event, appended: &Appended) -> bool {
        let Tried { sent, failed, .. } = self.tried(entry);
        let is_first_of_all = sent.is_empty();
        let is_first = sent.insert(Some(event.user.clone()));
        if event.transient {
            return is_first_of_all;
        }
        is_first && (appended.id.is_some() || failed.contains(&event.user))
    }

    /// An entry's event was not published, as far as is known.
    pub fn failed(&mut self, entry: &str, event: &Event) {
        self.tried(entry).failed.insert(event.user.clone());
    }

    /// An entry was broadcast.
    pub fn broadcast(&mut self, entry: &str) {
        self.tried(entry).sent.insert(None);
    }

    /// Whether an entry was broadcast before.
    pub fn has_broadcast(&self, entry: &str) -> bool {
        self.has_sent_to(entry, &None)
    }

    /// Whether an entry's event went out before, and is in no log that knows. Any other is published again: should Redis
    /// have failed over, its log may have lost it.
    pub fn has_sent(&self, entry: &str, event: &Event) -> bool {
        event.transient && self.has_sent_to(entry, &Some(event.user.clone()))
    }

    /// An entry was put aside.
    pub fn put_aside(&mut self, entry: &str) {
        self.tried(entry).is_put_aside = true;
    }

    /// Whether an entry was put aside: then all that is left is to let go of it.
    pub fn is_put_aside(&self, entry: &str) -> bool {
        self.entries.get(entry).is_some_and(|tried| tried.is_put_aside)
    }

    /// Nothing is pending, whoever saw to it.
    pub fn forget_all(&mut self) {
        self.entries.clear();
    }

    /// These entries are never read again.
    pub fn forget(&mut self, entries: &[&str]) {
        for entry in entries {
            self.entries.remove(*entry);
        }
    }

    fn tried(&mut self, entry: &str) -> &mut Tried {
        self.entries.entry(entry.into()).or_default()
    }

    fn has_sent_to(&self, entry: &str, whom: &Option<UserId>) -> bool {
        self.entries.get(entry).is_some_and(|tried| tried.sent.contains(whom))
    }
}
