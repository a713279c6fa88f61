//! A node's inbox: a stream of hints from other nodes.
//!
//! An entry carries one or more hints, each a field and its value: the field says what it is, in words separated
//! by spaces (which no id may hold), the value is an event's data. A word that is not known is passed over, so
//! that a node of the next release may say more.
//!
//! | field | means |
//! |---|---|
//! | `event <user> <id> <prev> <name> [=<client>] [!<client>]` | an event; for that session alone; for every other |
//! | `transient <user> <name> [=<client>] [!<client>]` | the same, not logged |
//! | `look <user>` | look into the log |
//! | `broadcast <name>` | for everyone here |
//! | `replaced <user> <client> <order>` | the client has connected elsewhere |
//! | `signout <user> [<client>]` | close the user's sessions, or one |
//! | `life` | this node's own sign of life |

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, cmd};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::wire::send;
use super::{Context, reply};
use crate::engine::{Event, Hint, Node};
use crate::id::{ClientId, EventId, EventName, UserId};

/// Entries that an inbox may hold while its node does not read. What is cut off is mended by the heartbeat, which
/// compares each user's newest event.
const INBOX_BOUND: usize = 100_000;
/// Entries of one read.
const READ: usize = 256;
/// How long one read waits, ms: after that a dead connection is noticed.
const BLOCK_MS: usize = 2_000;
/// A read that is overdue by this much means that the connection is dead though it looks open.
const OVERDUE: Duration = Duration::from_secs(2);

fn addressed(mut head: String, event: &Event) -> String {
    if let Some(client) = &event.client {
        head.push_str(" =");
        head.push_str(client.as_str());
    }
    if let Some(client) = &event.except {
        head.push_str(" !");
        head.push_str(client.as_str());
    }
    head
}

/// The field of a logged event.
pub fn event(event: &Event, id: EventId, prev: EventId) -> String {
    addressed(format!("event {} {id} {prev} {}", event.user, event.event), event)
}

/// The field of a transient event.
pub fn transient(event: &Event) -> String {
    addressed(format!("transient {} {}", event.user, event.event), event)
}

/// The field that asks for a look into the log.
pub fn look(user: &UserId) -> String {
    format!("look {user}")
}

/// The field of a broadcast.
pub fn broadcast(event: &EventName) -> String {
    format!("broadcast {event}")
}

/// The field that tells of a newer connection.
pub fn replaced(user: &UserId, client: &ClientId, order: u64) -> String {
    format!("replaced {user} {client} {order}")
}

/// The field that closes sessions.
pub fn sign_out(user: &UserId, client: Option<&ClientId>) -> String {
    match client {
        Some(client) => format!("signout {user} {client}"),
        None => format!("signout {user}"),
    }
}

/// An entry for a node's inbox. An inbox that is not there is not made: its node has gone, and the log has it all.
pub fn add<'a>(context: &Context, node: &str, items: impl IntoIterator<Item = (String, &'a [u8])>) -> Cmd {
    let mut add = cmd("XADD");
    add.arg(context.keys.inbox(node)).arg("NOMKSTREAM").arg("MAXLEN").arg("~").arg(INBOX_BOUND).arg("*");
    for (head, data) in items {
        add.arg(head).arg(data);
    }
    add
}

/// A sign of life for this node's own inbox.
pub fn life(context: &Context) -> Cmd {
    add(context, context.config.node.as_str(), [("life".to_owned(), &b""[..])])
}

