//! How everything stands: what Redis can tell of nodes and streams. Each question is about one key, so that it may be
//! asked of any server of a cluster.

use redis::{Cmd, Value, cmd};

use super::{Context, node, reply};
use crate::engine::Unavailable;
use crate::engine::status::{Backlog, Ingress, NodeStatus, Status, Streams};

/// Asks for everything.
///
/// # Errors
/// Where Redis is away.
pub async fn status(context: &Context) -> Result<Status, Unavailable> {
    let time = clock(context).await?;
    let mut nodes = Vec::new();
    for info in node::list(context).await? {
        let users = match info.node_id.parse() {
            Ok(id) => number(context, "SCARD", context.keys.users(&id)).await?,
            Err(_) => 0,
        };
        let inbox = backlog(context, &context.keys.inbox(&info.node_id), "node").await?;
        nodes.push(NodeStatus { info, users, inbox });
    }
    let mut ingress = Vec::with_capacity(context.config.ingress.len());
    for name in &context.config.ingress {
        let stream = context.keys.ingress(name);
        ingress.push(Ingress {
            name: name.clone(),
            backlog: backlog(context, &stream, "switchboard").await?.unwrap_or_default(),
            reader: reader(context, &stream, time).await?,
        });
    }
    let streams = Streams {
        ingress,
        dead: number(context, "XLEN", context.keys.dead()).await?,
        uplink: number(context, "XLEN", context.keys.uplink()).await?,
        presence: number(context, "XLEN", context.keys.presence()).await?,
    };
    Ok(Status { time, nodes, streams: Some(streams) })
}

/// The clock of Redis, Unix ms.
pub async fn clock(context: &Context) -> Result<u64, Unavailable> {
    let time = reply::array(context.link.run_one(cmd("TIME")).await?)?;
    let part = |at: usize| time.get(at).map_or(Ok(0), reply::integer);
    Ok(u64::try_from(part(0)? * 1000 + part(1)? / 1000).unwrap_or_default())
}

async fn number(context: &Context, command: &str, key: String) -> Result<u64, Unavailable> {
    let mut question = cmd(command);
    question.arg(key);
    reply::integer(&context.link.run_one(question).await?).map(|n| u64::try_from(n).unwrap_or_default())
}

/// The items of an `XINFO` answer, each as its fields; none where there is no such stream or group.
async fn items(context: &Context, question: Cmd) -> Result<Option<Vec<Vec<Value>>>, Unavailable> {
    match context.link.run_one(question).await {
        Ok(answer) => reply::array(answer)?.into_iter().map(reply::array).collect::<Result<_, _>>().map(Some),
        Err(error) if error.to_string().contains("no such key") || error.to_string().contains("NOGROUP") => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn field<'a>(item: &'a [Value], name: &str) -> Option<&'a Value> {
    item.chunks_exact(2).find(|pair| reply::text(&pair[0]).is_ok_and(|its| its == name)).map(|pair| &pair[1])
}

async fn backlog(context: &Context, stream: &str, group: &str) -> Result<Option<Backlog>, Unavailable> {
    let mut question = cmd("XINFO");
    question.arg("GROUPS").arg(stream);
    let Some(groups) = items(context, question).await? else { return Ok(None) };
    let length = number(context, "XLEN", stream.to_owned()).await?;
    let ours = groups
        .iter()
        .find(|its| field(its, "name").is_some_and(|name| reply::text(name).is_ok_and(|name| name == group)));
    let Some(ours) = ours else { return Ok(None) };
    Ok(Some(counted(ours, length)))
}

/// What a group's fields say of a stream with `length` entries.
fn counted(group: &[Value], length: u64) -> Backlog {
    let count =
        |name: &str| field(group, name).and_then(|value| u64::try_from(reply::integer(value).ok()?).ok());
    let pending = count("pending").unwrap_or_default();
    // Redis 6.2 has no `lag`, and later ones do not always know it. These streams are trimmed behind their reader, so
    // what is there and not pending has not been read.
    let lag = count("lag").unwrap_or(length.saturating_sub(pending));
    Backlog { length, lag, pending }
}

/// Who has the lease on an ingress stream: see `lua/lead.lua`.
async fn reader(context: &Context, stream: &str, now: u64) -> Result<Option<String>, Unavailable> {
    let mut question = cmd("XINFO");
    question.arg("CONSUMERS").arg(stream).arg("switchboard");
    let consumers = items(context, question).await?.unwrap_or_default();
    let holder = |consumer: &Vec<Value>| {
        let words: Vec<&str> = reply::text(field(consumer, "name")?).ok()?.split(' ').collect();
        match words.as_slice() {
            ["lease", node, _, end] if end.parse::<u64>().ok()? > now => Some((*node).to_owned()),
            _ => None,
        }
    };
    Ok(consumers.iter().find_map(holder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_that_redis_does_not_tell_is_what_is_there_and_not_pending() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let group = |lag: Option<Value>| {
            let mut fields = vec![text("name"), text("node"), text("pending"), Value::Int(2)];
            fields.extend(lag.map(|lag| [text("lag"), lag]).into_iter().flatten());
            counted(&fields, 9)
        };
        assert_eq!(group(Some(Value::Int(3))), Backlog { length: 9, lag: 3, pending: 2 });
        for unknown in [None, Some(Value::Nil)] {
            assert_eq!(group(unknown), Backlog { length: 9, lag: 7, pending: 2 });
        }
    }
}
