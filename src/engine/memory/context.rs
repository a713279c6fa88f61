//! What the engine's parts share: what it holds, and how an event gets in.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::time::Instant;

use super::Config;
use super::traces::Traces;
use super::user::{Entry, User};
use crate::engine::{Connect, Connected, Event, Mode, Node, NodeInfo, Published};
use crate::id::{EventId, Logged, UserId};
use crate::lock::lock;
use crate::ms::{ms, unix};
use crate::trace::Tracer;

#[derive(Default)]
pub(super) struct State {
    pub(super) users: HashMap<UserId, User>,
    pub(super) traces: Traces,
    order: u64,
    pub(super) sessions: usize,
}

/// What the engine holds.
pub(super) struct Context {
    pub(super) config: Config,
    state: Mutex<State>,
    pub(super) node: OnceLock<Arc<dyn Node>>,
    pub(super) tracer: Tracer,
    started: Instant,
    started_ms: u64,
    /// Whether a client's message has been dropped.
    pub(super) dropped_message: AtomicBool,
}

impl Context {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            state: Mutex::default(),
            node: OnceLock::new(),
            tracer: Tracer::default(),
            started: Instant::now(),
            started_ms: ms(unix()),
            dropped_message: AtomicBool::new(false),
        }
    }

    /// Unix ms; never goes back.
    pub(super) fn now_ms(&self) -> u64 {
        self.started_ms + ms(self.started.elapsed())
    }

    /// This node with so many sessions, as operators are told.
    pub(super) fn info(&self, sessions: usize) -> NodeInfo {
        NodeInfo {
            node_id: self.config.node.to_string(),
            sessions: sessions as u64,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started_ms,
            client_url: self.config.client_url.clone(),
            worker_url: self.config.worker_url.clone(),
        }
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }

    fn fresh(&self) -> User {
        // What was before, or lapsed with an older state of this user, is not known: it ends log-ttl ago.
        // Positions are told of the millisecond before, the first ones of that before the start.
        let known_ms = (self.started_ms - 2).max(self.now_ms().saturating_sub(ms(self.config.log_ttl)));
        User::new(known_ms, Instant::now() + self.config.log_ttl)
    }

    pub(super) fn register(&self, connect: &Connect) -> Connected {
        self.with(|state| {
            let clock = EventId { ms: self.now_ms() - 1, seq: 0 };
            state.order += 1;
            let order = state.order;
            let user = state.users.entry(connect.user.clone()).or_insert_with(|| self.fresh());
            user.lapse(|| self.fresh());
            let known = user.sessions.contains(&connect.client);
            if !known && connect.mode == Mode::New && user.sessions.len() >= self.config.max_sessions_per_user
            {
                return Connected::Full;
            }
            if user.sessions.insert(connect.client.clone()) {
                state.sessions += 1;
            }
            let newest = user.log.back().map(|entry| entry.id);
            let position = newest.unwrap_or(clock);
            let stored = user.cursors.get(&connect.client).copied();
            let confirmed = match connect.mode {
                Mode::New => stored.max(connect.confirmed),
                Mode::Resume { .. } => stored,
            };
            let from = connect.since.or(confirmed).unwrap_or(position);
            // Whose position was dropped within the log's time may have missed something; who is new is told so as well.
            let forgotten = connect.since.is_none()
                && confirmed.is_none()
                && user.dropped.is_some_and(|dropped| dropped.elapsed() < self.config.log_ttl);
            // What was not published cannot have arrived.
            let reached = confirmed.max(Some(from)).min(Some(position));
            if connect.mode == Mode::New && reached > stored {
                user.confirm(reached.map(|reached| (connect.client.clone(), reached)));
                user.drop_oldest_positions();
            } else if let (None, Some(confirmed)) = (stored, connect.confirmed) {
                user.confirm([(connect.client.clone(), confirmed)]);
            }
            let mut registration = user.read(from, &connect.client, connect.mode);
            registration.position = position;
            registration.order = order;
            let whole = from == position || user.is_whole(from, newest.unwrap_or(clock));
            registration.whole = whole && !forgotten;
            if !registration.more {
                registration.upto = registration.upto.max(position);
            }
            Connected::Registered(registration)
        })
    }

    /// For the lane alone: hints come in the order of the log.
    pub(super) fn append(&self, event: Event) -> Published {
        let (published, told) = self.with(|state| {
            let now = self.now_ms();
            let online = state.users.get(&event.user).is_some_and(|user| !user.sessions.is_empty());
            let nodes = if online { vec![self.config.node.clone()] } else { Vec::new() };
            let mut logged = None;
            if !event.transient {
                let user = state.users.entry(event.user.clone()).or_insert_with(|| self.fresh());
                user.lapse(|| self.fresh());
                if let Some(published) = event.key.as_ref().and_then(|key| user.published(key)) {
                    let published = Published { id: Some(published), nodes };
                    self.trace_published(&event, &published, true);
                    return (published, None);
                }
                let prev = user.last;
                let id = EventId { ms: now, seq: 0 }.max(prev.next());
                // One at most, and rarely far from the end.
                if event.collapse.is_some()
                    && let Some(older) = user.log.iter().rposition(|entry| entry.is_replaced_by(&event))
                {
                    user.log.remove(older);
                }
                user.log.push_back(Entry {
                    id,
                    client: event.client.clone(),
                    except: event.except.clone(),
                    event: event.event.clone(),
                    data: event.data.detached(),
                    collapse: event.collapse.clone(),
                });
                if let Some(key) = &event.key {
                    user.keys.insert(key.clone(), id);
                }
                while user.log.len() > self.config.log_length {
                    if let Some(trimmed) = user.log.pop_front() {
                        user.floor = user.floor.max(trimmed.id);
                        user.trimmed = true;
                    }
                }
                user.last = id;
                user.forget_old_keys(self.config.log_length);
                user.expires = Instant::now() + self.config.log_ttl;
                logged = Some(Logged { id, prev });
                tracing::debug!(user = %event.user, %id, "published");
            }
            let published = Published { id: logged.map(|logged| logged.id), nodes };
            self.trace_published(&event, &published, false);
            (published, online.then_some(logged))
        });
        // Not within the lock: who ends a session has that of the registry when it comes here.
        if let (Some(logged), Some(node)) = (told, self.node.get()) {
            node.hint(event.hint(logged));
        }
        published
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_in_the_first_millisecond_has_missed_nothing_later() {
        let context = Context::new(Config::of_tests());
        let (user, client) = ("u".parse().unwrap(), "c".parse().unwrap());
        let connect = Connect { user, client, mode: Mode::New, since: None, confirmed: None };
        let is_whole = || matches!(context.register(&connect), Connected::Registered(registration) if registration.whole);
        assert!(is_whole());
        advance(Duration::from_millis(5)).await;
        assert!(is_whole());
    }
}
