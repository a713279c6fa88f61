//! How everything stands: what Redis can tell of nodes and streams. Each question is about one key, so that it may be
//! asked of any server of a cluster.

use redis::{Cmd, Value, cmd};
use tracing::debug;

use super::deaths::{self, Leases};
use super::{Context, reply};
use crate::engine::status::{Backlog, Ingress, NodeStatus, Status, Streams};
use crate::engine::{Lag, NodeInfo, Unavailable};

/// Asks for everything. What cannot be read on its own is none: where a master of a Cluster is away, an operator looks for
/// what is left.
///
/// # Errors
/// Where Redis is away as a whole.
pub async fn status(context: &Context) -> Result<Status, Unavailable> {
    let time = clock(context).await?;
    let nodes = match known("the list of nodes", leases(context).await) {
        Some(leases) => Some(nodes(context, leases).await),
        None => None,
    };
    let mut ingress = Vec::with_capacity(context.config.ingress.len());
    for name in &context.config.ingress {
        let stream = context.keys.ingress(name);
        let backlog =
            known(name, backlog(context, &stream, "switchboard").await).map(Option::unwrap_or_default);
        ingress.push(Ingress {
            name: name.clone(),
            length: backlog.map(|its| its.length),
            lag: backlog.map(|its| its.lag),
            pending: backlog.map(|its| its.pending),
            reader: known(name, reader(context, &stream, time).await).flatten(),
        });
    }
    let length = async |stream: String| known(&stream, number(context, "XLEN", &stream).await);
    let streams = Streams {
        ingress,
        dead: length(context.keys.dead()).await,
        uplink: length(context.keys.uplink()).await,
        presence: length(context.keys.presence()).await,
    };
    // It has gone away meanwhile, and nothing was read after that.
    if !context.link.is_up() {
        return Err(Unavailable::new("Redis is away"));
    }
    Ok(Status { time, nodes, streams: Some(streams) })
}

async fn nodes(context: &Context, leases: Leases) -> Vec<NodeStatus> {
    let mut nodes = Vec::with_capacity(leases.len());
    for name in leases.into_keys() {
        let info = match info(context, &name).await {
            Ok(None) => continue,
            read => known(&name, read).flatten(),
        };
        let mut node = NodeStatus::new(name, info);
        if let Ok(id) = node.node_id.parse() {
            node.users = known(&node.node_id, number(context, "SCARD", &context.keys.users(&id)).await);
        }
        let inbox = backlog(context, &context.keys.inbox(&node.node_id), "node").await;
        node.inbox = known(&node.node_id, inbox).flatten();
        nodes.push(node);
    }
    nodes
}

/// A part, where it can be read.
fn known<T>(part: &str, read: Result<T, Unavailable>) -> Option<T> {
    read.inspect_err(|error| debug!(part, %error, "a part of the status cannot be read")).ok()
}

/// The live nodes, by id: all of them.
///
/// # Errors
/// Where Redis is away, or a part of it without which one of them would be left out.
pub async fn list(context: &Context) -> Result<Vec<NodeInfo>, Unavailable> {
    let mut nodes = Vec::new();
    let (now, leases) = (now(context), leases(context).await?);
    // Of who is no longer live, nobody may be able to read anything, nor clear up.
    for (name, _) in leases.iter().filter(|(_, end)| **end > now) {
        nodes.extend(info(context, name).await?);
    }
    Ok(nodes)
}

/// Unix ms by the clock of Redis, as it is known here.
pub fn now(context: &Context) -> i64 {
    i64::try_from(context.metrics.clock.now_us() / 1000).unwrap_or(i64::MAX)
}

/// How many nodes are live, by the clock of Redis as it is known here.
///
/// # Errors
/// Where Redis is away.
pub async fn live(context: &Context) -> Result<i64, Unavailable> {
    let mut live = cmd("ZCOUNT");
    live.arg(context.keys.nodes()).arg(now(context)).arg("+inf");
    reply::integer(&context.link.run_one(live).await?)
}

/// The list of nodes, each with the end of its lease, Unix ms.
///
/// # Errors
/// Where Redis is away.
pub async fn leases(context: &Context) -> Result<Leases, Unavailable> {
    let mut leases = cmd("ZRANGE");
    leases.arg(context.keys.nodes()).arg(0).arg(-1).arg("WITHSCORES");
    deaths::leases(context.link.run_one(leases).await?)
}

/// What a node says of itself; none where it is gone, or being cleared up after.
async fn info(context: &Context, name: &str) -> Result<Option<NodeInfo>, Unavailable> {
    let mut fields = cmd("HMGET");
    fields.arg(context.keys.node(name));
    fields.arg(&["sessions", "version", "started", "client_url", "worker_url"]);
    let fields = reply::array(context.link.run_one(fields).await?)?;
    let field = |at: usize| fields.get(at).and_then(|value| reply::text(value).ok()).unwrap_or_default();
    Ok((!field(1).is_empty()).then(|| NodeInfo {
        node_id: name.to_owned(),
        sessions: field(0).parse().unwrap_or_default(),
        version: field(1).to_owned(),
        started: field(2).parse().unwrap_or_default(),
        client_url: field(3).to_owned(),
        worker_url: field(4).to_owned(),
    }))
}

