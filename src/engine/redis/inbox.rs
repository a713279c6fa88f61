//! A node's inbox: a stream of hints from other nodes.
//!
//! An entry carries one or more hints in one field, `hints`: Redis and the nodes then handle one value for a batch, not
//! two for each event. A hint is a line of words separated by spaces (which no id may hold), and a line of data:
//!
//! ```text
//! <bytes of data> <what it is>\n
//! <data>\n
//! ```
//!
//! `publish.lua` writes the first three as [`Hints`] does.
//!
//! A word or a field that is not known is passed over, so that a node of the next release may say more.
//!
//! | what it is | means |
//! |---|---|
//! | `event <user> <id> <prev> <name> [=<client>] [!<client>]` | an event; for that session alone; for every other |
//! | `transient <user> <name> [=<client>] [!<client>]` | the same, not logged |
//! | `look <user> [<id>]` | look into the log, where that event has not been heard of |
//! | `broadcast <name>` | for everyone here |
//! | `replaced <user> <client> <order>` | the client has connected elsewhere |
//! | `signout <user> [<client>]` | close the user's sessions, or one |
//! | `life` | this node's own sign of life |

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, cmd};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::done::Done;
use super::home::Dedicated;
use super::reads::Read;
use super::wire::is_refusal;
use super::{Context, ms, reply};
use crate::engine::turn::Turn;
use crate::engine::{Event, Hint, Node, Unavailable};
use crate::id::{ClientId, EventId, EventName, Logged, UserId};
use crate::moderation;
use crate::protocol::publish::Data;

/// Entries that an inbox may hold while its node does not read. What is cut off is mended by the heartbeat, which
/// compares each user's newest event.
pub const BOUND: usize = 100_000;
/// How long one read waits: after that a dead connection is noticed.
const BLOCK: Duration = Duration::from_secs(2);
/// A read that is overdue by this much means that the connection is dead though it looks open.
const OVERDUE: Duration = Duration::from_secs(2);
/// How often it is looked whether there is something that was taken for this node and did not come: a read that was held
/// back on its way, by a connection that was given up, takes what the reader after it then passes over.
const LOOK_BACK: Duration = Duration::from_secs(1);
/// How long it takes, about, until there is another connection for one that broke; longer each time that it was of no
/// use, up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// See [`FIRST_WAIT`].
const LAST_WAIT: Duration = Duration::from_secs(1);
/// How often a reader without a lease looks whether it has one.
const WITHOUT_LEASE: Duration = Duration::from_millis(50);
/// The field that carries an entry's hints.
const FIELD: &str = "hints";

/// Hints for one node, as an entry of its inbox carries them.
#[derive(Debug, Default)]
pub struct Hints(String);

impl Hints {
    /// No hints. `bytes`: about how many there will be.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// A hint without data.
    fn of(words: &[&str]) -> Self {
        let mut hints = Self::default();
        hints.push(words, |_| {}, "");
        hints
    }

    fn push(&mut self, words: &[&str], more: impl FnOnce(&mut String), data: &str) {
        let text = &mut self.0;
        text.push_str(itoa::Buffer::new().format(data.len()));
        for word in words {
            text.push(' ');
            text.push_str(word);
        }
        more(text);
        text.push('\n');
        text.push_str(data);
        text.push('\n');
    }

    /// An event; `logged`: none where transient.
    pub fn event(&mut self, event: &Event, logged: Option<Logged>) {
        let verb = if logged.is_some() { "event" } else { "transient" };
        let rest = |text: &mut String| {
            if let Some(Logged { id, prev }) = logged {
                for id in [id, prev] {
                    text.push(' ');
                    id.write(text);
                }
            }
            text.push(' ');
            text.push_str(event.event.as_str());
            for (mark, client) in [(" =", &event.client), (" !", &event.except)] {
                if let Some(client) = client {
                    text.push_str(mark);
                    text.push_str(client.as_str());
                }
            }
        };
        self.push(&[verb, event.user.as_str()], rest, event.data.as_str());
    }

    /// A look into the log, for whoever has not heard of `newest`, where that is known.
    pub fn look(&mut self, user: &UserId, newest: Option<EventId>) {
        let rest = |text: &mut String| {
            if let Some(newest) = newest {
                text.push(' ');
                newest.write(text);
            }
        };
        self.push(&["look", user.as_str()], rest, "");
    }

