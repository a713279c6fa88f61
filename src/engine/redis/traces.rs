//! Users who are followed: who they are, and writing down what this node saw of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{Value, cmd};
use tokio::time::Instant;
use tracing::debug;

use super::publish::Appended;
use super::{Context, ms, reply, status};
use crate::engine::{Event, Unavailable, steps};
use crate::id::{EventId, UserId};
use crate::trace::{KEPT, MAX_STEPS, MAX_USERS, PAGE, Step, Traced};

/// Steps written at once.
const BATCH: usize = 256;

/// Looks up who is followed; `now` is the clock of Redis, Unix ms.
///
/// # Errors
/// Where Redis is away.
pub async fn refresh(context: &Context, now: i64) -> Result<(), Unavailable> {
    let key = context.keys.traced();
    let mut look = redis::pipe();
    look.cmd("ZREMRANGEBYSCORE").arg(&key).arg("-inf").arg(now);
    look.cmd("ZRANGEBYSCORE").arg(&key).arg(format!("({now}")).arg("+inf").arg("WITHSCORES");
    look.arg("LIMIT").arg(0).arg(MAX_USERS);
    let answers = context.link.probe_each(&look).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let answer = reply::array(answers.into_iter().last().unwrap_or(Value::Nil))?;
    let here = Instant::now();
    let users = answer.chunks_exact(2).filter_map(|pair| {
        let user = reply::text(&pair[0]).ok()?.parse().ok()?;
        let until: f64 = reply::text(&pair[1]).ok()?.parse().ok()?;
        // Without an end it lasts until the next look.
        let left =
            Duration::try_from_secs_f64((until - now as f64) / 1000.0).unwrap_or(crate::trace::LONGEST);
        Some((user, here + left.min(crate::trace::LONGEST)))
    });
    context.tracer.follow_only(users);
    Ok(())
}

/// Follows a user for so long, or no longer; answers with the place after which the steps come, none where too many
/// are followed already.
///
/// # Errors
/// Where Redis is away.
pub async fn follow(
    context: &Context,
    user: UserId,
    long: Option<Duration>,
) -> Result<Option<EventId>, Unavailable> {
    let now = status::clock(context).await?;
    let place = EventId { ms: now.saturating_sub(1), seq: 0 };
    let Some(long) = long else {
        let mut leave = cmd("ZREM");
        leave.arg(context.keys.traced()).arg(user.as_str());
        context.link.run_one(leave).await?;
        context.tracer.leave(&user);
        return Ok(Some(place));
    };
    let mut others = cmd("ZRANGEBYSCORE");
    others.arg(context.keys.traced()).arg(format!("({now}")).arg("+inf");
    let mut others = reply::array(context.link.run_one(others).await?)?;
    others.retain(|other| reply::text(other).is_ok_and(|other| other != user.as_str()));
    if others.len() >= MAX_USERS {
        return Ok(None);
    }
    let mut add = cmd("ZADD");
    add.arg(context.keys.traced()).arg(now + ms(long)).arg(user.as_str());
    context.link.run_one(add).await?;
    context.tracer.follow(user, Instant::now() + long);
    Ok(Some(place))
}

/// Writes down steps for as long as the process lives. Where Redis is away they are lost: they would be about that.
pub async fn write(context: Arc<Context>) {
    loop {
        let mut by_user: HashMap<UserId, Vec<Step>> = HashMap::new();
        for step in context.tracer.take(BATCH).await {
            by_user.entry(step.user.clone()).or_default().push(step);
        }
        for (user, steps) in by_user {
            let key = context.keys.traces(&user);
            let mut pipeline = redis::pipe();
            for step in steps {
                pipeline.cmd("XADD").arg(key).arg("MAXLEN").arg("~").arg(MAX_STEPS).arg("*");
                for (name, value) in step.written(context.config.node.as_str()) {
                    pipeline.arg(name).arg(value);
                }
            }
            pipeline.cmd("PEXPIRE").arg(key).arg(ms(KEPT));
            if let Err(error) = context.link.run(&pipeline).await {
                debug!(%user, %error, "steps could not be written down");
            }
        }
    }
}

/// A user's steps after a place, oldest first; the first ones where there are many.
///
/// # Errors
/// Where Redis is away.
pub async fn read(context: &Context, user: &UserId, after: EventId) -> Result<Vec<Traced>, Unavailable> {
    let mut range = cmd("XRANGE");
    range.arg(context.keys.traces(user)).arg(format!("({after}")).arg("+").arg("COUNT").arg(PAGE);
    let entries = reply::entries(context.link.run_one(range).await?)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(entries
        .into_iter()
        .map(|(place, fields)| Traced {
            place,
            fields: fields.iter().map(|(name, value)| (text(name), text(value))).collect(),
        })
        .collect())
}

/// Notes what became of a batch in the logs; `via`: which way in it took.
pub fn published<'a>(
    context: &Context,
    events: impl Iterator<Item = (&'a Event, &'a Result<Appended, Unavailable>)>,
    via: &str,
) {
    if !context.tracer.follows_anyone() {
        return;
    }
    for (event, appended) in events {
        context.tracer.note(event.user.as_str(), "published", || match appended {
            Ok(appended) => {
                // Its key, or its ingress entry, was there before.
                let again = appended.prev.is_none() && !event.transient;
                steps::published(event, via, appended.id, &appended.nodes, again)
            }
            Err(error) => steps::refused(event, via, error),
        });
    }
}

/// Notes which inboxes a batch is in.
pub fn sent<'a>(
    context: &Context,
    events: impl Iterator<Item = (&'a Event, &'a Result<Appended, Unavailable>)>,
) {
    if !context.tracer.follows_anyone() {
        return;
    }
    for (event, appended) in events {
        let Ok(appended) = appended else { continue };
        for node in appended.nodes.iter().filter(|node| **node != context.config.node) {
            context.tracer.note(event.user.as_str(), "sent", || {
                let mut fields = vec![("to", node.to_string())];
                fields.extend(appended.id.map(|id| ("id", id.to_string())));
                fields
            });
        }
    }
}
