//! What is done where another server has taken over, or one came back, that may lack what was written last.
//!
//! Sessions look into their logs. And what an older data set brings back is taken off again: sessions of this node that
//! have ended since. Nobody but their node can tell, and while others keep the user, none of its keys lapses.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::debug;

use super::{Context, reply, sessions};
use crate::engine::{Cause, Unavailable};
use crate::id::{ClientId, UserId};

/// Users whose sessions are listed at once.
const USERS: usize = 64;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// What is left to do.
#[derive(Debug, Default)]
pub struct Doubts {
    listing: Notify,
}

/// Tells the node of each doubt.
pub async fn tell(context: Arc<Context>) {
    loop {
        let doubt = context.link.doubted().await;
        if let Some(node) = context.node() {
            node.doubted(&|user| doubt.concerns(sessions::user_slot(&context, user)));
        }
        context.doubts.listing.notify_one();
    }
}

/// Tells the node, after each doubt, which sessions Redis has on it.
pub async fn list(context: Arc<Context>) {
    loop {
        context.doubts.listing.notified().await;
        while let Err(error) = list_all(&context).await {
            debug!(%error, "this node's sessions are not listed yet");
            sleep(PAUSE).await;
        }
    }
}

async fn list_all(context: &Context) -> Result<(), Unavailable> {
    let Some(node) = context.node() else { return Ok(()) };
    let mut served = cmd("SMEMBERS");
    served.arg(context.keys.users(&context.config.node));
    let mut users = Vec::new();
    for user in reply::array(context.link.probe_one(served).await?)? {
        users.extend(reply::text(&user)?.parse::<UserId>());
    }
    for batch in users.chunks(USERS * context.link.masters()) {
        let mut questions = redis::pipe();
        for user in batch {
            questions.cmd("SMEMBERS").arg(context.keys.user(user));
        }
        for (user, members) in batch.iter().zip(context.link.probe_each(&questions).await) {
            let members = match members {
                Err(error) if error.cause == Cause::BrokenKey => continue,
                members => reply::array(members?)?,
            };
            let mut clients = Vec::with_capacity(1);
            for member in &members {
                let (client, holder) = reply::text(member)?.split_once('@').unwrap_or_default();
                if holder == context.config.node.as_str() {
                    clients.extend(client.parse::<ClientId>());
                }
            }
            node.listed(user, clients);
        }
    }
    Ok(())
}
