//! What is done where another server has taken over, or one came back, that may lack what was written last.
//!
//! Sessions look into their logs. And sessions of this node that have ended, and that an older data set brings back, are
//! taken off again: nobody but their node can tell, and while other sessions keep the user, none of its keys lapses. Where
//! they have lapsed, the user is on this node's list all the same, and `presence` is to be told that nobody is there.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::time::sleep;
use tracing::debug;

use super::{Context, lane, node, reply, sessions, who};
use crate::engine::Cause;
use crate::id::{ClientId, UserId};

/// Users whose sessions are listed at once.
const USERS: usize = 64;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells the node of each doubt.
pub async fn tell(context: Arc<Context>) {
    loop {
        let doubt = context.link.doubted().await;
        if let Some(node) = context.node() {
            node.doubted(&|user| doubt.concerns(sessions::user_slot(&context, user)));
        }
        context.listing.notify_one();
    }
}

/// Tells the node, after each doubt, which sessions Redis has on it.
pub async fn list(context: Arc<Context>) {
    loop {
        context.listing.notified().await;
        let mut users = loop {
            match node::users_of(&context, &context.config.node).await {
                Ok(users) => break users,
                Err(error) => debug!(%error, "this node's sessions are not listed yet"),
            }
            sleep(PAUSE).await;
        };
        loop {
            users = list_sessions(&context, users).await;
            if users.is_empty() {
                break;
            }
            debug!(users = users.len(), "the sessions of some users are not listed yet");
            sleep(PAUSE).await;
        }
    }
}

/// Lists the sessions of these users; returns those that have to be looked at again, as their part of Redis does not answer.
async fn list_sessions(context: &Context, users: Vec<UserId>) -> Vec<UserId> {
    let Some(node) = context.node() else { return Vec::new() };
    let (mut again, mut left) = (Vec::new(), Vec::new());
    for batch in users.chunks(USERS * context.link.masters()) {
        let mut questions = redis::pipe();
        for user in batch {
            questions.cmd("SMEMBERS").arg(context.keys.user(user));
        }
        for (user, members) in batch.iter().zip(context.link.probe_each(&questions).await) {
            match members {
                Ok(members) => {
                    let clients = clients_here(context, members);
                    let is_listed = !clients.is_empty();
                    if !node.listed(user, clients) && !is_listed {
                        left.push(user.clone());
                    }
                }
                Err(error) if reply::cause(&error.reason) == Cause::BrokenKey => {} // others are asked about all the same
                Err(_) => again.push(user.clone()),
            }
        }
    }
    for users in left.chunks(USERS) {
        if let Err(error) = lane::tell_later(context, users.to_vec()).await {
            debug!(%error, "that some users have left is not told yet");
            again.extend_from_slice(users);
        }
    }
    again
}

fn clients_here(context: &Context, members: Value) -> Vec<ClientId> {
    let sessions = who::members_of(members).unwrap_or_default().into_iter();
    sessions.filter(|(_, node)| *node == context.config.node).map(|(client, _)| client).collect()
}