    /// A look into the log for each of a user's sessions, alone in its entry.
    pub fn look_at(user: &UserId) -> Self {
        Self::of(&["look", user.as_str()])
    }

    /// A broadcast.
    pub fn broadcast(&mut self, event: &EventName, data: &Data) {
        self.push(&["broadcast", event.as_str()], |_| {}, data.as_str());
    }

    /// A newer connection.
    pub fn replaced(user: &UserId, client: &ClientId, order: u64) -> Self {
        Self::of(&["replaced", user.as_str(), client.as_str(), &order.to_string()])
    }

    /// Sessions to close.
    pub fn sign_out(user: &UserId, client: Option<&ClientId>) -> Self {
        match client {
            Some(client) => Self::of(&["signout", user.as_str(), client.as_str()]),
            None => Self::of(&["signout", user.as_str()]),
        }
    }
}

/// An entry for a node's inbox. An inbox that is not there is not made: its node has gone, and the log has it all.
pub fn add(context: &Context, node: &str, hints: &Hints) -> Cmd {
    let mut add = cmd("XADD");
    add.arg(context.keys.inbox(node)).arg("NOMKSTREAM").arg("MAXLEN").arg("~").arg(BOUND).arg("*");
    add.arg(FIELD).arg(&hints.0);
    add
}

/// A sign of life for this node's own inbox.
pub fn life(context: &Context) -> Cmd {
    add(context, context.config.node.as_str(), &Hints::of(&["life"]))
}

/// Reads this node's inbox for as long as the process lives.
pub async fn read(context: Arc<Context>) {
    let (mut wait, mut done) = (FIRST_WAIT, Done::default());
    let key = context.keys.inbox(context.config.node.as_str());
    loop {
        if context.link.lease_is_over() {
            // Another process may read it now, whose hints these are.
            sleep(WITHOUT_LEASE).await;
            continue;
        }
        match context.link.dedicated(&key).await {
            Ok(connection) => match read_until_broken(&context, connection, &mut done, &mut wait).await {
                Ended::Lost => {
                    done = Done::default();
                    // The stream or its group is gone (flushed, evicted): the claim makes it anew.
                    if let Some(node) = context.node() {
                        node.inbox_lost();
                    }
                }
                Ended::Broken(error) => {
                    debug!(%error, "the inbox's connection broke");
                    context.link.broke(&key, &error);
                }
                Ended::Refused | Ended::LeaseOver => {}
            },
            Err(error) => cannot_read(&context, &error),
        }
        sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
        wait = (wait * 2).min(LAST_WAIT);
    }
}

/// The inbox could not be read, and the node is not ready before long. Where Redis is away, that is told already; so are
/// connections that break, as long as the next one is of use.
fn cannot_read(context: &Context, error: &Unavailable) {
    let told = if context.link.is_up() { context.pulse.stops(&error.reason) } else { None };
    match told {
        Some(times) => warn!(%error, times, "the inbox cannot be read: it is tried again"),
        None => debug!(%error, "the inbox cannot be read now"),
    }
}

enum Ended {
    Lost,
    Broken(RedisError),
    Refused,
    LeaseOver,
}

