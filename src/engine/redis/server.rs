//! One master: its pool, and what is known of it.
//!
//! Each connection that opens asks who answers. A process that was not there before may have lost the newest writes
//! of its predecessor: then the server is doubted, and sessions look into their logs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bb8::{ManageConnection, Pool, RunError};
use bb8_redis::RedisConnectionManager;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionInfo, ErrorKind, Pipeline, RedisError};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::connection::Login;
use super::home::{Attempt, Dedicated, Home};
use super::known::{Known, NOT_KNOWN};
use super::ms;
use super::scripts::Timer;
use super::sentinel::Sentinels;
use super::wire::{
    CONNECT_TIMEOUT, Outcome, RESPONSE_TIMEOUT, SILENT, bare, enter, explained, greet, is_outage,
    lacks_script, load_scripts, open, send_each,
};
use crate::lock::lock;
use crate::retold::Outage;

/// Where a master is.
#[derive(Debug, Clone)]
pub enum Place {
    /// Always there.
    Fixed(ConnectionInfo),
    /// Where the Sentinels say.
    Sentinel(Sentinels),
}

impl Place {
    /// Where it is, and whether that is beyond doubt.
    async fn find(&self, home: &Home) -> Result<(ConnectionInfo, bool), RedisError> {
        match self {
            Self::Fixed(info) => Ok((info.clone(), true)),
            Self::Sentinel(sentinels) => sentinels.master(home, true).await,
        }
    }
}

/// How many replicas must have an event before it counts as published.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// So many; 0 asks none.
    pub replicas: u32,
    /// How long they may take.
    pub timeout: Duration,
}

/// What all servers have in common.
#[derive(Clone)]
pub struct Options {
    /// Most pooled connections.
    pub pool_size: u32,
    /// What counts as published.
    pub wait: Wait,
    /// Tells how long scripts take.
    pub timer: Arc<Timer>,
    /// Hears of it where a server is doubted.
    pub doubts: Arc<Notify>,
    /// With what connections are let in.
    pub login: Arc<Login>,
}

/// How often Sentinels are asked where the master is.
const LOOK: Duration = Duration::from_millis(250);
/// How long a connection may take to show that it is still one, once another has failed. The pool has
/// [`CONNECT_TIMEOUT`] for all that it tries before it opens a new one.
const STILL_THERE: Duration = Duration::from_millis(300);

/// A pooled connection that remembers when it was last known to be good.
pub struct Connection {
    inner: MultiplexedConnection,
    failures_seen: u64,
    /// How often the server had moved.
    moves: u64,
    broken: bool,
}

/// Opens pooled connections. bb8-redis never calls a connection broken and asks for a `PING` at every checkout
/// instead; here something is asked only after some connection has failed since this one was last used, and then who
/// answers: it may be a replica by now.
struct Manager {
    place: Place,
    login: Arc<Login>,
    known: Arc<Known>,
    response_timeout: Duration,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let opened = self.open().await;
        // The pool tries again and again, and in the end tells only that its time was over.
        let trouble = opened.as_ref().err().map(ToString::to_string);
        *lock(&self.known.trouble) = trouble;
        opened
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        self.known.home.has_stayed(connection.moves)?;
        let failures = self.known.failures.load(Ordering::Acquire);
        if connection.failures_seen != failures {
            // Whoever has waited too long for the pool drops this in the middle, and it goes back as it is.
            connection.broken = true;
            let silent = |_| RedisError::from((ErrorKind::Io, "a connection has fallen silent"));
            timeout(STILL_THERE, self.known.look(&mut connection.inner)).await.map_err(silent)??;
            (connection.broken, connection.failures_seen) = (false, failures);
        }
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.broken || connection.moves != self.known.home.moves()
    }
}

impl Manager {
    async fn open(&self) -> Result<Connection, RedisError> {
        let failures_seen = self.known.failures.load(Ordering::Acquire);
        let (info, most) = self.place.find(&self.known.home).await?;
        let info = self.login.server(info);
        let attempt = Attempt::new(&self.known.home, &info, most);
        let connected = RedisConnectionManager::new(bare(&info))?.connect().await;
        let mut inner = connected.map_err(explained)?;
        inner.set_response_timeout(self.response_timeout);
        enter(&mut inner, &info).await?;
        greet(&mut inner).await?;
        self.known.look(&mut inner).await?;
        let moves = attempt.succeeded()?;
        Ok(Connection { inner, failures_seen, moves, broken: false })
    }
}

