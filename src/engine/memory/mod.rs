//! The engine for one node alone: the log, sessions and positions in this process's memory.
//!
//! It keeps the words of [`Engine`] as the Redis engine does, with one difference that follows from where the
//! truth is: it ends with the process, and nothing outside can read `uplink` or `presence`.
//!
//! Events go through a lane, as there; all else is done at once.

mod context;
mod lane;
mod traces;
mod user;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::engine::status::{NodeStatus, Status};
use crate::engine::{
    Answer, Claim, Connect, Connected, Disconnect, Engine, Event, Lag, LeaseState, Leaving, MOST_EVENTS,
    Node, NodeInfo, Published, Slots, Uplink, UserLease,
};
use crate::id::{ClientId, EventId, EventName, NodeId, UserId};
use crate::protocol::publish::Data;
use crate::trace::{Traced, Tracer};
use context::Context;
use lane::{Lane, Op};

/// What the engine needs to know of the settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's id.
    pub node: NodeId,
    /// Where clients reach this node.
    pub client_url: String,
    /// Where workers reach it.
    pub worker_url: String,
    /// How long a log outlives its last event.
    pub log_ttl: Duration,
    /// Events kept per user.
    pub log_length: usize,
    /// Sessions of one user.
    pub max_sessions_per_user: usize,
}

#[cfg(test)]
impl Config {
    /// A small one, for tests.
    pub fn of_tests() -> Self {
        Self {
            node: "n".parse().unwrap(),
            client_url: String::new(),
            worker_url: String::new(),
            log_ttl: Duration::from_secs(600),
            log_length: 8,
            max_sessions_per_user: 1,
        }
    }
}

/// The engine.
pub struct MemoryEngine {
    context: Arc<Context>,
    /// The lane of events, once there is a node that is told of them.
    events: OnceLock<mpsc::Sender<Op>>,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new(config: Config) -> Self {
        Self { context: Arc::new(Context::new(config)), events: OnceLock::new() }
    }

    /// Waits until what is queued by now is done.
    fn worked_off(&self) -> impl Future<Output = ()> + Send + 'static {
        let lane = self.events.get().cloned();
        async move {
            let Some(lane) = lane else { return };
            let (done, is_done) = oneshot::channel();
            if lane.send(Op::Done(done)).await.is_ok() {
                let _ = is_done.await; // an error: nothing is left either
            }
        }
    }
}

fn ready<T: Send + 'static>(value: T) -> Answer<T> {
    Answer::now(Ok(value))
}

impl Engine for MemoryEngine {
    fn connect(&self, connect: Connect) -> Answer<Connected> {
        ready(self.context.register(&connect))
    }

    fn disconnect(&self, disconnect: Disconnect) -> Answer<()> {
        self.context.with(|state| {
            let Some(user) = state.users.get_mut(&disconnect.user) else { return };
            if user.sessions.remove(&disconnect.client) {
                state.sessions -= 1;
            }
            user.confirm(disconnect.confirmed.map(|confirmed| (disconnect.client, confirmed)));
            user.expires = user.expires.max(Instant::now() + self.context.config.log_ttl);
        });
        ready(())
    }

    fn publish(&self, event: Event) -> Answer<Published> {
        match self.events.get() {
            Some(lane) => Answer::queued(lane, |answer| Op::Publish(event, answer)),
            None => ready(self.context.append(event)),
        }
    }

    fn broadcast(&self, event: EventName, data: Data) -> Answer<Vec<NodeId>> {
        match self.events.get() {
            Some(lane) => Answer::queued(lane, |answer| Op::Broadcast(event, data, answer)),
            None => ready(vec![self.context.config.node.clone()]),
        }
    }

    fn heartbeat(&self, leases: Vec<UserLease>) -> Answer<Vec<LeaseState>> {
        let states = self.context.with(|state| {
            let mut states = Vec::with_capacity(leases.len());
            for lease in leases {
                states.push(match state.users.get_mut(&lease.user) {
                    Some(user) if !user.sessions.is_empty() => {
                        user.confirm(lease.confirmed);
                        LeaseState::Renewed { newest: user.last, lost: EventId::ZERO }
                    }
                    _ => LeaseState::Lost,
                });
            }
            states
        });
        ready(states)
    }

