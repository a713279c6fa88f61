//! What is known of a server: who answers there, and whether its data are those that were there before.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, Value, from_redis_value};
use tokio::sync::Notify;

use super::home::Home;
use super::wire::send;
use crate::lock::lock;

/// A data set of which nothing is known yet is whole since never.
pub const NOT_KNOWN: u64 = u64::MAX;

/// What is known.
#[derive(Debug)]
pub struct Known {
    /// Connections that have failed.
    pub failures: AtomicU64,
    /// Why the last connection could not be opened; none where it could.
    pub trouble: Mutex<Option<String>>,
    /// Where the server is: other connections than those to there are of no use any more.
    pub home: Home,
    /// Which process answered last.
    pub run_id: Mutex<String>,
    /// On a Cluster: the key that carries since when this server's data are whole.
    pub mark: Mutex<Option<String>>,
    /// Unix ms after which its data are known to be whole.
    pub whole_since: AtomicU64,
    /// Another process has taken its place, and nobody has been told yet.
    pub doubted: AtomicBool,
    /// Hears of that.
    pub doubts: Arc<Notify>,
}

impl Known {
    /// Nothing yet.
    pub fn new(doubts: Arc<Notify>) -> Self {
        Self {
            failures: AtomicU64::new(0),
            trouble: Mutex::default(),
            home: Home::default(),
            run_id: Mutex::default(),
            mark: Mutex::default(),
            whole_since: AtomicU64::new(NOT_KNOWN),
            doubted: AtomicBool::new(false),
            doubts,
        }
    }

    /// Asks who answers, and whether its data are those that were there before.
    pub async fn look(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let mark = lock(&self.mark).clone();
        let mut questions = redis::pipe();
        questions.cmd("INFO").arg("replication").cmd("INFO").arg("server");
        if let Some(mark) = &mark {
            questions.cmd("TIME").cmd("GET").arg(mark);
        }
        let mut answers = send(connection, &questions).await?.into_iter();
        let mut info = || answers.next().map(from_redis_value::<String>).transpose();
        let (replication, server) = (info()?.unwrap_or_default(), info()?.unwrap_or_default());
        if field(&replication, "role") == Some("slave") {
            return Err((ErrorKind::Io, "this server is a replica").into());
        }
        if let (Some(mark), Some(time), Some(since)) = (mark, answers.next(), answers.next()) {
            let since = match from_redis_value::<Option<u64>>(since)? {
                Some(since) => since,
                None => begin(connection, &mark, from_redis_value(time)?).await?,
            };
            let before = self.whole_since.swap(since, Ordering::AcqRel);
            if before != NOT_KNOWN && before != since {
                return Err((ErrorKind::Io, "the server came back with other data").into());
            }
        }
        let run_id = field(&server, "run_id").unwrap_or_default();
        let mut known = lock(&self.run_id);
        if !known.is_empty() && *known != run_id {
            self.doubt();
        }
        run_id.clone_into(&mut known);
        Ok(())
    }

    /// Another process may have taken its place.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
        self.doubts.notify_one();
    }
}

/// A data set without a mark: it is known to be whole from now on.
async fn begin(
    connection: &mut MultiplexedConnection,
    mark: &str,
    (seconds, micros): (u64, u64),
) -> Result<u64, RedisError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg(mark).arg(seconds * 1000 + micros / 1000).arg("NX").cmd("GET").arg(mark);
    let mut answers = send(connection, &pipeline).await?;
    Ok(from_redis_value(answers.pop().unwrap_or(Value::Nil))?)
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}
