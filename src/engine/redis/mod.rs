//! The engine for any number of nodes: Redis holds the truth, Lua scripts keep it.
//!
//! | file | what it is |
//! |---|---|
//! | `keys` | every key name |
//! | `scripts`, `reply` | `lua/`, embedded; reading what it returns |
//! | `appender` | adds to the ingress stream from outside: for the load generator |
//! | `connection`, `sentinel`, `home`, `map` | where Redis is: addresses, Sentinels, the master that they name, a Cluster's slots |
//! | `link`, `server`, `known`, `cluster`, `wire` | pools, dedicated connections, up or away; each command to its master |
//! | `batch`, `slot` | what goes to Redis at once; what may go into one script call |
//! | `lane` | micro-batches: what waits goes out together, in order per user |
//! | `sessions`, `publish` | the scripts' arguments and answers, for a batch |
//! | `broadcast` | what goes to every client |
//! | `presence`, `uplink` | the edges that scripts note, told on the stream; what clients send up |
//! | `inbox`, `done`, `ingress`, `lead`, `entry`, `reads`, `turns` | the streams this node reads |
//! | `pulse` | notices that the inbox's reader has died, and starts another |
//! | `node`, `beside`, `deaths` | the node's own lease; what goes on beside it; clearing up after others |
//! | `doubts` | what is done where another server has taken over, or came back |
//! | `format` | whether nodes of other releases may serve beside this one |
//! | `drain`, `eviction` | when clients of leaving nodes come back; whether Redis may throw keys away |
//! | `broken`, `refused` | users whose keys somebody has written over; what else Redis refuses |
//! | `status`, `who`, `traces` | how everything stands; where users are, and signing them out; following one |

pub mod appender;
mod batch;
mod beside;
mod broadcast;
mod broken;
mod cluster;
pub mod connection;
mod deaths;
mod done;
#[doc(hidden)]
pub mod doors;
mod doubts;
mod drain;
mod entry;
mod eviction;
mod format;
mod home;
mod inbox;
mod ingress;
mod keys;
mod known;
mod lane;
mod lead;
mod link;
mod map;
mod node;
mod presence;
mod publish;
mod pulse;
mod reads;
mod refused;
mod reply;
mod scripts;
mod sentinel;
mod server;
mod sessions;
mod slot;
mod status;
mod traces;
mod turns;
mod uplink;
mod who;
mod wire;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use crate::engine::status::Status;
use crate::engine::{
    Answer, Claim, Connect, Connected, Disconnect, Engine, Event, Lag, LeaseState, Leaving, MOST_EVENTS,
    Node, NodeInfo, Published, Reply, Slots, Unavailable, Uplink, UserLease,
};
use crate::id::{ClientId, EventId, EventName, NodeId, UserId};
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::ms::ms;
use crate::protocol::publish::Data;
use crate::retold::Retold;
use crate::trace::{Traced, Tracer};
use connection::{Login, Topology};
use keys::Keys;
use lane::{MOST_SESSIONS, Op, Publishing};
use link::Link;
use server::{Options, Wait};

pub use keys::is_taken;
pub use scripts::NAMES as SCRIPTS;

/// What the engine needs to know of the settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's id.
    pub node: NodeId,
    /// This process's id, a ULID: tells it from others with the same node id.
    pub boot: String,
    /// Where clients reach this node.
    pub client_url: String,
    /// Where workers reach it.
    pub worker_url: String,
    /// Put before every key.
    pub key_prefix: String,
    /// Most pooled connections, to each master.
    pub pool_size: u32,
    /// Replicas that must have an event before it counts as published; 0 asks none.
    pub wait_replicas: u32,
    /// How long they may take.
    pub wait_timeout: Duration,
    /// The ingress streams.
    pub ingress: Vec<String>,
    /// How long a user's keys outlive the last heartbeat.
    pub session_ttl: Duration,
    /// How long a node counts as alive after its last heartbeat.
    pub node_ttl: Duration,
    /// How long a log outlives its last event.
    pub log_ttl: Duration,
    /// Events kept per user.
    pub log_length: usize,
    /// Sessions of one user, over all nodes.
    pub max_sessions_per_user: usize,
    /// Entries kept on `uplink`, `presence` and `events:dead`.
    pub uplink_length: usize,
    /// Largest event.
    pub max_event: usize,
    /// Clients a second that one node takes from nodes that leave.
    pub drain_rate: u64,
}