    fn uplink(&self, message: Uplink) -> Answer<()> {
        let (user, client, event) = (message.user, message.client, message.event);
        // Once aloud: whoever tries messages upward must find out where they go.
        if self.context.dropped_message.swap(true, Ordering::Relaxed) {
            debug!(%user, %client, %event, "a client's message was dropped");
        } else {
            warn!(%user, %client, %event, "a client's message was dropped, as all will be: `uplink` needs Redis");
        }
        ready(())
    }

    fn sessions(&self, user: UserId) -> Answer<Vec<(ClientId, NodeId)>> {
        ready(self.context.with(|state| {
            let sessions = state.users.get(&user).into_iter().flat_map(|user| &user.sessions);
            sessions.map(|client| (client.clone(), self.context.config.node.clone())).collect()
        }))
    }

    fn online(&self, mut users: Vec<UserId>) -> Answer<Vec<UserId>> {
        self.context.with(|state| {
            users.retain(|user| state.users.get(user).is_some_and(|user| !user.sessions.is_empty()));
        });
        ready(users)
    }

    fn sign_out(&self, user: UserId, client: Option<ClientId>) -> Answer<()> {
        if let Some(node) = self.context.node.get() {
            node.sign_out(user.as_str(), client.as_ref().map(ClientId::as_str));
        }
        ready(())
    }

    fn nodes(&self) -> Answer<Vec<NodeInfo>> {
        let sessions = self.context.with(|state| state.sessions);
        ready(vec![self.context.info(sessions)])
    }

    fn lag(&self) -> Answer<Lag> {
        ready(Lag { inbox: Some(0), ingress: Some(0) }) // there is neither an inbox nor an ingress stream
    }

    fn tracer(&self) -> &Tracer {
        &self.context.tracer
    }

    fn trace(&self, user: UserId, long: Option<Duration>) -> Answer<Option<EventId>> {
        let followed = match long {
            Some(long) => self.context.tracer.follow(user, Instant::now() + long),
            None => {
                self.context.tracer.leave(&user);
                true
            }
        };
        ready(followed.then(|| EventId { ms: self.context.now_ms() - 1, seq: 0 }))
    }

    fn traces(&self, user: UserId, after: EventId) -> Answer<Vec<Traced>> {
        ready(self.context.read_traces(&user, after))
    }

    fn status(&self) -> Answer<Status> {
        let (sessions, users) = self.context.with(|state| {
            let online = state.users.values().filter(|user| !user.sessions.is_empty());
            (state.sessions, online.count())
        });
        let info = self.context.info(sessions);
        let mut node = NodeStatus::new(info.node_id.clone(), Some(info));
        node.users = Some(users as u64);
        ready(Status { time: self.context.now_ms(), nodes: Some(vec![node]), streams: None })
    }

    fn claim(&self) -> Answer<Claim> {
        ready(Claim::Held)
    }

    fn beat(&self, _sessions: usize, _users: usize) -> Answer<bool> {
        ready(true)
    }

    fn drain(&self, _leaving: Leaving) -> Answer<Slots> {
        // What was published before they are sent away goes out first: there is no log where they could come back for it.
        let worked_off = self.worked_off();
        Answer::of(async move {
            worked_off.await;
            Ok(Slots::default()) // nobody stays who could be flooded
        })
    }

    fn release(&self) -> Answer<()> {
        let worked_off = self.worked_off();
        Answer::of(async move {
            worked_off.await;
            Ok(())
        })
    }

    fn clear_up(&self) -> Answer<bool> {
        let now = Instant::now();
        self.context.with(|state| {
            state.users.retain(|_, user| !user.sessions.is_empty() || user.expires > now);
            state.traces.lapse();
        });
        ready(false)
    }

    fn sign_of_life(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn is_up(&self) -> bool {
        true
    }

    fn masters_away(&self) -> usize {
        0
    }

    fn warning(&self) -> Option<String> {
        None
    }

    fn suspected(&self) -> BoxFuture<'static, ()> {
        future::pending().boxed()
    }

    fn start(&self, node: Arc<dyn Node>) -> Vec<JoinHandle<()>> {
        if self.context.node.set(node.clone()).is_err() {
            return Vec::new(); // started before
        }
        let (lane, ops) = mpsc::channel(MOST_EVENTS);
        let events = tokio::spawn(Lane::new(self.context.clone(), node).run(ops));
        let _ = self.events.set(lane); // the first, as the node is
        vec![events, tokio::spawn(traces::keep(self.context.clone()))]
    }

    fn stop_ingress(&self) -> BoxFuture<'static, ()> {
        future::ready(()).boxed() // there is none
    }
}