/// One master.
pub struct Server {
    /// Where it is, for the log.
    pub name: String,
    /// What was told of its being away. It goes with the master: one that has left the Cluster's map is told of no more.
    pub away: Mutex<Outage>,
    place: Place,
    login: Arc<Login>,
    pool: Pool<Manager>,
    known: Arc<Known>,
    wait: Wait,
    timer: Arc<Timer>,
    up: AtomicBool,
}

impl Server {
    /// A server. Opens no connection yet.
    pub fn new(name: &str, place: Place, options: Options) -> Self {
        let Options { pool_size, wait, timer, doubts, login } = options;
        let known = Arc::new(Known::new(doubts));
        let response_timeout = RESPONSE_TIMEOUT + wait.timeout;
        let pool = Pool::builder()
            .max_size(pool_size)
            .connection_timeout(CONNECT_TIMEOUT)
            .test_on_check_out(true)
            .retry_connection(false)
            // By age alone none is given up: where Sentinels are away there may be no other.
            .max_lifetime(None)
            .build_unchecked(Manager {
                place: place.clone(),
                login: login.clone(),
                known: known.clone(),
                response_timeout,
            });
        let (name, away, up) = (name.to_owned(), Mutex::default(), AtomicBool::new(false));
        Self { name, away, place, login, pool, known, wait, timer, up }
    }

    /// Whether it answers, as far as is known.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Waits until most Sentinels say that another server is the master.
    pub async fn moved(&self) {
        let Place::Sentinel(sentinels) = &self.place else { return std::future::pending().await };
        let before = self.known.home.moves();
        while self.known.home.moves() == before {
            sleep(LOOK).await;
            // Where nobody knows, or few do, it stays where it is.
            if let Ok((info, true)) = sentinels.master(&self.known.home, false).await {
                self.known.home.is_at(&info);
            }
        }
    }

    /// Something went wrong; true where it counted as up.
    pub fn suspect(&self) -> bool {
        self.known.failures.fetch_add(1, Ordering::AcqRel);
        self.up.swap(false, Ordering::AcqRel)
    }

    /// Unix ms after which its data are known to be whole; none where nothing is known.
    pub fn whole_since(&self) -> Option<u64> {
        Some(self.known.whole_since.load(Ordering::Acquire)).filter(|since| *since != NOT_KNOWN)
    }

    /// Notes since when its data are whole.
    pub fn set_whole_since(&self, ms: u64) {
        self.known.whole_since.store(ms, Ordering::Release);
    }

    /// Newest writes may be missing here.
    pub fn doubt(&self) {
        self.known.doubt();
    }

    /// Whether it was doubted since this was last asked.
    pub fn was_doubted(&self) -> bool {
        self.known.doubted.swap(false, Ordering::AcqRel)
    }

    /// The key that carries since when its data are whole; true where it was another.
    pub fn set_mark(&self, mark: String) -> bool {
        let mut known = lock(&self.known.mark);
        if known.as_ref() == Some(&mark) {
            return false;
        }
        self.known.whole_since.store(NOT_KNOWN, Ordering::Release);
        *known = Some(mark);
        true
    }

    /// Asks who answers; it counts as up where it does.
    ///
    /// # Errors
    /// Where it does not, or is no master.
    pub async fn probe(&self) -> Result<(), RedisError> {
        let mut pooled = self.connection().await?;
        let connection = &mut *pooled;
        let outcome = self.known.look(&mut connection.inner).await;
        connection.broken = outcome.is_err();
        *lock(&self.known.trouble) = outcome.as_ref().err().map(ToString::to_string);
        if outcome.is_ok() {
            self.up.store(true, Ordering::Release);
        }
        outcome
    }

