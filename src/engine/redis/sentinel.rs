//! Asks Sentinels where the master is.

use std::collections::BTreeMap;
use std::sync::{self, Arc};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{ConnectionInfo, ErrorKind, RedisError};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::connection::{Login, at};
use super::home::{Home, address};
use super::wire::{explained, open};
use crate::engine::Unavailable;
use crate::lock::lock;
use crate::retold::Outage;

/// How long one Sentinel may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The same, over a connection that has been there for a while; and how long others may take where one has answered.
const SOON: Duration = Duration::from_millis(300);
/// Why one says nothing that had no more time than that.
const TOO_SLOW: &str = "others have answered long before it";
/// For how long most may say nothing until that is told: a machine that is short of CPU is no outage.
const PATIENCE: Duration = Duration::from_secs(1);

/// The Sentinels of one master.
#[derive(Debug, Clone)]
pub struct Sentinels {
    sentinels: Arc<[Sentinel]>,
    /// What they call the master.
    name: String,
    /// How to connect to it, but for its address.
    master: ConnectionInfo,
    login: Arc<Login>,
    silence: Arc<sync::Mutex<Silence>>,
}

/// Most of them do not say where the master is.
#[derive(Debug, Default)]
struct Silence {
    since: Option<Instant>,
    told: Outage,
}

#[derive(Debug)]
struct Sentinel {
    info: ConnectionInfo,
    /// They are asked several times a second.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Sentinels {
    /// The Sentinels at these places. Asks nobody yet.
    pub fn new(places: Vec<ConnectionInfo>, name: String, master: ConnectionInfo, login: Arc<Login>) -> Self {
        let sentinel = |info| Sentinel { info, connection: Mutex::default() };
        let sentinels = places.into_iter().map(sentinel).collect();
        Self { sentinels, name, master, login, silence: Arc::default() }
    }

