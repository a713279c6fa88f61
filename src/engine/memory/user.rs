//! What is kept of one user: sessions, log, positions, idempotency keys.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

use crate::engine::{Event, LogEvent, Mode, Registration};
use crate::id::{ClientId, CollapseKey, EventId, EventName, IdempotencyKey};
use crate::protocol::publish::Data;

/// What one session may hold in memory while it catches up: the same page as `lua/connect.lua` reads.
const PAGE_EVENTS: usize = 64;
const PAGE_BYTES: usize = 256 * 1024;
/// Positions of clients that are gone: so many are kept when there are more than so many of all, as there.
const KEPT_POSITIONS: usize = 512;
const MOST_POSITIONS: usize = 1024;
/// Beyond so much what is still to come is no longer counted.
const COUNT_BYTES: usize = 1024 * 1024;
/// As which an entry counts, however small it is.
const ENTRY: usize = 256;

pub(super) struct Entry {
    pub(super) id: EventId,
    pub(super) client: Option<ClientId>,
    pub(super) except: Option<ClientId>,
    pub(super) event: EventName,
    pub(super) data: Data,
    pub(super) collapse: Option<CollapseKey>,
}

impl Entry {
    /// Whether it has the collapse key of that event, and its target: who does not get the newer one must not lose the older
    /// one to it.
    pub(super) fn is_replaced_by(&self, event: &Event) -> bool {
        self.collapse.is_some()
            && self.collapse == event.collapse
            && self.client == event.client
            && self.except == event.except
    }

    fn is_for(&self, client: &ClientId) -> bool {
        self.client.as_ref().is_none_or(|only| only == client) && self.except.as_ref() != Some(client)
    }
}

pub(super) struct User {
    pub(super) sessions: BTreeSet<ClientId>,
    pub(super) log: VecDeque<Entry>,
    /// The newest id, as far as one is known.
    pub(super) last: EventId,
    /// Events up to this one may have left the log, other than for a newer one of their collapse key.
    pub(super) floor: EventId,
    /// The log as it is has lost its oldest events.
    pub(super) trimmed: bool,
    pub(super) cursors: HashMap<ClientId, EventId>,
    /// When positions were dropped last: a client without one may have had one.
    pub(super) dropped: Option<Instant>,
    /// What was published under each idempotency key, also where a newer event has taken its place in the log.
    pub(super) keys: HashMap<IdempotencyKey, EventId>,
    /// When all this lapses, where nobody is connected.
    pub(super) expires: Instant,
}

impl User {
    /// A user of whom nothing is known up to the end of `known_ms`.
    pub(super) fn new(known_ms: u64, expires: Instant) -> Self {
        Self {
            sessions: BTreeSet::new(),
            log: VecDeque::new(),
            last: EventId::ZERO,
            floor: EventId { ms: known_ms, seq: u64::MAX },
            trimmed: false,
            cursors: HashMap::new(),
            dropped: None,
            keys: HashMap::new(),
            expires,
        }
    }

    /// Forgets the log and the positions where their time is over.
    pub(super) fn lapse(&mut self, fresh: impl FnOnce() -> Self) {
        if self.sessions.is_empty() && self.expires <= Instant::now() {
            *self = fresh();
        }
    }

    /// Moves positions on, never back.
    pub(super) fn confirm(&mut self, confirmed: impl IntoIterator<Item = (ClientId, EventId)>) {
        for (client, confirmed) in confirmed {
            let known = self.cursors.entry(client).or_default();
            *known = confirmed.max(*known);
        }
    }

    /// Positions of clients that never come back must not pile up on a user who is always there.
    pub(super) fn drop_oldest_positions(&mut self) {
        if self.cursors.len() <= MOST_POSITIONS {
            return;
        }
        let mut gone: Vec<(EventId, ClientId)> = (self.cursors.iter())
            .filter(|(client, _)| !self.sessions.contains(*client))
            .map(|(client, position)| (*position, client.clone()))
            .collect();
        gone.sort_unstable();
        let surplus = gone.len().saturating_sub(KEPT_POSITIONS);
        for (_, client) in &gone[..surplus] {
            self.cursors.remove(client);
        }
        if surplus > 0 {
            self.dropped = Some(Instant::now());
        }
    }

    /// What was published under a key, unless the log has lost it other than to a newer one of its collapse key.
    pub(super) fn published(&self, key: &IdempotencyKey) -> Option<EventId> {
        self.keys.get(key).copied().filter(|id| *id > self.floor && !self.log.is_empty())
    }

    /// Keys of events that have left the log need not be remembered. Of those whose events were replaced there the oldest
    /// go, so that no more keys are left than the log is long, or has.
    pub(super) fn forget_old_keys(&mut self, log_length: usize) {
        if self.keys.len() <= 2 * log_length + 256 {
            return;
        }
        let in_log: HashSet<EventId> = self.log.iter().map(|entry| entry.id).collect();
        let oldest = self.log.front().map_or(EventId::ZERO, |entry| entry.id);
        self.keys.retain(|_, id| *id >= oldest);
        let mut replaced: Vec<EventId> =
            self.keys.values().copied().filter(|id| !in_log.contains(id)).collect();
        replaced.sort_unstable();
        let surplus = self.keys.len().saturating_sub(log_length).min(replaced.len());
        let gone: HashSet<EventId> = replaced[..surplus].iter().copied().collect();
        self.keys.retain(|_, id| !gone.contains(id));
    }

    /// Whether nothing after `since` has left the log, but for what a newer one of its collapse key replaced.
    pub(super) fn is_whole(&self, since: EventId, newest: EventId) -> bool {
        if since == EventId::ZERO {
            // All that is kept: whole where nothing has been cut off.
            return !self.trimmed;
        }
        since <= newest && (since >= self.floor || self.log.front().is_some_and(|oldest| oldest.id <= since))
    }

    /// One page of what is for `client` after `from`; a new connection is told how much there is beyond.
    pub(super) fn read(&self, from: EventId, client: &ClientId, mode: Mode) -> Registration {
        let mut page = Registration {
            position: from,
            from,
            whole: true,
            replayed: 0,
            upto: from,
            more: false,
            order: 0,
            knows: from,
            heard: EventId::ZERO,
            anew: false,
            events: Vec::new(),
        };
        let (mut bytes, mut counted) = (0, 0);
        for entry in self.log.iter().filter(|entry| entry.id > from) {
            let full = page.events.len() >= PAGE_EVENTS || bytes >= PAGE_BYTES;
            if full && counted > COUNT_BYTES {
                page.more = true;
                break;
            }
            counted += ENTRY + entry.data.as_bytes().len();
            if entry.is_for(client) {
                page.replayed += u64::from(!full || mode == Mode::New);
                if !full {
                    bytes += entry.data.as_bytes().len();
                    page.events.push(LogEvent {
                        id: entry.id,
                        event: entry.event.as_str().into(),
                        data: Bytes::copy_from_slice(entry.data.as_bytes()),
                    });
                }
            }
            if full {
                page.more = true;
            } else {
                page.upto = entry.id;
            }
        }
        page
    }
}