/// Reads this node's inbox for as long as the process lives.
pub async fn read(context: Arc<Context>) {
    let mut wait = Duration::from_millis(50);
    let key = context.keys.inbox(context.config.node.as_str());
    loop {
        match context.link.dedicated(&key).await {
            Ok(connection) => match drain(&context, connection).await {
                Ended::Lost => {
                    // The stream or its group is gone (flushed, evicted): the claim makes it anew.
                    if let Some(node) = context.node() {
                        node.inbox_lost();
                    }
                }
                Ended::Broken(error) => {
                    debug!(%error, "the inbox's connection broke");
                    context.link.broke(&key, &error);
                }
                Ended::Read => wait = Duration::from_millis(50),
            },
            Err(error) => debug!(%error, "no connection for the inbox"),
        }
        sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}

enum Ended {
    Lost,
    Broken(RedisError),
    Read,
}

async fn drain(context: &Context, mut connection: MultiplexedConnection) -> Ended {
    let key = context.keys.inbox(context.config.node.as_str());
    let mut acknowledge: Vec<String> = Vec::new();
    let mut read_any = false;
    loop {
        let mut pipeline = redis::pipe();
        if let Some(last) = acknowledge.last() {
            pipeline.cmd("XACK").arg(&key).arg("node").arg(&acknowledge);
            // One reader, in order: everything up to the last is done with.
            pipeline.cmd("XTRIM").arg(&key).arg("MINID").arg("=").arg(after(last));
        }
        pipeline
            .cmd("XREADGROUP")
            .arg("GROUP")
            .arg("node")
            .arg(context.config.node.as_str())
            .arg("COUNT")
            .arg(READ)
            .arg("BLOCK")
            .arg(BLOCK_MS)
            .arg("STREAMS")
            .arg(&key)
            .arg(">");
        let bound = Duration::from_millis(BLOCK_MS as u64) + OVERDUE;
        let answer = match tokio::time::timeout(bound, send(&mut connection, &pipeline)).await {
            Ok(answer) => answer,
            Err(_) => return Ended::Broken((ErrorKind::Io, "a read was never answered").into()),
        };
        match answer {
            Ok(mut values) => {
                read_any = true;
                acknowledge.clear();
                match values.pop().map(reply::read) {
                    Some(Ok(entries)) => {
                        for (id, fields) in entries {
                            for (head, data) in &fields {
                                take(context, head, data);
                            }
                            acknowledge.push(id);
                        }
                    }
                    Some(Err(error)) => warn!(%error, "an inbox entry could not be read"),
                    None => {}
                }
            }
            Err(error) if is_lost(&error) => return Ended::Lost,
            Err(error) if read_any && !error.is_io_error() => {
                warn!(%error, "the inbox could not be read");
                return Ended::Read;
            }
            Err(error) => return Ended::Broken(error),
        }
    }
}

/// Whether the stream or its group is gone; one that goes away under a waiting reader says `UNBLOCKED`.
pub fn is_lost(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED" | "WRONGTYPE"))
        || error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
            && error.to_string().contains("NOGROUP")
}

/// The id right after `id`: what is below it may go.
pub fn after(id: &str) -> String {
    id.parse::<EventId>()
        .map(|id| EventId { ms: id.ms, seq: id.seq + 1 }.to_string())
        .unwrap_or_else(|_| id.to_owned())
}

fn take(context: &Context, head: &[u8], data: &[u8]) {
    let Some(node) = context.node() else { return };
    let (Ok(head), Ok(data)) = (std::str::from_utf8(head), std::str::from_utf8(data)) else { return };
    if head == "life" {
        if let Ok(mut seen) = context.sign_of_life.lock() {
            *seen = Some(Instant::now());
        }
        return;
    }
    if tell(node, head, data).is_none() {
        debug!(head, "an inbox field that means nothing here");
    }
}

/// Tells the node what a field says; none where that means nothing here.
pub fn tell(node: &dyn Node, head: &str, data: &str) -> Option<()> {
    let mut words = head.split(' ');
    match words.next()? {
        "event" => {
            let user = words.next()?;
            let place = Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?));
            let event = words.next()?;
            let (client, except) = address(words);
            node.hint(Hint { user, place, client, except, event, data });
        }
        "transient" => {
            let (user, event) = (words.next()?, words.next()?);
            let (client, except) = address(words);
            node.hint(Hint { user, place: None, client, except, event, data });
        }
        "look" => node.look(words.next()?),
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