    /// Where the master is, and whether most of the Sentinels say so: they learn from each other within seconds. Where there
    /// is no such place it is the best guess of those that are named. Whether it is a master, the server itself says.
    /// `hurry`: those who are slower than most are not waited for. (Without it they have a moment: one that is never waited
    /// for would never have a connection that could be kept; and it is told where most say nothing.)
    ///
    /// # Errors
    /// Where no Sentinel answers, or none knows the name: what each of them said.
    pub async fn master(&self, home: &Home, hurry: bool) -> Result<(ConnectionInfo, bool), RedisError> {
        let mut asked: FuturesUnordered<_> = self
            .sentinels
            .iter()
            .enumerate()
            .map(async |(at, sentinel)| (at, sentinel.ask(&self.name, &self.login).await))
            .collect();
        let mut votes: Vec<(ConnectionInfo, usize)> = Vec::new();
        // Those who have said nothing yet, and why.
        let mut silent: BTreeMap<usize, Option<RedisError>> =
            (0..self.sentinels.len()).map(|at| (at, None)).collect();
        let mut until = None;
        loop {
            let next = match until {
                Some(until) => timeout_at(until, asked.next()).await.ok().flatten(),
                None => asked.next().await,
            };
            let place = match next {
                None => break,
                Some((who, Ok((host, port)))) => {
                    silent.remove(&who);
                    at(&self.master, &host, port)
                }
                Some((who, Err(error))) => {
                    silent.insert(who, Some(error));
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
        if !hurry {
            self.tell(&silent);
        }
        let rank =
            |(info, votes): &(ConnectionInfo, usize)| (self.are_most(*votes), home.guess(info), *votes);
        match votes.into_iter().rev().max_by_key(rank) {
            Some((info, votes)) => Ok((info, self.are_most(votes))),
            None => {
                let kind = silent.values().flatten().next().map_or(ErrorKind::Io, RedisError::kind);
                Err((kind, "no Sentinel says where the master is", self.reasons(&silent)).into())
            }
        }
    }

    /// Tells where most of them have said nothing for a while: they are not followed then.
    fn tell(&self, silent: &BTreeMap<usize, Option<RedisError>>) {
        let mut silence = lock(&self.silence);
        if self.are_most(self.sentinels.len() - silent.len()) {
            silence.since = None;
            if silence.told.end() {
                info!("most Sentinels say again where the master is");
            }
        } else if silence.since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE
            && let Some(times) = silence.told.again()
        {
            warn!(
                reasons = self.reasons(silent),
                times,
                "most Sentinels do not say where the master is: a failover is followed late, and may take acknowledged events with it"
            );
        }
    }

    /// Who said nothing, and why.
    fn reasons(&self, silent: &BTreeMap<usize, Option<RedisError>>) -> String {
        let reason = |(at, error): (&usize, &Option<RedisError>)| {
            let error = error.clone().unwrap_or_else(|| (ErrorKind::Io, TOO_SLOW).into());
            format!("{}: {}", address(&self.sentinels[*at].info), Unavailable::from(error))
        };
        silent.iter().map(reason).collect::<Vec<_>>().join("; ")
    }

    fn are_most(&self, votes: usize) -> bool {
        2 * votes > self.sentinels.len()
    }
}

impl Sentinel {
    /// Where it says that the master is.
    async fn ask(&self, name: &str, login: &Login) -> Result<(String, u16), RedisError> {
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
                let mut connection = open(login.sentinel(self.info.clone()), Some(ANSWER_TIMEOUT)).await?;
                let answer = ask(&mut connection, name).await.map_err(explained)?;
                *kept = Some(connection);
                answer
            }
        };
        answer.ok_or_else(|| (ErrorKind::Io, "it knows no master of this name").into())
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
    use std::io::Read;
    use std::sync::atomic::{AtomicBool, Ordering};

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
        Sentinels::new(places, "mymaster".to_owned(), master, Arc::default())
    }

    #[tokio::test]
    async fn who_says_nothing_is_named_and_told_of_once_until_most_say_it_again() {
        let refuses = Some("-WRONGPASS invalid username-password pair");
        let (mut log, writer) = std::io::pipe().unwrap();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::new(writer)).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let talks = Arc::new(AtomicBool::new(false));
        let mut places = Vec::new();
        for answer in [None, refuses, Some(FIRST)] {
            let talks = talks.clone();
            let says = move |_: &str| if talks.load(Ordering::Relaxed) { Some(FIRST) } else { answer };
            places.push(fake(says).await);
        }
        let addresses: Vec<_> = places.iter().map(address).collect();
        let sentinels =
            Sentinels::new(places.clone(), "mymaster".to_owned(), places[0].clone(), Arc::default());
        let look = async |long: Duration| {
            let end = Instant::now() + long;
            while Instant::now() < end {
                sentinels.master(&Home::default(), false).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        look(PATIENCE / 2).await;
        look(PATIENCE).await;
        talks.store(true, Ordering::Relaxed);
        look(Duration::from_millis(1)).await;
        drop(guard);
        let mut lines = String::new();
        log.read_to_string(&mut lines).unwrap();
        let lines: Vec<_> = lines.lines().collect();
        let [warning, over] = &lines[..] else { panic!("{lines:?}") };
        assert!(
            warning.contains(" WARN ") && over.contains(" INFO ") && over.contains("most Sentinels"),
            "{lines:?}"
        );
        let named = |at: usize| warning.contains(&format!("{}: ", addresses[at]));
        assert!(named(0) && named(1) && !named(2) && warning.contains("invalid username"), "{warning}");
    }

    #[tokio::test]
    async fn where_none_says_where_the_master_is_all_are_named_in_their_order() {
        let sentinels = sentinels(&[None, Some("*-1"), Some("-NOPERM no permissions")]).await;
        let error = sentinels.master(&Home::default(), true).await.unwrap_err().to_string();
        let reasons = ["closed the connection", "no master of this name", "no permissions"];
        let at = |text: &str| error.find(text).unwrap_or_else(|| panic!("{text}: {error}"));
        let order: Vec<_> =
            (0..3).flat_map(|who| [at(&address(&sentinels.sentinels[who].info)), at(reasons[who])]).collect();
        assert!(order.is_sorted(), "{error}");
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