    /// One of the pool's connections, for one batch.
    async fn connection(&self) -> Result<bb8::PooledConnection<'_, Manager>, RedisError> {
        self.pool.get().await.map_err(|error| match error {
            RunError::User(error) => error,
            RunError::TimedOut if self.is_busy() => {
                (ErrorKind::Client, "all connections to Redis are busy").into()
            }
            RunError::TimedOut => (ErrorKind::Io, "no connection in time", self.trouble()).into(),
        })
    }

    /// Whether all connections are taken. Where it cannot be reached there are none.
    fn is_busy(&self) -> bool {
        let pool = self.pool.state();
        pool.connections > 0 && pool.idle_connections == 0
    }

    /// What was wrong when it was last looked for.
    pub fn trouble(&self) -> String {
        lock(&self.known.trouble).clone().unwrap_or_else(|| SILENT.to_owned())
    }

    /// Runs a pipeline; each command has its own outcome. A script that is not there is loaded. With `durable`,
    /// what was written counts only where enough replicas have it in time.
    pub async fn send(&self, pipeline: &Pipeline, durable: bool) -> Vec<Outcome> {
        match self.attempt(pipeline, durable).await {
            Ok(outcomes) => outcomes,
            Err(error) => vec![Err(error); pipeline.len()],
        }
    }

    async fn attempt(&self, pipeline: &Pipeline, durable: bool) -> Result<Vec<Outcome>, RedisError> {
        let mut pooled = self.connection().await?;
        let connection = &mut *pooled;
        let outcomes = self.exchange(&mut connection.inner, pipeline, durable).await;
        connection.broken = match &outcomes {
            Ok(outcomes) => outcomes.iter().any(|outcome| outcome.as_ref().is_err_and(is_outage)),
            Err(_) => true,
        };
        // What the master that was has just confirmed may be thrown away.
        self.known.home.has_stayed(connection.moves)?;
        outcomes
    }

    async fn exchange(
        &self,
        connection: &mut MultiplexedConnection,
        pipeline: &Pipeline,
        durable: bool,
    ) -> Result<Vec<Outcome>, RedisError> {
        let asked = Instant::now();
        let mut outcomes = send_each(connection, pipeline).await?;
        let lacking: Vec<_> =
            (0..outcomes.len()).filter(|at| outcomes[*at].as_ref().is_err_and(lacks_script)).collect();
        if !lacking.is_empty() {
            load_scripts(connection).await?;
            let commands: Vec<_> = pipeline.cmd_iter().collect();
            let mut again = redis::pipe();
            for at in &lacking {
                again.add_command(commands[*at].clone());
            }
            for (at, outcome) in lacking.into_iter().zip(send_each(connection, &again).await?) {
                outcomes[at] = outcome;
            }
        }
        if outcomes.iter().all(Result::is_ok) {
            self.timer.observe(pipeline, asked.elapsed());
        }
        // Where nothing was written, all of it may have moved: it counts why.
        if durable
            && outcomes.iter().any(Result::is_ok)
            && let Err(short) = self.in_step(connection).await
        {
            outcomes
                .iter_mut()
                .filter(|outcome| outcome.is_ok())
                .for_each(|outcome| *outcome = Err(short.clone()));
        }
        Ok(outcomes)
    }

    /// Waits until `--wait-replicas` have what this connection wrote.
    ///
    /// # Errors
    /// Where too few have it in time, or the connection is of no use: a replica refuses to wait.
    async fn in_step(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        if self.wait.replicas == 0 {
            return Ok(());
        }
        let mut wait = redis::cmd("WAIT");
        wait.arg(self.wait.replicas).arg(ms(self.wait.timeout));
        // A master no more: who asks must look for the new one.
        let refused = |error: RedisError| match error.to_string().contains("replica instances") {
            true => RedisError::from((ErrorKind::Io, "this server is a replica")),
            false => error,
        };
        let reached: u32 = wait.query_async(connection).await.map_err(refused)?;
        let short = || (ErrorKind::Extension, "too few replicas have it (--wait-replicas)").into();
        if reached < self.wait.replicas { Err(short()) } else { Ok(()) }
    }

    /// Runs one command for a slot that is on its way here; `durable` as in [`Server::send`].
    pub async fn ask(&self, command: &Cmd, durable: bool) -> Outcome {
        let mut pooled = self.connection().await?;
        let connection = &mut *pooled;
        let outcome = self.ask_on(&mut connection.inner, command, durable).await;
        connection.broken = outcome.as_ref().is_err_and(is_outage);
        outcome
    }

    async fn ask_on(&self, connection: &mut MultiplexedConnection, command: &Cmd, durable: bool) -> Outcome {
        for _ in 0..2 {
            let mut pipeline = redis::pipe();
            pipeline.cmd("ASKING").add_command(command.clone());
            let outcome = send_each(connection, &pipeline).await?.pop();
            let outcome = outcome.unwrap_or_else(|| Err((ErrorKind::Io, "Redis gave no answer").into()));
            if !outcome.as_ref().is_err_and(lacks_script) {
                if durable && outcome.is_ok() {
                    self.in_step(connection).await?;
                }
                return outcome;
            }
            load_scripts(connection).await?;
        }
        Err((ErrorKind::Extension, "a script was loaded and is not there").into())
    }

    /// A connection of its own for a reader that blocks: without a response timeout, because an abandoned read
    /// would swallow the next entry.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn dedicated(&self) -> Result<Dedicated, RedisError> {
        let (info, moves) = match &self.place {
            Place::Fixed(info) => (info.clone(), self.known.home.is_at(info)),
            Place::Sentinel(_) => self.known.home.known()?, // the pool finds it
        };
        let mut connection = open(self.login.server(info), None).await?;
        greet(&mut connection).await?;
        Ok(Dedicated::new(connection, &self.known.home, moves))
    }
}
