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
use super::home::{Home, address};
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

    /// Where the master is, and whether most of the Sentinels say so: they learn from each other within seconds. Where there
    /// is no such place it is the best guess of those that are named. Whether it is a master, the server itself says.
    /// `hurry`: those who are slower than most are not waited for. (Without it they have a moment: one that is never waited
    /// for would never have a connection that could be kept.)
    ///
    /// # Errors
    /// Where no Sentinel answers, or none knows the name.
    pub async fn master(&self, home: &Home, hurry: bool) -> Result<(ConnectionInfo, bool), RedisError> {
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
            let same = |(known, _): &(ConnectionInfo, _)| address(known) == address(&place);
            let at = votes.iter().position(same).unwrap_or_else(|| {
                votes.push((place, 0));
                votes.len() - 1
            });
            votes[at].1 += 1;
            if hurry && self.are_most(votes[at].1) {
                break;
            }
        }
        let rank =
            |(info, votes): &(ConnectionInfo, usize)| (self.are_most(*votes), home.guess(info), *votes);
        match votes.into_iter().rev().max_by_key(rank) {
            Some((info, votes)) => Ok((info, self.are_most(votes))),
            None => Err(trouble.unwrap_or_else(|| (ErrorKind::Io, "the Sentinels do not answer").into())),
        }
    }

    fn are_most(&self, votes: usize) -> bool {
        2 * votes > self.sentinels.len()
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

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::super::home::Attempt;
    use super::super::tests::fake;
    use super::*;

    const FIRST: &str = "*2\r\n$9\r\n127.0.0.1\r\n$1\r\n1";
    const SECOND: &str = "*2\r\n$9\r\n127.0.0.1\r\n$1\r\n2";

    /// Sentinels that say so; none: it is dead.
    async fn sentinels(answers: &[Option<&'static str>]) -> Sentinels {
        let mut places = Vec::new();
        for answer in answers.iter().copied() {
            let says = move |command: &str| {
                if command.starts_with("SENTINEL") { answer } else { answer.map(|_| "+OK") }
            };
            places.push(fake(says).await);
        }
        let master = places[0].clone();
        Sentinels::new(places, "mymaster".to_owned(), master)
    }

    async fn named(answers: &[Option<&'static str>], home: &Home) -> Option<(String, bool)> {
        let named = sentinels(answers).await.master(home, true).await.ok();
        named.map(|(info, most)| (address(&info), most))
    }

    #[tokio::test]
    async fn most_are_followed_and_few_only_where_nobody_is_at_home() {
        let (home, first, second) = (Home::default(), "127.0.0.1:1", "127.0.0.1:2");
        let named = async |answers: &[_]| named(answers, &home).await;
        let at =
            |port: u16| super::at(&"redis://127.0.0.1".into_connection_info().unwrap(), "127.0.0.1", port);
        assert_eq!(named(&[None]).await, None);
        home.is_at(&at(1));
        let most = Some((second.to_owned(), true));
        assert_eq!(named(&[Some(SECOND), Some(FIRST), Some(SECOND)]).await, most);
        assert_eq!(named(&[Some(SECOND), None, Some(SECOND)]).await, most);
        let few = |place: &str| Some((place.to_owned(), false));
        assert_eq!(named(&[Some(FIRST), Some(SECOND)]).await, few(first));
        assert_eq!(named(&[None, Some(SECOND), None]).await, few(second));
        drop(Attempt::new(&home, &at(1), false));
        assert_eq!(named(&[Some(FIRST), Some(SECOND)]).await, few(second));
    }
}
