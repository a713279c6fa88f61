//! The connections to Redis: a pool for everything that answers at once, and connections of their own for
//! readers that block.
//!
//! One failure makes the whole link suspect: from then on every operation is refused at once, until the lease
//! loop has shown that Redis is there and still knows this node. So nothing is accepted by a Redis that came
//! back without its data, and callers hear of an outage within a moment instead of one timeout each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bb8::{ManageConnection, Pool, RunError};
use bb8_redis::RedisConnectionManager;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::sync::Notify;

use crate::engine::Unavailable;
use crate::engine::redis::scripts;

/// How long one answer may take. A script call is bounded to a millisecond of Redis's time; what comes on top is a
/// machine that is short of CPU, which is no outage. (The client's own default, 500 ms, took one for the other.)
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A pooled connection that remembers when it was last known to be good.
pub struct Connection {
    inner: MultiplexedConnection,
    failures_seen: u64,
    broken: bool,
}

/// Opens pooled connections. bb8-redis never calls a connection broken and asks for a `PING` at every checkout
/// instead; here that is asked only after some connection has failed since this one was last used.
pub struct Manager {
    inner: RedisConnectionManager,
    failures: Arc<AtomicU64>,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let failures_seen = self.failures.load(Ordering::Acquire);
        let mut inner = self.inner.connect().await?;
        inner.set_response_timeout(RESPONSE_TIMEOUT);
        Ok(Connection { inner, failures_seen, broken: false })
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        let failures = self.failures.load(Ordering::Acquire);
        if connection.failures_seen != failures {
            self.inner.is_valid(&mut connection.inner).await?;
            connection.failures_seen = failures;
        }
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.broken
    }
}

/// The link to Redis.
pub struct Link {
    pool: Pool<Manager>,
    client: Client,
    failures: Arc<AtomicU64>,
    up: AtomicBool,
    suspected: Notify,
    /// Tells how long scripts take.
    pub timer: scripts::Timer,
}

impl Link {
    /// A link to the server of `client`, with at most `size` pooled connections. Opens none yet.
    ///
    /// # Errors
    /// Where the connection's parameters are unusable.
    pub fn new(client: Client, size: u32, timer: scripts::Timer) -> Result<Self, RedisError> {
        let failures = Arc::new(AtomicU64::new(0));
        let manager = Manager {
            inner: RedisConnectionManager::new(client.get_connection_info().clone())?,
            failures: failures.clone(),
        };
        let pool = Pool::builder()
            .max_size(size)
            .connection_timeout(CONNECT_TIMEOUT)
            .test_on_check_out(true)
            .retry_connection(false)
            .build_unchecked(manager);
        Ok(Self { pool, client, failures, up: AtomicBool::new(false), suspected: Notify::new(), timer })
    }

    /// Whether Redis is there and knows this node, as far as is known.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// The lease loop has shown that Redis is there and knows this node.
    pub fn trust(&self) {
        self.up.store(true, Ordering::Release);
    }

    /// Something went wrong: refuse everything until [`Link::trust`].
    pub fn suspect(&self) {
        self.failures.fetch_add(1, Ordering::AcqRel);
        self.up.store(false, Ordering::Release);
        self.suspected.notify_one();
    }

    /// Redis does not know this node any more: refuse everything until [`Link::trust`].
    pub fn distrust(&self) {
        self.up.store(false, Ordering::Release);
    }

    /// Waits until the link is suspected.
    pub async fn suspected(&self) {
        self.suspected.notified().await;
    }

    /// Runs a pipeline where the link is trusted.
    ///
    /// # Errors
    /// Where Redis is away, or refuses any of the commands.
    pub async fn run(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Unavailable> {
        if !self.is_up() {
            return Err(Unavailable::new("Redis is away"));
        }
        self.probe(pipeline).await
    }

    /// Runs one command where the link is trusted.
    ///
    /// # Errors
    /// As [`Link::run`].
    pub async fn run_one(&self, command: Cmd) -> Result<Value, Unavailable> {
        let values = self.run(&single(command)).await?;
        first(values)
    }

    /// Runs one command whether the link is trusted or not: for the lease loop alone.
    ///
    /// # Errors
    /// Where Redis is away, or refuses the command.
    pub async fn probe_one(&self, command: Cmd) -> Result<Value, Unavailable> {
        let values = self.probe(&single(command)).await?;
        first(values)
    }

    async fn probe(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Unavailable> {
        self.attempt(pipeline).await.map_err(|error| {
            if is_outage(&error) {
                self.suspect();
            }
            Unavailable::new(error.to_string())
        })
    }

    async fn attempt(&self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let mut pooled = self.pool.get().await.map_err(|error| match error {
            RunError::User(error) => error,
            RunError::TimedOut => (ErrorKind::Io, "no connection in time").into(),
        })?;
        let connection = &mut *pooled;
        let asked = Instant::now();
        let mut outcome = send(&mut connection.inner, pipeline).await;
        if outcome.as_ref().is_err_and(lacks_script) {
            // The scripts bear a repeat: what was done before the one that is lacking may be done again.
            outcome = match load_scripts(&mut connection.inner).await {
                Ok(()) => send(&mut connection.inner, pipeline).await,
                Err(error) => Err(error),
            };
        }
        if outcome.is_ok() {
            self.timer.observe(pipeline, asked.elapsed());
        }
        connection.broken = outcome.as_ref().is_err_and(is_outage);
        outcome
    }

    /// A connection of its own for a reader that blocks: without a response timeout, because an abandoned read
    /// would swallow the next entry.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn dedicated(&self) -> Result<MultiplexedConnection, Unavailable> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None);
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| Unavailable::new(error.to_string()))
    }
}

/// Whether Redis as a whole is away or not ready, as opposed to refusing one command.
fn is_outage(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    let not_ready = matches!(error.kind(), ErrorKind::Server(BusyLoading | MasterDown | ReadOnly));
    not_ready || error.is_io_error() || error.is_timeout() || error.is_unrecoverable_error()
}

fn single(command: Cmd) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.add_command(command);
    pipeline
}

fn first(values: Vec<Value>) -> Result<Value, Unavailable> {
    values.into_iter().next().ok_or_else(|| Unavailable::new("Redis gave no answer"))
}

/// Runs a pipeline on `connection`; the first command that Redis refuses makes an error of it all.
///
/// # Errors
/// Where the connection fails, or Redis refuses a command.
pub async fn send(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
) -> Result<Vec<Value>, RedisError> {
    let values = connection.send_packed_commands(pipeline, 0, pipeline.len()).await?;
    // The first refusal as Redis put it; the crate's own summary of a pipeline has no code to look at.
    values
        .into_iter()
        .map(|value| if matches!(value, Value::ServerError(_)) { value.extract_error() } else { Ok(value) })
        .collect()
}

/// Loads every script.
///
/// # Errors
/// Where the connection fails.
pub async fn load_scripts(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let mut pipeline = redis::pipe();
    for source in scripts::sources() {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(source);
    }
    send(connection, &pipeline).await.map(drop)
}

/// Whether Redis does not know a script (any more).
pub fn lacks_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
