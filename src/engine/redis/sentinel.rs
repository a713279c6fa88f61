//! Asks Sentinels where the master is.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{ConnectionInfo, ErrorKind, RedisError};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::at;
use super::home::Home;
use super::wire::open;

/// How long one Sentinel may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The same, over a connection that has been there for a while; and how long others may take where one has answered.
const SOON: Duration = Duration::from_millis(300);

/// The Sentinels of one master.
#[derive(Debug, Clone)]
pub struct Sentinels {
    sentinels: Arc<[Sentinel]>,
    /// What they call the master.
    name: String,
    /// How to connect to it, but for its address.
    master: ConnectionInfo,
}

#[derive(Debug)]
struct Sentinel {
    info: ConnectionInfo,
    /// They are asked several times a second.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Sentinels {
    /// The Sentinels at these places. Asks nobody yet.
    pub fn new(places: Vec<ConnectionInfo>, name: String, master: ConnectionInfo) -> Self {
        let sentinel = |info| Sentinel { info, connection: Mutex::default() };
        Self { sentinels: places.into_iter().map(sentinel).collect(), name, master }
    }

    /// Where the master is, and whether most of the Sentinels say so. Where there is no such place it is where it was, if
    /// any of them still says that, or else what most of those say who answer: they learn from each other within seconds.
    /// Whether it is a master, the server itself says.
    ///
    /// # Errors
    /// Where no Sentinel answers, or none knows the name.
    pub async fn master(&self, home: &Home) -> Result<(ConnectionInfo, bool), RedisError> {
        let mut asked: FuturesUnordered<_> =
            self.sentinels.iter().map(|sentinel| sentinel.ask(&self.name)).collect();
        let mut votes: Vec<(ConnectionInfo, usize)> = Vec::new();
        let (mut trouble, mut until) = (None, None);
        loop {
            let next = match until {
                Some(until) => timeout_at(until, asked.next()).await.ok().flatten(),
                None => asked.next().await,
            };
            let place = match next {
                None => break,
                Some(Ok((host, port))) => at(&self.master, &host, port),
                Some(Err(error)) => {
                    trouble = Some(error);
                    continue;
                }
            };
            until.get_or_insert_with(|| Instant::now() + SOON);
            let same =
                |(known, _): &(ConnectionInfo, _)| known.addr().to_string() == place.addr().to_string();
            let at = votes.iter().position(same).unwrap_or_else(|| {
                votes.push((place, 0));
                votes.len() - 1
            });
            votes[at].1 += 1;
            if 2 * votes[at].1 > self.sentinels.len() {
                return Ok((votes.swap_remove(at).0, true));
            }
        }
        let chosen = votes.into_iter().rev().max_by_key(|(info, votes)| (home.knows(info), *votes));
        match chosen {
            Some((info, _)) => Ok((info, false)),
            None => Err(trouble.unwrap_or_else(|| (ErrorKind::Io, "the Sentinels do not answer").into())),
        }
    }
}

impl Sentinel {
    /// Where it says that the master is.
    async fn ask(&self, name: &str) -> Result<(String, u16), RedisError> {
        let mut kept = self.connection.lock().await;
        // One that was kept may have gone since; a new one is asked once.
        let answer = match &mut *kept {
            Some(connection) => timeout(SOON, ask(connection, name)).await.ok().and_then(Result::ok),
            None => None,
        };
        let answer = match answer {
            Some(answer) => answer,
            None => {
                *kept = None;
                let mut connection = open(self.info.clone(), Some(ANSWER_TIMEOUT)).await?;
                let answer = ask(&mut connection, name).await?;
                *kept = Some(connection);
                answer
            }
        };
        answer.ok_or_else(|| (ErrorKind::Io, "the Sentinels know no master of this name").into())
    }
}

async fn ask(
    connection: &mut MultiplexedConnection,
    name: &str,
) -> Result<Option<(String, u16)>, RedisError> {
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name).query_async(connection).await
}
