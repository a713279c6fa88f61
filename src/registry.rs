//! The sockets that this node holds, by user and client. It knows nothing of engines.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::handle::Handle;
use crate::id::{ClientId, EventId, UserId};
use crate::lock::lock;

/// A user's sessions here; most have one.
type Sessions = Vec<Arc<Handle>>;
/// What sessions have confirmed and the engine has not been told.
pub type Unsaved = Vec<(Arc<Handle>, EventId)>;
type Shard = HashMap<UserId, Sessions>;

/// Locks are held for a look-up and a push per session; this many keep two cores out of each other's way, and
/// split a heartbeat's walk.
pub const SHARDS: usize = 64;

/// The node's sessions.
#[derive(Debug)]
pub struct Registry {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    sessions: AtomicUsize,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            sessions: AtomicUsize::new(0),
        }
    }
}

impl Registry {
    fn shard(&self, user: &str) -> MutexGuard<'_, Shard> {
        let at = usize::try_from(self.hasher.hash_one(user)).unwrap_or_default() % SHARDS;
        lock(&self.shards[at])
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// How many users have any.
    pub fn users(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a session in, and hands out the one of the same client whose place it takes.
    pub fn insert(&self, handle: Arc<Handle>) -> Option<Arc<Handle>> {
        let mut shard = self.shard(handle.user.as_str());
        let sessions = shard.entry(handle.user.clone()).or_insert_with(|| Vec::with_capacity(1));
        match sessions.iter_mut().find(|known| known.client == handle.client) {
            Some(known) => Some(std::mem::replace(known, handle)),
            None => {
                sessions.push(handle);
                self.sessions.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Gives a place back to the session that had it, if `handle` still has it, and unless that session has ended: its end
    /// has found the place taken, and nobody would take it out again. One that ends from here on finds itself.
    pub fn restore(&self, handle: &Arc<Handle>, former: Arc<Handle>) -> bool {
        let mut shard = self.shard(handle.user.as_str());
        if former.has_ended() {
            return false;
        }
        let known = shard
            .get_mut(handle.user.as_str())
            .and_then(|sessions| sessions.iter_mut().find(|known| Arc::ptr_eq(known, handle)));
        match known {
            Some(known) => {
                *known = former;
                true
            }
            None => false,
        }
    }

    /// Takes out this very session, if it is there, and does `then`, before another can take its place. `then` must not
    /// come back here. Where its place is another's by now, that one has what its client has confirmed.
    pub fn remove<T>(&self, handle: &Arc<Handle>, then: impl FnOnce() -> T) -> Option<T> {
        let mut shard = self.shard(handle.user.as_str());
        let sessions = shard.get_mut(handle.user.as_str())?;
        let at = sessions.iter().position(|known| known.client == handle.client)?;
        if !Arc::ptr_eq(&sessions[at], handle) {
            sessions[at].confirm_as(handle);
            return None;
        }
        sessions.swap_remove(at);
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        if sessions.is_empty() {
            shard.remove(handle.user.as_str());
        }
        Some(then())
    }

    /// Does `then` where the client has no session here, before it can have one. `then` must not come back here.
    pub fn unless_there<T>(&self, user: &str, client: &ClientId, then: impl FnOnce() -> T) -> Option<T> {
        let shard = self.shard(user);
        let is_there = |sessions: &Vec<Arc<Handle>>| sessions.iter().any(|known| known.client == *client);
        (!shard.get(user).is_some_and(is_there)).then(then)
    }

    /// Whether a session of the user is here.
    pub fn has(&self, user: &str) -> bool {
        self.shard(user).contains_key(user)
    }

    /// Does something with each of a user's sessions. `visit` must not come back here.
    pub fn each_of(&self, user: &str, visit: impl FnMut(&Arc<Handle>)) {
        if let Some(sessions) = self.shard(user).get(user) {
            sessions.iter().for_each(visit);
        }
    }

    /// Does something with every session. `visit` must not come back here.
    pub fn each(&self, mut visit: impl FnMut(&Arc<Handle>)) {
        for shard in &self.shards {
            lock(shard).values().flatten().for_each(&mut visit);
        }
    }

    /// The registered users of one of [`SHARDS`] shards, and what their sessions have confirmed since it was last
    /// saved.
    pub fn unsaved(&self, shard: usize) -> Vec<(UserId, Unsaved)> {
        let of_user = |(user, sessions): (&UserId, _)| Some((user.clone(), unsaved(sessions)?));
        lock(&self.shards[shard]).iter().filter_map(of_user).collect()
    }

    /// What a user's sessions have confirmed since it was last saved; none where no session is registered.
    pub fn unsaved_of(&self, user: &UserId) -> Option<Unsaved> {
        self.shard(user.as_str()).get(user).and_then(unsaved)
    }
}

fn unsaved(sessions: &Sessions) -> Option<Unsaved> {
    let of_session = |session: &Arc<Handle>| Some((session.clone(), session.unsaved()?));
    let registered = sessions.iter().any(|session| session.order() != 0);
    registered.then(|| sessions.iter().filter_map(of_session).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(client: &str) -> Arc<Handle> {
        Arc::new(Handle::new("u".parse().unwrap(), client.parse().unwrap()))
    }

    #[test]
    fn only_the_very_session_that_was_put_in_is_taken_out() {
        let registry = Registry::default();
        let (old, new, other) = (handle("a"), handle("a"), handle("b"));
        assert!(registry.insert(old.clone()).is_none());
        assert!(Arc::ptr_eq(&registry.insert(new.clone()).unwrap(), &old));
        assert!(registry.remove(&old, || ()).is_none(), "its place is another's");
        registry.insert(other.clone());
        assert_eq!(registry.len(), 2);
        assert!(registry.remove(&new, || ()).is_some());
        assert!(registry.has("u"));
        assert!(registry.remove(&other, || ()).is_some());
        assert!(registry.is_empty() && !registry.has("u"));
    }

    #[test]
    fn a_place_is_given_back_only_by_who_has_it() {
        let registry = Registry::default();
        let (old, new, newest) = (handle("a"), handle("a"), handle("a"));
        registry.insert(old.clone());
        registry.insert(new.clone());
        assert!(registry.restore(&new, old.clone()));
        registry.insert(newest.clone());
        assert!(!registry.restore(&new, old));
        assert!(registry.remove(&newest, || ()).is_some());
    }

    #[test]
    fn no_place_is_given_back_to_a_session_that_has_ended_meanwhile() {
        let registry = Registry::default();
        let (old, new) = (handle("a"), handle("a"));
        registry.insert(old.clone());
        registry.insert(new.clone());
        old.end();
        assert!(registry.remove(&old, || ()).is_none());
        assert!(!registry.restore(&new, old), "nobody would take it out again");
        assert!(registry.remove(&new, || ()).is_some());
        assert!(registry.is_empty());
    }
}
