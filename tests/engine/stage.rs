//! An engine with its node, and the questions that tests ask of it. One factory for both engines.

use std::sync::Arc;
use std::time::Duration;

use redis::FromRedisValue;
use switchboard::engine::memory::{self, MemoryEngine};
use switchboard::engine::redis::{Config, RedisEngine, SCRIPTS};
use switchboard::engine::{
    Claim, Connect, Connected, Disconnect, Engine, Event, LeaseState, Mode, Published, Registration, Told,
    UserLease,
};
use switchboard::id::{ClientId, EventId, NodeId, UserId};
use switchboard::metrics::Metrics;
use switchboard::metrics::clock::Clock;
use switchboard::protocol::publish::Data;

use crate::recorder::Recorder;
use crate::redis_server::RedisServer;

/// Which engine a case runs against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Redis,
}

/// Makes of each case a test against either engine.
#[macro_export]
macro_rules! on_both_engines {
    ($($case:ident),+ $(,)?) => { $(
        mod $case {
            use $crate::stage::Kind;

            #[tokio::test]
            async fn memory() {
                super::$case(Kind::Memory).await;
            }

            #[tokio::test]
            async fn redis() {
                super::$case(Kind::Redis).await;
            }
        }
    )+ };
}

/// What a case may want otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub log_ttl: Duration,
    pub log_length: usize,
    pub session_ttl: Duration,
    pub node_ttl: Duration,
    pub max_sessions: usize,
}

impl Default for Options {
    /// Times that no test reaches: leases are renewed only where a test does it.
    fn default() -> Self {
        let long = Duration::from_secs(600);
        Self { log_ttl: long, log_length: 256, session_ttl: long, node_ttl: long, max_sessions: 32 }
    }
}

/// A connection that is there resumes; nobody was signed out since.
pub const RESUME: Mode = Mode::Resume {
    order: u64::MAX,
    told: Told { event: EventId::ZERO, is_lost: false, knows: EventId::ZERO },
};

/// An engine that has claimed its id and tells a recorder.
pub struct Stage {
    pub kind: Kind,
    pub engine: Arc<dyn Engine>,
    pub node: Arc<Recorder>,
    pub id: NodeId,
    options: Options,
    server: Option<Arc<RedisServer>>,
    metrics: Option<Arc<Metrics>>,
}

impl Kind {
    /// An engine alone, with nothing in it.
    pub async fn stage(self) -> Stage {
        self.stage_with(Options::default()).await
    }

    /// The same, with other settings.
    pub async fn stage_with(self, options: Options) -> Stage {
        match self {
            Kind::Memory => {
                let id: NodeId = "node-1".parse().unwrap();
                let engine = Arc::new(MemoryEngine::new(memory::Config {
                    node: id.clone(),
                    client_url: "ws://clients".to_owned(),
                    worker_url: "ws://workers".to_owned(),
                    log_ttl: options.log_ttl,
                    log_length: options.log_length,
                    max_sessions_per_user: options.max_sessions,
                }));
                let stage = Stage {
                    kind: self,
                    engine,
                    node: Arc::default(),
                    id,
                    options,
                    server: None,
                    metrics: None,
                };
                stage.start().await;
                stage
            }
            Kind::Redis => {
                let stage = Stage::unclaimed(Arc::new(RedisServer::start()), "node-1", options);
                stage.start().await;
                stage
            }
        }
    }
}

impl Stage {
    fn unclaimed(server: Arc<RedisServer>, id: &str, options: Options) -> Self {
        let config = Config {
            node: id.parse().unwrap(),
            boot: ulid::Ulid::generate().to_string(),
            client_url: "ws://clients".to_owned(),
            worker_url: "ws://workers".to_owned(),
            key_prefix: String::new(),
            pool_size: 4,
            wait_replicas: 0,
            wait_timeout: Duration::from_millis(500),
            ingress: vec!["events".to_owned()],
            session_ttl: options.session_ttl,
            node_ttl: options.node_ttl,
            log_ttl: options.log_ttl,
            log_length: options.log_length,
            max_sessions_per_user: options.max_sessions,
            uplink_length: 1000,
            max_event: 1 << 20,
            drain_rate: 1000,
        };
        let id = config.node.clone();
        let metrics = Arc::new(Metrics::new(id.as_str(), SCRIPTS).unwrap());
        let engine = Arc::new(RedisEngine::new(server.topology(), Arc::default(), config, metrics.clone()));
        let (server, metrics) = (Some(server), Some(metrics));
        Self { kind: Kind::Redis, engine, node: Arc::default(), id, options, server, metrics }
    }

    async fn start(&self) {
        assert_eq!(self.engine.claim().await.unwrap(), Claim::Held);
        self.engine.start(self.node.clone());
        // No test is about an engine's very first moment.
        self.time_passes(Duration::from_millis(5)).await;
    }

    /// Another node on the same Redis.
    pub async fn another(&self, id: &str) -> Self {
        self.another_with(id, self.options).await
    }

    /// The same, with other settings.
    pub async fn another_with(&self, id: &str, options: Options) -> Self {
        let stage = self.another_process_with(id, options);
        stage.start().await;
        stage
    }

    /// Another process on the same Redis that has claimed nothing yet.
    pub fn another_process(&self, id: &str) -> Self {
        self.another_process_with(id, self.options)
    }

    /// The same, with other settings.
    pub fn another_process_with(&self, id: &str, options: Options) -> Self {
        Self::unclaimed(self.server.clone().unwrap(), id, options)
    }

