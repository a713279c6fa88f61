//! The link to Redis, wherever it is: one server, the master that Sentinels name, the masters of a Cluster. Commands
//! and scripts are the same; what differs is where each of them goes.
//!
//! One failure makes the link suspect: from then on every operation is refused at once, until the lease loop has
//! shown that Redis is there and still knows this node. So nothing is accepted by a Redis that came back without its
//! data, and callers hear of an outage within a moment instead of one timeout each. On a Cluster that holds for each
//! master apart, and for the link as a whole where the node's own keys are on the master that failed.
//!
//! What is trusted ends with the node's lease, by its own clock. A process that was frozen finds that over before it has
//! asked anything: its id may be another process's by now, whose sessions have the same names as its own, and no script
//! could tell them apart, because whose the id is stands in another slot than a user's keys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::connection::Topology;
use super::home::{Dedicated, moved};
use super::keys::Keys;
use super::map::Map;
use super::reply;
use super::sentinel::Sentinels;
use super::server::{Options, Place, Server};
use super::slot::Slot;
use super::wire::{Outcome, Returned, has_moved, outage};
use crate::engine::Unavailable;
use crate::lease::Deadline;
use crate::lock::lock;

enum Servers {
    One(Arc<Server>),
    Cluster(Box<Cluster>),
}

/// The link to Redis.
pub struct Link {
    servers: Servers,
    up: AtomicBool,
    /// When the node's lease ends.
    lease_end: Deadline,
    /// Since when it is suspected, and what went wrong first.
    suspicion: Mutex<Option<(Instant, RedisError)>>,
    suspected: Notify,
    doubts: Arc<Notify>,
}

/// Users of whom the newest events may be missing.
pub enum Doubt {
    /// Everyone.
    All,
    /// Those on these masters of a Cluster.
    On(Arc<Map>, Vec<String>),
}

impl Doubt {
    /// Whether it is about a key in this slot.
    pub fn concerns(&self, slot: Slot) -> bool {
        match self {
            Self::All => true,
            Self::On(map, names) => names.iter().any(|name| map.is_on(slot, name)),
        }
    }
}

impl Link {
    /// A link to Redis as it is set up. `home` is one of the node's own keys. Opens no connection yet.
    pub fn new(topology: Topology, options: Options, keys: &Keys, home: &str) -> Self {
        let doubts = options.doubts.clone();
        let one = |place| Servers::One(Arc::new(Server::new("Redis", place, options.clone())));
        let servers = match topology {
            Topology::Server(info) => one(Place::Fixed(info)),
            Topology::Sentinel { sentinels, name, master } => {
                one(Place::Sentinel(Sentinels::new(sentinels, name, master, options.login.clone())))
            }
            Topology::Cluster(seeds) => {
                let home = Slot::of(home.as_bytes());
                Servers::Cluster(Box::new(Cluster::new(seeds, options, keys.clone(), home)))
            }
        };
        let (up, lease_end) = (AtomicBool::new(false), Deadline::default());
        Self { servers, up, lease_end, suspicion: Mutex::default(), suspected: Notify::new(), doubts }
    }

    /// What has to go on beside the link for as long as it is used.
    pub async fn keep(&self) {
        match &self.servers {
            Servers::Cluster(cluster) => cluster.keep().await,
            Servers::One(server) => loop {
                server.moved().await;
                server.suspect();
                self.suspect(&moved());
            },
        }
    }

    /// Whether Redis is there and knows this node, as far as is known.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// The lease loop has shown that Redis is there and knows this node, until then. For how long it was suspected, and what
    /// went wrong first, if anything did.
    pub fn trust(&self, lease_end: Instant) -> Option<(Duration, RedisError)> {
        let suspicion = lock(&self.suspicion).take();
        self.lease_end.set(lease_end);
        self.up.store(true, Ordering::Release);
        suspicion.map(|(since, error)| (since.elapsed(), error))
    }

    /// Whether the node's lease is over, by its own clock or because it was lost: its id, and its inbox, may be another
    /// process's by now.
    pub fn lease_is_over(&self) -> bool {
        self.lease_end.is_over()
    }

    /// Something went wrong: refuse everything until [`Link::trust`].
    fn suspect(&self, error: &RedisError) {
        if self.up.swap(false, Ordering::AcqRel) {
            *lock(&self.suspicion) = Some((Instant::now(), error.clone()));
        }
        self.suspected.notify_one();
    }