/// Reads until the connection breaks, the stream is lost, or the lease is over. Each answer makes `wait` the first one.
async fn read_until_broken(
    context: &Context,
    mut connection: Dedicated,
    done: &mut Done,
    wait: &mut Duration,
) -> Ended {
    let key = context.keys.inbox(context.config.node.as_str());
    // What was on its way when the last connection broke comes first.
    let (mut from, mut read, mut read_any) = ("0", Read::default(), false);
    let mut looked_back = Instant::now();
    while !context.link.lease_is_over() {
        if looked_back.elapsed() >= LOOK_BACK {
            from = "0";
        }
        let mut pipeline = redis::pipe();
        let stay = done.let_go(&mut pipeline, &key, from == "0");
        let block = stay.unwrap_or(BLOCK);
        let next = pipeline.cmd("XREADGROUP").arg("GROUP").arg("node").arg(context.config.node.as_str());
        next.arg("COUNT").arg(read.most()).arg("BLOCK").arg(ms(block)).arg("STREAMS").arg(&key).arg(from);
        let answer = match timeout(BLOCK + OVERDUE, connection.send(&pipeline)).await {
            Ok(answer) => answer,
            Err(_) => return Ended::Broken((ErrorKind::Io, "a read was never answered").into()),
        };
        let mut values = match answer {
            Ok(values) => values,
            Err(error) if is_lost(&error) => return Ended::Lost,
            Err(error) => {
                let refused = is_refusal(&error);
                if refused || !read_any {
                    cannot_read(context, &error.clone().into());
                }
                return if refused { Ended::Refused } else { Ended::Broken(error) };
            }
        };
        if !read_any && context.pulse.reads() {
            info!("the inbox is read again");
        }
        (read_any, *wait) = (true, FIRST_WAIT);
        if stay.is_none() {
            *done = Done::default();
        }
        let entries = match values.pop().map(reply::read) {
            Some(Ok(entries)) => entries,
            Some(Err(error)) => {
                warn!(%error, "an inbox entry could not be read");
                continue;
            }
            None => continue,
        };
        if entries.is_empty() && from == "0" {
            (from, looked_back) = (">", Instant::now());
        } else {
            read.came(&entries);
        }
        let mut turn = Turn::default(); // with each read, others have had theirs
        for (field, value) in entries.iter().flat_map(|(_, fields)| fields) {
            take(context, field, value, &mut turn).await;
        }
        done.add(entries.into_iter().map(|(id, _)| id));
    }
    Ended::LeaseOver
}

/// Whether the stream or its group is gone; one that goes away under a waiting reader says `UNBLOCKED`.
pub fn is_lost(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED" | "WRONGTYPE"))
        || error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
            && error.to_string().contains("NOGROUP")
}

async fn take(context: &Context, field: &[u8], value: &[u8], turn: &mut Turn) {
    let Some(node) = context.node() else { return };
    let hints = std::str::from_utf8(value).ok().filter(|_| field == FIELD.as_bytes());
    let mut rest = hints.unwrap_or_default();
    let mut events = 0;
    while let Some((head, data)) = split(&mut rest) {
        events += 1;
        turn.next(data.len()).await;
        if head == "life" {
            context.pulse.came();
        } else if tell(node, head, data).is_none() {
            debug!(head, "a hint that means nothing here");
        }
    }
    moderation::passed(events);
    if hints.is_none() || !rest.is_empty() {
        debug!("a field of an inbox entry that means nothing here");
    }
}

/// Takes the first hint off: what it is, and its data. None where there is none.
pub fn split<'a>(rest: &mut &'a str) -> Option<(&'a str, &'a str)> {
    let (line, after) = rest.split_once('\n')?;
    let (length, head) = line.split_once(' ')?;
    let (data, after) = after.split_at_checked(length.parse().ok()?)?;
    *rest = after.strip_prefix('\n')?;
    Some((head, data))
}

/// Tells the node what a hint says; none where that means nothing here.
pub fn tell(node: &dyn Node, head: &str, data: &str) -> Option<()> {
    let mut words = head.split(' ');
    match words.next()? {
        "event" => {
            let user = words.next()?;
            let logged = Some(Logged { id: words.next()?.parse().ok()?, prev: words.next()?.parse().ok()? });
            let event = words.next()?;
            let (client, except) = address(words);
            node.hint(Hint { user, logged, client, except, event, data });
        }
        "transient" => {
            let (user, event) = (words.next()?, words.next()?);
            let (client, except) = address(words);
            node.hint(Hint { user, logged: None, client, except, event, data });
        }
        "look" => node.look(words.next()?, words.next().and_then(|id| id.parse().ok())),
        "broadcast" => node.broadcast(words.next()?, data),
        "replaced" => node.replaced(words.next()?, words.next()?, words.next()?.parse().ok()?),
        "signout" => node.sign_out(words.next()?, words.next()),
        _ => return None,
    }
    Some(())
}

fn address<'a>(words: impl Iterator<Item = &'a str>) -> (Option<&'a str>, Option<&'a str>) {
    let (mut client, mut except) = (None, None);
    for word in words {
        match word.split_at_checked(1) {
            Some(("=", id)) => client = Some(id),
            Some(("!", id)) => except = Some(id),
            _ => {}
        }
    }
    (client, except)
}

#[cfg(test)]
mod tests;