    /// Another node, to which this one is dead: as after its lease has lapsed.
    pub async fn survivor(&self) -> Self {
        let survivor = self.another("node-2").await;
        let () = self.ask(&["DEL", &format!("node:{}", self.id)]);
        let () = self.ask(&["ZADD", "nodes", "1", self.id.as_str()]);
        survivor
    }

    /// The states that the presence stream tells, oldest first.
    pub fn edges(&self) -> Vec<String> {
        let told: Vec<(String, Vec<String>)> = self.ask(&["XRANGE", "presence", "-", "+"]);
        told.into_iter().map(|(_, fields)| fields[3].clone()).collect()
    }

    /// The same of one user.
    pub fn edges_of(&self, user: &str) -> Vec<String> {
        let told: Vec<(String, Vec<String>)> = self.ask(&["XRANGE", "presence", "-", "+"]);
        told.into_iter()
            .filter(|(_, fields)| fields[1] == user)
            .map(|(_, fields)| fields[3].clone())
            .collect()
    }

    /// Runs one command on the test's own connection to Redis.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word);
        }
        command.query(&mut self.server.as_ref().unwrap().db()).unwrap()
    }

    /// What the engine takes Redis' clock for.
    pub fn clock(&self) -> &Clock {
        &self.metrics.as_ref().unwrap().clock
    }

    /// Whether `presence` takes what it is told, as the engine knows.
    pub fn presence_is_up(&self) -> bool {
        self.metrics.as_ref().unwrap().presence_up.get() == 1
    }

    /// Lets time pass by the engine's own clock: of memory at once, of Redis by waiting for its clock.
    pub async fn time_passes(&self, span: Duration) {
        if self.kind == Kind::Memory {
            tokio::time::pause();
            tokio::time::advance(span).await;
            tokio::time::resume();
            return;
        }
        let now = || {
            let (seconds, micros): (u64, u64) = self.ask(&["TIME"]);
            Duration::from_secs(seconds) + Duration::from_micros(micros)
        };
        let end = now() + span;
        Recorder::eventually("Redis's clock going on", async || now() >= end).await;
    }

    pub async fn try_connect(
        &self,
        user: &UserId,
        client: &str,
        mode: Mode,
        since: Option<EventId>,
    ) -> Connected {
        let connect =
            Connect { user: user.clone(), client: client.parse().unwrap(), mode, since, confirmed: None };
        self.engine.connect(connect).await.unwrap()
    }

    async fn registered(
        &self,
        user: &UserId,
        client: &str,
        mode: Mode,
        since: Option<EventId>,
    ) -> Registration {
        match self.try_connect(user, client, mode, since).await {
            Connected::Registered(registration) => registration,
            other => panic!("{client} of {user} was not registered: {other:?}"),
        }
    }

    /// A new connection that brings no position.
    pub async fn connect(&self, user: &UserId, client: &str) -> Registration {
        self.registered(user, client, Mode::New, None).await
    }

    /// A new connection that has everything up to `since`.
    pub async fn connect_since(&self, user: &UserId, client: &str, since: EventId) -> Registration {
        self.registered(user, client, Mode::New, Some(since)).await
    }

    /// A new connection that takes the place of one on which its client has confirmed so much.
    pub async fn connect_after(
        &self,
        user: &UserId,
        client: &str,
        since: Option<EventId>,
        confirmed: EventId,
    ) -> Registration {
        let (user, client) = (user.clone(), client.parse().unwrap());
        let connect = Connect { user, client, mode: Mode::New, since, confirmed: Some(confirmed) };
        match self.engine.connect(connect).await.unwrap() {
            Connected::Registered(registration) => registration,
            other => panic!("not registered: {other:?}"),
        }
    }

    /// A connection that is there reads on.
    pub async fn resume(&self, user: &UserId, client: &str, since: EventId) -> Registration {
        self.registered(user, client, RESUME, Some(since)).await
    }

    pub async fn disconnect(&self, user: &UserId, client: &str, confirmed: Option<EventId>) {
        let client = client.parse().unwrap();
        let end = Disconnect { user: user.clone(), client, confirmed };
        self.engine.disconnect(end).await.unwrap();
    }

    pub async fn publish(&self, event: Event) -> Published {
        self.engine.publish(event).await.unwrap()
    }

    /// Publishes a plain event that is logged, and hands out its id.
    pub async fn publish_plain(&self, user: &UserId, data: &str) -> EventId {
        self.publish(event(user, data)).await.id.unwrap()
    }

    pub async fn heartbeat(&self, user: &UserId, confirmed: &[(&str, EventId)]) -> LeaseState {
        let confirmed = confirmed.iter().map(|(client, id)| (client.parse().unwrap(), *id)).collect();
        let state = self.engine.heartbeat(vec![UserLease { user: user.clone(), confirmed }]).await.unwrap();
        assert_eq!(state.len(), 1);
        state[0]
    }

    /// The user's sessions as `client@node`.
    pub async fn sessions(&self, user: &UserId) -> Vec<String> {
        let sessions = self.engine.sessions(user.clone()).await.unwrap();
        sessions.iter().map(|(client, node)| format!("{client}@{node}")).collect()
    }
}

pub fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

pub fn client(id: &str) -> ClientId {
    id.parse().unwrap()
}

/// A plain event, logged, for all of the user's sessions.
pub fn event(user: &UserId, data: &str) -> Event {
    Event {
        user: user.clone(),
        client: None,
        except: None,
        event: "e".parse().unwrap(),
        data: Data::from_json_text(data.to_owned()),
        collapse: None,
        key: None,
        transient: false,
    }
}

/// The ids of a page.
pub fn ids(registration: &Registration) -> Vec<EventId> {
    registration.events.iter().map(|event| event.id).collect()
}