    /// A connection to where `key` is broke: what is there has to be looked at.
    pub fn broke(&self, key: &str, error: &RedisError) {
        match &self.servers {
            Servers::One(server) => {
                server.suspect();
                self.suspect(error);
            }
            Servers::Cluster(cluster) if has_moved(error) => cluster.redraw(),
            Servers::Cluster(cluster) => {
                if cluster.map().owner(Slot::of(key.as_bytes())).is_some_and(|server| cluster.suspect(server))
                {
                    self.suspect(error);
                }
            }
        }
    }

    /// Redis does not know this node any more: refuse everything until [`Link::trust`].
    pub fn distrust(&self) {
        self.up.store(false, Ordering::Release);
        self.lease_end.clear();
    }

    /// Waits until the link is suspected.
    pub async fn suspected(&self) {
        self.suspected.notified().await;
    }

    /// Waits until another process has taken a server's place, which may lack what was written last.
    pub async fn doubted(&self) -> Doubt {
        loop {
            self.doubts.notified().await;
            match &self.servers {
                Servers::One(server) if server.was_doubted() => return Doubt::All,
                Servers::One(_) => {}
                Servers::Cluster(cluster) => {
                    let (names, map) = (cluster.doubted(), cluster.map());
                    if names.iter().any(|name| map.is_on(cluster.home(), name)) {
                        return Doubt::All; // hints for anyone may have been lost with this node's inbox
                    }
                    if !names.is_empty() {
                        return Doubt::On(map, names);
                    }
                }
            }
        }
    }

    /// A key's slot: what has the same may go into one script call.
    pub fn slot(&self, key: impl FnOnce() -> String) -> Slot {
        match &self.servers {
            Servers::One(_) => Slot::default(),
            Servers::Cluster(_) => Slot::of(key().as_bytes()),
        }
    }

    /// How many masters share the work.
    pub fn masters(&self) -> usize {
        match &self.servers {
            Servers::One(_) => 1,
            Servers::Cluster(cluster) => cluster.masters().max(1),
        }
    }

    /// How many masters of a Cluster do not answer, as far as is known.
    pub fn masters_away(&self) -> usize {
        match &self.servers {
            Servers::One(_) => 0,
            Servers::Cluster(cluster) => {
                cluster.map().servers.iter().filter(|server| !server.is_up()).count()
            }
        }
    }