/// What the engine's parts share.
struct Context {
    config: Config,
    keys: Keys,
    link: Link,
    turns: turns::Turns,
    /// Questions about who is online that are asked at once: they take half of a pool's connections.
    single: Semaphore,
    metrics: Arc<Metrics>,
    node: OnceLock<Arc<dyn Node>>,
    /// Whose hints could not be sent, though their events are in the logs.
    unsent: Mutex<publish::Unsent>,
    /// Tells that `presence` takes nothing.
    untold: Mutex<presence::Untold>,
    /// Tells of what is not logged and did not reach a node.
    missed: Mutex<Retold>,
    claims: node::Claims,
    tracer: Tracer,
    pulse: pulse::Pulse,
    deaths: deaths::Deaths,
    beside: beside::Beside,
    broken: broken::Broken,
    refused: refused::Refused,
    eviction: eviction::Eviction,
    /// Asks for the sessions that Redis has on this node.
    listing: Notify,
    /// The lane of sessions, for as long as the engine is there.
    lane: mpsc::WeakSender<Op>,
}

impl Context {
    fn node(&self) -> Option<&dyn Node> {
        self.node.get().map(Arc::as_ref)
    }
}

/// The engine.
pub struct RedisEngine {
    context: Arc<Context>,
    /// The lane of events.
    events: mpsc::Sender<Publishing>,
    /// The lane of sessions' beginnings and ends.
    sessions: mpsc::Sender<Op>,
    /// The lane of what clients send up.
    messages: mpsc::Sender<(Uplink, Reply<()>)>,
    /// The lanes' tasks, until the engine is started.
    lanes: Mutex<Vec<JoinHandle<()>>>,
    /// Whether the ingress streams are wanted; each of their readers holds a receiver for as long as it reads.
    ingress: watch::Sender<bool>,
}

impl RedisEngine {
    /// An engine on Redis as it is set up. Connects to nothing yet; must be called within a tokio runtime.
    pub fn new(topology: Topology, login: Arc<Login>, config: Config, metrics: Arc<Metrics>) -> Self {
        let keys = Keys::new(&config.key_prefix, matches!(topology, Topology::Cluster(_)));
        // A call that waits for replicas keeps its connection for as long. Others find as many as without: the lane of
        // events has one for that, and each reader of an ingress stream.
        let waiting = if config.wait_replicas > 0 { 1 + config.ingress.len() as u32 } else { 0 };
        let options = Options {
            pool_size: config.pool_size + waiting,
            wait: Wait { replicas: config.wait_replicas, timeout: config.wait_timeout },
            timer: Arc::new(scripts::Timer::new(&metrics)),
            doubts: Arc::default(),
            login,
        };
        let ((events, published), (sessions, ops)) =
            (mpsc::channel(MOST_EVENTS), mpsc::channel(MOST_SESSIONS));
        let (messages, sent) = mpsc::channel(MOST_SESSIONS);
        let context = Arc::new(Context {
            link: Link::new(topology, options, &keys, &keys.node(config.node.as_str())),
            keys,
            turns: turns::Turns::default(),
            single: Semaphore::new((config.pool_size as usize / 2).max(1)),
            metrics,
            node: OnceLock::new(),
            unsent: Mutex::default(),
            untold: Mutex::default(),
            missed: Mutex::default(),
            claims: node::Claims::default(),
            tracer: Tracer::default(),
            pulse: pulse::Pulse::default(),
            deaths: deaths::Deaths::default(),
            beside: beside::Beside::default(),
            broken: broken::Broken::default(),
            refused: refused::Refused::default(),
            eviction: eviction::Eviction::default(),
            listing: Notify::new(),
            lane: sessions.downgrade(),
            config,
        });
        let lanes = Mutex::new(vec![
            tokio::spawn(lane::events(context.clone(), published)),
            tokio::spawn(lane::Sessions::new(context.clone()).run(ops)),
            tokio::spawn(uplink::lane(context.clone(), sent)),
        ]);
        Self { context, events, sessions, messages, lanes, ingress: watch::Sender::new(true) }
    }

    /// Answers, and notes it where Redis refuses `what` was asked.
    fn ask<T, F>(&self, what: &'static str, run: impl FnOnce(Arc<Context>) -> F) -> Answer<T>
    where
        F: Future<Output = Result<T, Unavailable>> + Send + 'static,
    {
        let (context, work) = (self.context.clone(), run(self.context.clone()));
        Answer::of(async move { context.refused.hear(what, work.await) })
    }

    /// The same, for a question that anyone may ask at any time: such questions wait for each other, so that all else finds
    /// a connection.
    fn in_turn<T, F>(&self, run: impl FnOnce(Arc<Context>) -> F + Send + 'static) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Unavailable>> + Send + 'static,
    {
        self.ask("to say who is online", |context| async move {
            let _turn = context.single.acquire().await;
            run(context.clone()).await
        })
    }
}

impl Engine for RedisEngine {
    fn connect(&self, connect: Connect) -> Answer<Connected> {
        Answer::queued(&self.sessions, |answer| Op::Connect(connect, answer))
    }

    fn disconnect(&self, disconnect: Disconnect) -> Answer<()> {
        Answer::queued(&self.sessions, |answer| Op::Disconnect(disconnect, answer))
    }

    fn publish(&self, event: Event) -> Answer<Published> {
        Answer::queued(&self.events, |answer| Publishing::Event(event, answer))
    }

    fn broadcast(&self, event: EventName, data: Data) -> Answer<Vec<NodeId>> {
        Answer::queued(&self.events, |answer| Publishing::Broadcast((event, data), answer))
    }

    fn heartbeat(&self, leases: Vec<UserLease>) -> Answer<Vec<LeaseState>> {
        self.ask("to renew leases on users", |context| async move {
            let outcomes = sessions::heartbeat(&context, &leases).await;
            if outcomes.iter().all(Result::is_err) {
                return outcomes.into_iter().collect();
            }
            Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or(LeaseState::Unknown)).collect())
        })
    }

