//! The engine for one node alone: the log, sessions and positions in this process's memory.
//!
//! It keeps the words of [`Engine`] as the Redis engine does, with one difference that follows from where the
//! truth is: it ends with the process, and nothing outside can read `uplink` or `presence`.

mod traces;
mod user;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use tokio::time::Instant;

use crate::engine::status::{NodeStatus, Status};
use crate::engine::{
    Answer, Claim, Connect, Connected, Disconnect, Engine, Event, Lag, LeaseState, Leaving, Mode, Node,
    NodeInfo, Published, Slots, Uplink, UserLease,
};
use crate::id::{ClientId, EventId, EventName, Logged, NodeId, UserId};
use crate::lock::lock;
use crate::protocol::publish::Data;
use crate::trace::{Traced, Tracer};
use traces::Traces;
use user::{Entry, User};

/// What the engine needs to know of the settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node, as it is told to operators.
    pub node: NodeInfo,
    /// The node's id.
    pub node_id: NodeId,
    /// How long a log outlives its last event.
    pub log_ttl: Duration,
    /// Events kept per user.
    pub log_length: usize,
    /// Sessions of one user.
    pub max_sessions_per_user: usize,
}

struct State {
    users: HashMap<UserId, User>,
    traces: Traces,
    order: u64,
    sessions: usize,
}

