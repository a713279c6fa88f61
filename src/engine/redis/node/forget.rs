//! Taking a node that has gone off its users.

use futures_util::future::join_all;
use redis::cmd;
use tokio::time::Instant;

use super::super::presence::Owed;
use super::super::{Context, reply, sessions};
use super::{renew, users_of};
use crate::engine::Unavailable;
use crate::id::{NodeId, UserId};

/// Users of a dead node that one script call takes: each costs about as much as a lease.
const FORGET: usize = 50;
/// Such calls on their way at once, for each master: each user's keys take four ways to Redis and back, and the longer
/// those are the longer the dead ones seem to be online.
const AT_ONCE: usize = 4;

/// Takes a node off all its users, and notes who is offline by that. Whoever is done is struck off the node's list, so
/// that whoever follows goes on from there. The claim on the id is renewed meanwhile; false where it is another's: then
/// so are the users that are left.
pub(super) async fn forget(context: &Context, node: &NodeId) -> Result<bool, Unavailable> {
    let users = users_of(context, node).await?;
    let mut renewed = None;
    let batch = FORGET * context.link.masters();
    for batches in users.chunks(AT_ONCE * batch) {
        // Many users take longer than a lease lasts, and so does a process that freezes between two batches.
        if renewed.is_none_or(|renewed: Instant| renewed.elapsed() >= context.config.node_ttl / 3) {
            renewed = Some(Instant::now());
            if renew(context, node, 0).await?.is_none() {
                return Ok(false);
            }
        }
        let done = join_all(batches.chunks(batch).map(|users| forget_users(context, node, users))).await;
        done.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(true)
}

async fn forget_users(context: &Context, node: &NodeId, users: &[UserId]) -> Result<(), Unavailable> {
    let all: Vec<sessions::End> = users.iter().map(|user| (user, "*", None)).collect();
    let (groups, calls) = sessions::disconnects(context, node, &all, FORGET);
    let answers = context.link.probe_each(&calls).await;
    let mut owed = Owed::default();
    let outcomes = groups.outcomes(answers, |place, answer| {
        if let Some(answer) = context.broken.item_of(&users[place], reply::text(&answer)?) {
            owed.add(&users[place], answer.split_once(' ').map_or("", |(_, edges)| edges));
        }
        Ok(())
    });
    owed.pay(context).await?;
    outcomes.into_iter().collect::<Result<(), _>>()?;
    let mut unserved = cmd("SREM");
    unserved.arg(context.keys.users(node));
    for user in users {
        unserved.arg(user.as_str());
    }
    context.link.probe_one(unserved).await.map(drop)
}