    /// Whether keys are spread over several masters.
    pub fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster(_))
    }

    /// Unix ms after which the data where `key` is are known to be whole; none where nothing is known.
    pub fn whole_since(&self, key: &str) -> Option<u64> {
        match &self.servers {
            Servers::One(server) => server.whole_since(),
            Servers::Cluster(cluster) => cluster.map().owner(Slot::of(key.as_bytes()))?.whole_since(),
        }
    }

    /// Notes the Unix ms after which the data are known to be whole, where no master keeps a mark of that.
    pub fn set_whole_since(&self, ms: u64) {
        if let Servers::One(server) = &self.servers {
            server.set_whole_since(ms);
        }
    }

    /// Runs a pipeline where the link is trusted; each command has its own outcome.
    pub async fn run_each(&self, pipeline: &Pipeline) -> Vec<Returned> {
        self.trusted(pipeline, false).await
    }

    /// As [`Link::run_each`]; what too few replicas have in time counts as not done.
    pub async fn run_durably(&self, pipeline: &Pipeline) -> Vec<Returned> {
        self.trusted(pipeline, true).await
    }

    /// Runs a pipeline where the link is trusted.
    ///
    /// # Errors
    /// Where Redis is away, or refuses any of the commands.
    pub async fn run(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Unavailable> {
        self.run_each(pipeline).await.into_iter().collect()
    }

    /// Runs one command where the link is trusted.
    ///
    /// # Errors
    /// As [`Link::run`].
    pub async fn run_one(&self, command: Cmd) -> Returned {
        first(self.run_each(&single(command)).await)
    }

    /// Runs one command, and then others of which it must not come later. On a Cluster that takes two steps; one server
    /// does as it is told in one, and does the others even where it refuses the first: what came of that is told apart.
    pub async fn run_after(&self, command: Cmd, then: Vec<Cmd>) -> (Returned, Vec<Returned>) {
        let count = then.len();
        let (mut before, mut after) = (single(command), redis::pipe());
        let together = if self.is_cluster() { &mut after } else { &mut before };
        for command in then {
            together.add_command(command);
        }
        let mut answers = self.run_each(&before).await;
        let rest = answers.split_off(1);
        match first(answers) {
            answer if after.is_empty() => (answer, rest),
            Ok(answer) => (Ok(answer), self.run_each(&after).await),
            Err(error) => (Err(error.clone()), vec![Err(error); count]),
        }
    }

    /// Runs one command whether the link is trusted or not, as the lease loop must.
    ///
    /// # Errors
    /// Where Redis is away, or refuses the command.
    pub async fn probe_one(&self, command: Cmd) -> Returned {
        first(self.probe_each(&single(command)).await)
    }

    /// Runs a pipeline whether the link is trusted or not; each command has its own outcome.
    pub async fn probe_each(&self, pipeline: &Pipeline) -> Vec<Returned> {
        self.each(pipeline, false).await
    }

    /// The clock where `key` is, Unix µs.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn clock(&self, key: &str) -> Result<i64, Unavailable> {
        let mut time = redis::pipe();
        time.cmd("TIME");
        let outcome = match &self.servers {
            Servers::One(_) => first(self.run_each(&time).await),
            Servers::Cluster(cluster) => match cluster.owner(Slot::of(key.as_bytes())).await {
                Ok(server) => first(told(server.send(&time, false).await).collect()),
                Err(error) => Err(error.into()),
            },
        };
        reply::time(outcome?)
    }

    /// Whether anything is run at all where the link has to be trusted.
    ///
    /// # Errors
    /// Where Redis is away, or the lease is over: with these words everything is refused.
    pub fn is_trusted(&self) -> Result<(), Unavailable> {
        if !self.is_up() {
            return Err(Unavailable::new("Redis is away"));
        }
        if self.lease_is_over() {
            return Err(Unavailable::new("this node's lease has run out"));
        }
        Ok(())
    }

    async fn trusted(&self, pipeline: &Pipeline, durable: bool) -> Vec<Returned> {
        match self.is_trusted() {
            Ok(()) => self.each(pipeline, durable).await,
            Err(refused) => vec![Err(refused); pipeline.len()],
        }
    }

    async fn each(&self, pipeline: &Pipeline, durable: bool) -> Vec<Returned> {
        // Nothing is asked: redis-rs calls that an error, and the pool would take its connection for broken.
        if pipeline.is_empty() {
            return Vec::new();
        }
        let outcomes = match &self.servers {
            Servers::One(server) => {
                let outcomes = server.send(pipeline, durable).await;
                if let Some(error) = outage(&outcomes) {
                    server.suspect();
                    self.suspect(error);
                }
                outcomes
            }
            Servers::Cluster(cluster) => {
                let (outcomes, home_failed) = cluster.send(pipeline, durable).await;
                if let Some(error) = home_failed {
                    self.suspect(&error);
                }
                outcomes
            }
        };
        told(outcomes).collect()
    }

    /// Runs one command on every master, whether the link is trusted or not.
    pub async fn probe_all(&self, command: Cmd) -> Vec<Returned> {
        let pipeline = single(command);
        match &self.servers {
            Servers::One(_) => self.probe_each(&pipeline).await,
            Servers::Cluster(cluster) => {
                let map = cluster.map();
                let answers = map.servers.iter().map(|server| server.send(&pipeline, false));
                join_all(answers).await.into_iter().flat_map(told).collect()
            }
        }
    }

    /// A connection of its own to where `key` is, for a reader that blocks.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn dedicated(&self, key: &str) -> Result<Dedicated, Unavailable> {
        Ok(match &self.servers {
            Servers::One(server) => server.dedicated().await?,
            Servers::Cluster(cluster) => cluster.owner(Slot::of(key.as_bytes())).await?.dedicated().await?,
        })
    }
}

fn told(outcomes: Vec<Outcome>) -> impl Iterator<Item = Returned> {
    outcomes.into_iter().map(|outcome| outcome.map_err(Unavailable::from))
}

fn single(command: Cmd) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.add_command(command);
    pipeline
}

fn first(outcomes: Vec<Returned>) -> Returned {
    outcomes.into_iter().next().unwrap_or_else(|| Err(Unavailable::new("Redis gave no answer")))
}
