//! Taking a node that has gone off its users.

use futures_util::future::join_all;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::super::lane::tell_later;
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

/// Users that the lane takes over at once, on one way to Redis and back.
const TAKEN_OVER: usize = 1000;

/// What became of a node's users.
pub(super) enum Forgotten {
    /// The node is off all of them, and none is left on its list.
    All,
    /// It is this node, and off all of them; of those who are left on its list `presence` is told later.
    Untold,
    /// The claim on the id is another's: then so are the users that are left.
    Anothers,
}

/// Takes a node off all its users, and notes who is offline by that. Whoever is done is struck off the node's list, so
/// that whoever follows goes on from there. Users who cannot be done now hold up no others. The claim on the id is renewed
/// meanwhile.
///
/// Of whom `presence` takes nothing now, this node tells it later: until then they are on its own list.
pub(super) async fn forget(context: &Context, node: &NodeId) -> Result<Forgotten, Unavailable> {
    let users = users_of(context, node).await?;
    let (mut renewed, mut failed, mut untold) = (None, Ok(()), Vec::new());
    let batch = FORGET * context.link.masters();
    for batches in users.chunks(AT_ONCE * batch) {
        // Many users take longer than a lease lasts, and so does a process that freezes between two batches.
        if renewed.is_none_or(|renewed: Instant| renewed.elapsed() >= context.config.node_ttl / 3) {
            renewed = Some(Instant::now());
            if renew(context, node, 0).await?.is_none() {
                return Ok(Forgotten::Anothers);
            }
        }
        for done in join_all(batches.chunks(batch).map(|users| forget_users(context, node, users))).await {
            let (its_untold, its_failed) = done;
            untold.extend(its_untold);
            failed = failed.and(its_failed);
        }
        // Where a master is away all of that fails at once, and sockets have their turn.
        yield_now().await;
    }
    // All at once, and only now: where many clients come in place of the dead node's, the lane has much to do before.
    let mut taken_over = Vec::new();
    for users in untold.chunks(TAKEN_OVER) {
        taken_over.push((users, tell_later(context, users.to_vec())));
    }
    if *node == context.config.node {
        return failed.map(|()| if untold.is_empty() { Forgotten::All } else { Forgotten::Untold });
    }
    for (users, taken_over) in taken_over {
        taken_over.await?;
        if renew(context, node, 0).await?.is_none() {
            return Ok(Forgotten::Anothers);
        }
        strike_off(context, node, users).await?;
    }
    failed.map(|()| Forgotten::All)
}

/// Of whom `presence` has yet to be told; and an error where any user could not be done.
async fn forget_users(
    context: &Context,
    node: &NodeId,
    users: &[UserId],
) -> (Vec<UserId>, Result<(), Unavailable>) {
    let all: Vec<sessions::End> = users.iter().map(|user| (user, "*", None)).collect();
    let (groups, answers) = sessions::disconnect_each(context, node, &all, FORGET, false).await;
    let mut owed = Owed::default();
    let outcomes = groups.outcomes(answers, |place, answer| {
        let answer = context.broken.item_of(&users[place], reply::text(&answer)?);
        let edges = answer.and_then(|answer| answer.split_once(' ')).map_or("", |(_, edges)| edges);
        owed.add(&users[place], edges);
        Ok(!edges.is_empty())
    });
    let is_told = owed.pay(context).await.is_ok();
    let (mut done, mut untold, mut failed) = (Vec::new(), Vec::new(), Ok(()));
    for (user, outcome) in users.iter().zip(outcomes) {
        match outcome {
            Ok(owes) if owes && !is_told => untold.push(user.clone()),
            Ok(_) => done.push(user.clone()),
            Err(error) => failed = failed.and(Err(error)),
        }
    }
    (untold, failed.and(strike_off(context, node, &done).await))
}

async fn strike_off(context: &Context, node: &NodeId, users: &[UserId]) -> Result<(), Unavailable> {
    if users.is_empty() {
        return Ok(());
    }
    context.link.probe_one(sessions::list(context, "SREM", node, users.iter())).await.map(drop)
}