    fn uplink(&self, message: Uplink) -> Answer<()> {
        Answer::queued(&self.messages, |answer| (message, answer))
    }

    fn sessions(&self, user: UserId) -> Answer<Vec<(ClientId, NodeId)>> {
        self.in_turn(|context| async move { who::of(&context, &user).await })
    }

    fn online(&self, users: Vec<UserId>) -> Answer<Vec<UserId>> {
        self.in_turn(|context| async move { who::online(&context, users).await })
    }

    fn sign_out(&self, user: UserId, client: Option<ClientId>) -> Answer<()> {
        self.ask("to sign out", |context| {
            let work = async move { who::sign_out(&context, &user, client.as_ref()).await };
            // Whoever hangs up must not leave it noted for the next connection, and the sockets open.
            let done = tokio::spawn(work);
            async move { done.await.unwrap_or_else(|error| Err(Unavailable::new(error.to_string()))) }
        })
    }

    fn nodes(&self) -> Answer<Vec<NodeInfo>> {
        self.ask("to list nodes", |context| async move { status::list(&context).await })
    }

    fn lag(&self) -> Answer<Lag> {
        self.ask("to look at lags", |context| async move { Ok(status::lag(&context).await) })
    }

    fn tracer(&self) -> &Tracer {
        &self.context.tracer
    }

    fn trace(&self, user: UserId, long: Option<Duration>) -> Answer<Option<EventId>> {
        self.ask("to follow a user", move |context| async move { traces::follow(&context, user, long).await })
    }

    fn traces(&self, user: UserId, after: EventId) -> Answer<Vec<Traced>> {
        self.ask("to follow a user", move |context| async move { traces::read(&context, &user, after).await })
    }

    fn status(&self) -> Answer<Status> {
        self.ask("to show the status", |context| async move { status::status(&context).await })
    }

    fn claim(&self) -> Answer<Claim> {
        let context = self.context.clone();
        Answer::of(async move { refused::named_in(&context, node::claim(&context).await).await })
    }

    fn beat(&self, sessions: usize, users: usize) -> Answer<bool> {
        let on = self.context.clone();
        Answer::of(async move { refused::named_in(&on, node::beat(&on, sessions, users).await).await })
    }

    fn drain(&self, leaving: Leaving) -> Answer<Slots> {
        self.ask("to share the drain", move |context| async move { drain::take(&context, leaving).await })
    }

    fn release(&self) -> Answer<()> {
        let context = self.context.clone();
        Answer::of(async move { node::release(&context).await })
    }

    fn clear_up(&self) -> Answer<bool> {
        self.ask("to clear up after dead nodes", |context| async move { node::clear_up(&context).await })
    }

    fn sign_of_life(&self) -> Option<Duration> {
        self.context.pulse.last()
    }

    fn is_up(&self) -> bool {
        self.context.link.is_up()
    }

    fn masters_away(&self) -> usize {
        self.context.link.masters_away()
    }

    fn warning(&self) -> Option<String> {
        self.context.eviction.warning()
    }

    fn suspected(&self) -> BoxFuture<'static, ()> {
        let context = self.context.clone();
        async move { context.link.suspected().await }.boxed()
    }

    fn start(&self, node: Arc<dyn Node>) -> Vec<JoinHandle<()>> {
        let mut tasks = std::mem::take(&mut *lock(&self.lanes));
        if self.context.node.set(node).is_err() {
            return tasks; // started before
        }
        tasks.push(tokio::spawn(pulse::keep(self.context.clone())));
        tasks.push(tokio::spawn(eviction::watch(self.context.clone())));
        tasks.push(tokio::spawn(traces::write(self.context.clone())));
        let context = self.context.clone();
        tasks.push(tokio::spawn(async move { context.link.keep().await }));
        tasks.push(tokio::spawn(doubts::tell(self.context.clone())));
        tasks.push(tokio::spawn(doubts::list(self.context.clone())));
        for stream in self.context.config.ingress.clone() {
            tasks.push(tokio::spawn(ingress::read(self.context.clone(), stream, self.ingress.subscribe())));
        }
        tasks
    }

    fn stop_ingress(&self) -> BoxFuture<'static, ()> {
        self.ingress.send_replace(false);
        let ingress = self.ingress.clone();
        async move { ingress.closed().await }.boxed() // no receiver is left: no reader is
    }
}

#[cfg(test)]
mod tests;