/// What is waiting. Both streams are emptied behind their reader, so their lengths are what is not done: no need for
/// the `lag` of `XINFO GROUPS`, which Redis 6.2 does not tell. What cannot be read does not hide the rest.
pub async fn lag(context: &Context) -> Lag {
    let mut questions = redis::pipe();
    questions.cmd("XLEN").arg(context.keys.inbox(context.config.node.as_str()));
    for stream in &context.config.ingress {
        questions.cmd("XLEN").arg(context.keys.ingress(stream));
    }
    let answers = context.link.run_each(&questions).await.into_iter();
    let mut lengths = answers.map(|answer| u64::try_from(reply::integer(&answer.ok()?).ok()?).ok());
    let inbox = lengths.next().flatten();
    Lag { inbox, ingress: lengths.flatten().reduce(|all, length| all + length) }
}

/// The clock of Redis, Unix ms.
pub async fn clock(context: &Context) -> Result<u64, Unavailable> {
    let time = reply::time(context.link.run_one(cmd("TIME")).await?)?;
    Ok(u64::try_from(time / 1000).unwrap_or_default())
}

async fn number(context: &Context, command: &str, key: &str) -> Result<u64, Unavailable> {
    let mut question = cmd(command);
    question.arg(key);
    reply::integer(&context.link.run_one(question).await?).map(|n| u64::try_from(n).unwrap_or_default())
}

/// The items of an `XINFO` answer, each as its fields; none where there is no such stream or group.
async fn items(context: &Context, question: Cmd) -> Result<Option<Vec<Vec<Value>>>, Unavailable> {
    match context.link.run_one(question).await {
        Ok(answer) => reply::items(answer).map(Some),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether that is because there is no such stream, or group.
pub fn is_missing(error: &Unavailable) -> bool {
    error.reason.contains("no such key") || error.reason.contains("NOGROUP")
}

async fn backlog(context: &Context, stream: &str, group: &str) -> Result<Option<Backlog>, Unavailable> {
    let mut question = cmd("XINFO");
    question.arg("GROUPS").arg(stream);
    let Some(groups) = items(context, question).await? else { return Ok(None) };
    let length = number(context, "XLEN", stream).await?;
    Ok(reply::group(groups, group).map(|ours| counted(&ours, length)))
}

/// What a group's fields say of a stream with `length` entries.
fn counted(group: &[Value], length: u64) -> Backlog {
    let count = |name: &str| u64::try_from(reply::integer(reply::field(group, name)?).ok()?).ok();
    let pending = count("pending").unwrap_or_default();
    // These streams are emptied behind their reader: no more is unread than what is there and not pending. Redis 6.2
    // has no `lag`, and later ones do not always know it. Or they tell what was done long ago: how many a group has
    // read reaches neither an AOF nor a replica as it goes on.
    let at_most = length.saturating_sub(pending);
    let lag = count("lag").map_or(at_most, |lag| lag.min(at_most));
    Backlog { length, lag, pending }
}

/// Who has the lease on an ingress stream: see `lua/lead.lua`.
async fn reader(context: &Context, stream: &str, now: u64) -> Result<Option<String>, Unavailable> {
    let mut question = cmd("XINFO");
    question.arg("CONSUMERS").arg(stream).arg("switchboard");
    let consumers = items(context, question).await?.unwrap_or_default();
    let holder = |consumer: &Vec<Value>| {
        let words: Vec<&str> = reply::text(reply::field(consumer, "name")?).ok()?.split(' ').collect();
        match words.as_slice() {
            ["lease", node, _, end] if end.parse::<u64>().ok()? > now => Some((*node).to_owned()),
            _ => None,
        }
    };
    Ok(consumers.iter().find_map(holder))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{context, fake};
    use super::*;

    #[tokio::test]
    async fn an_ingress_stream_that_cannot_be_read_does_not_hide_the_inbox() {
        let place = fake(|command| match command {
            "XLEN inbox:{node:n}" => Some(":5"),
            "XLEN events" => Some("-WRONGTYPE x"),
            _ => Some("+OK"),
        });
        let context = context(place.await, Duration::ZERO);
        assert_eq!(lag(&context).await, Lag { inbox: Some(5), ingress: None });
    }

    #[test]
    fn a_lag_is_at_most_what_is_there_and_not_pending() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let group = |lag: Option<Value>| {
            let mut fields = vec![text("name"), text("node"), text("pending"), Value::Int(2)];
            fields.extend(lag.map(|lag| [text("lag"), lag]).into_iter().flatten());
            counted(&fields, 9)
        };
        assert_eq!(group(Some(Value::Int(3))), Backlog { length: 9, lag: 3, pending: 2 });
        for unknown_or_too_high in [None, Some(Value::Nil), Some(Value::Int(90))] {
            assert_eq!(group(unknown_or_too_high), Backlog { length: 9, lag: 7, pending: 2 });
        }
    }
}
