//! How far a read of ingress entries is with being published.

use std::collections::HashSet;

use super::super::publish::Appended;
use crate::engine::Event;

/// A read of entries, on its way out.
#[derive(Default)]
pub struct Progress<'a> {
    /// Another consumer of the group held them, which routes nothing: none of them can have been published before.
    pub late: bool,
    /// Entries that cannot be routed, by their ids, and why.
    pub bad: Vec<(&'a str, String)>,
    /// So many entries, the first, went out.
    pub through: usize,
    /// Those of them of which some event is not published all the same.
    pub undone: HashSet<&'a str>,
}

impl<'a> Progress<'a> {
    /// An event of the entry `id` went out. Where its log took nothing, though it is late, later entries of its user are
    /// there already, and it cannot be delivered in order any more.
    pub fn published(&mut self, id: &'a str, event: &Event, appended: &Appended) {
        if self.late && appended.id.is_none() && !event.transient {
            let user = &event.user;
            let reason =
                format!("another consumer of the group held it, and later entries of {user} are routed");
            self.bad.push((id, reason));
        }
    }

    /// Whether all of the entry `id`, the one at that place, went out.
    pub fn went_out(&self, at: usize, id: &str) -> bool {
        at < self.through && !self.undone.contains(id)
    }

    /// Why it cannot be routed, where it cannot.
    pub fn reason(&self, id: &str) -> Option<&str> {
        self.bad.iter().find(|(bad, _)| *bad == id).map(|(_, reason)| reason.as_str())
    }
}