/// The engine.
pub struct MemoryEngine {
    config: Config,
    state: Mutex<State>,
    node: OnceLock<Arc<dyn Node>>,
    tracer: Tracer,
    started: Instant,
    started_ms: u64,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new(config: Config) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            config,
            state: Mutex::new(State {
                users: HashMap::new(),
                traces: Traces::default(),
                order: 0,
                sessions: 0,
            }),
            node: OnceLock::new(),
            tracer: Tracer::default(),
            started: Instant::now(),
            started_ms: u64::try_from(now.as_millis()).unwrap_or_default(),
        }
    }

    /// Unix ms; never goes back.
    fn now_ms(&self) -> u64 {
        self.started_ms + u64::try_from(self.started.elapsed().as_millis()).unwrap_or_default()
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }

    fn fresh(&self) -> User {
        // What was before, or lapsed with an older state of this user, is not known: it ends log-ttl ago.
        let known_ms = self.started_ms.max(self.now_ms().saturating_sub(ms(self.config.log_ttl)));
        User::new(known_ms, Instant::now() + self.config.log_ttl)
    }

    fn register(&self, connect: &Connect) -> Connected {
        let clock = EventId { ms: self.now_ms() - 1, seq: 0 };
        self.with(|state| {
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
            let confirmed = user.cursors.get(&connect.client).copied();
            let from = connect.since.or(confirmed).unwrap_or(position);
            // Whose position was dropped within the log's time may have missed something; who is new is told so as well.
            let forgotten = connect.since.is_none()
                && confirmed.is_none()
                && user.dropped.is_some_and(|dropped| dropped.elapsed() < self.config.log_ttl);
            if connect.mode == Mode::New && confirmed.is_none_or(|known| from > known) {
                user.cursors.insert(connect.client.clone(), from);
                user.drop_oldest_positions();
            } else if let (None, Some(confirmed)) = (confirmed, connect.confirmed) {
                user.cursors.insert(connect.client.clone(), confirmed);
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

    fn append(&self, event: Event) -> Published {
        let now = self.now_ms();
        self.with(|state| {
            let online = state.users.get(&event.user).is_some_and(|user| !user.sessions.is_empty());
            let nodes = if online { vec![self.config.node_id.clone()] } else { Vec::new() };
            let mut logged = None;
            if !event.transient {
                let user = state.users.entry(event.user.clone()).or_insert_with(|| self.fresh());
                user.lapse(|| self.fresh());
                if let Some(published) = event.key.as_ref().and_then(|key| user.published(key)) {
                    let published = Published { id: Some(published), nodes };
                    self.trace_published(&event, &published, true);
                    return published;
                }
                let prev = user.last;
                let id = EventId { ms: now, seq: 0 }.max(EventId { seq: prev.seq + 1, ..prev });
                if event.collapse.is_some() {
                    user.log.retain(|entry| entry.collapse != event.collapse);
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
            // Told within the lock, so that hints come in the order of the log.
            if let (true, Some(node)) = (online, self.node.get()) {
                node.hint(event.hint(logged));
            }
            published
        })
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ready<T: Send + 'static>(value: T) -> Answer<T> {
    Answer::now(Ok(value))
}

impl Engine for MemoryEngine {
    fn connect(&self, connect: Connect) -> Answer<Connected> {
        ready(self.register(&connect))
    }

    fn disconnect(&self, disconnect: Disconnect) -> Answer<()> {
        self.with(|state| {
            let Some(user) = state.users.get_mut(&disconnect.user) else { return };
            if user.sessions.remove(&disconnect.client) {
                state.sessions -= 1;
            }
            if let Some(confirmed) = disconnect.confirmed {
                let known = user.cursors.entry(disconnect.client).or_default();
                *known = confirmed.max(*known);
            }
            user.expires = user.expires.max(Instant::now() + self.config.log_ttl);
        });
        ready(())
    }

    fn publish(&self, event: Event) -> Answer<Published> {
        ready(self.append(event))
    }

    fn broadcast(&self, event: EventName, data: Data) -> Answer<Vec<NodeId>> {
        if let Some(node) = self.node.get() {
            node.broadcast(event.as_str(), data.as_str());
        }
        ready(vec![self.config.node_id.clone()])
    }

    fn heartbeat(&self, leases: Vec<UserLease>) -> Answer<Vec<LeaseState>> {
        let states = self.with(|state| {
            let mut states = Vec::with_capacity(leases.len());
            for lease in leases {
                states.push(match state.users.get_mut(&lease.user) {
                    Some(user) if !user.sessions.is_empty() => {
                        user.cursors.extend(lease.confirmed);
                        LeaseState::Renewed(user.last)
                    }
                    _ => LeaseState::Lost,
                });
            }
            states
        });
        ready(states)
    }

    fn uplink(&self, message: Uplink) -> Answer<()> {
        tracing::debug!(
            user = %message.user, client = %message.client, event = %message.event,
            "a client's message; in local mode nobody can read it"
        );
        ready(())
    }

    fn sessions(&self, user: UserId) -> Answer<Vec<(ClientId, NodeId)>> {
        ready(self.with(|state| {
            let sessions = state.users.get(&user).into_iter().flat_map(|user| &user.sessions);
            sessions.map(|client| (client.clone(), self.config.node_id.clone())).collect()
        }))
    }

    fn online(&self, mut users: Vec<UserId>) -> Answer<Vec<UserId>> {
        self.with(|state| {
            users.retain(|user| state.users.get(user).is_some_and(|user| !user.sessions.is_empty()));
        });
        ready(users)
    }

    fn sign_out(&self, user: UserId, client: Option<ClientId>) -> Answer<()> {
        if let Some(node) = self.node.get() {
            node.sign_out(user.as_str(), client.as_ref().map(ClientId::as_str));
        }
        ready(())
    }

    fn nodes(&self) -> Answer<Vec<NodeInfo>> {
        let mut node = self.config.node.clone();
        node.started = self.started_ms;
        node.sessions = self.with(|state| state.sessions as u64);
        ready(vec![node])
    }

    fn lag(&self) -> Answer<Lag> {
        ready(Lag::default()) // nothing waits between a publish and its hint
    }

    fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    fn trace(&self, user: UserId, long: Option<Duration>) -> Answer<Option<EventId>> {
        let followed = match long {
            Some(long) => self.tracer.follow(user, Instant::now() + long),
            None => {
                self.tracer.leave(&user);
                true
            }
        };
        ready(followed.then(|| EventId { ms: self.now_ms() - 1, seq: 0 }))
    }

    fn traces(&self, user: UserId, after: EventId) -> Answer<Vec<Traced>> {
        ready(self.read_traces(&user, after))
    }

    fn status(&self) -> Answer<Status> {
        let mut info = self.config.node.clone();
        info.started = self.started_ms;
        let users = self.with(|state| {
            info.sessions = state.sessions as u64;
            state.users.values().filter(|user| !user.sessions.is_empty()).count()
        });
        let node = NodeStatus { info, users: users as u64, inbox: None };
        ready(Status { time: self.now_ms(), nodes: vec![node], streams: None })
    }

    fn claim(&self) -> Answer<Claim> {
        ready(Claim::Held)
    }

    fn beat(&self, _sessions: usize) -> Answer<bool> {
        ready(true)
    }

    fn drain(&self, _leaving: Leaving) -> Answer<Slots> {
        ready(Slots::default()) // nobody stays who could be flooded
    }

    fn release(&self) -> Answer<()> {
        ready(())
    }

    fn clear_up(&self) -> Answer<bool> {
        let now = Instant::now();
        self.with(|state| state.users.retain(|_, user| !user.sessions.is_empty() || user.expires > now));
        ready(false)
    }

    fn sign_of_life(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn is_up(&self) -> bool {
        true
    }

    fn warning(&self) -> Option<String> {
        None
    }

    fn suspected(&self) -> BoxFuture<'static, ()> {
        future::pending().boxed()
    }

    fn start(&self, node: Arc<dyn Node>) {
        let _ = self.node.set(node); // a second start changes nothing
    }

    fn stop_ingress(&self) -> BoxFuture<'static, ()> {
        future::ready(()).boxed()
    }
}
