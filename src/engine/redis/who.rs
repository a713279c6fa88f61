//! Who is where: the questions about users, and signing them out wherever they are.

use std::collections::BTreeSet;

use redis::{Value, cmd};

use super::inbox::Hints;
use super::sessions::late::Awaited;
use super::{Context, broken, inbox, ms, reply, scripts};
use crate::engine::Unavailable;
use crate::id::{ClientId, NodeId, UserId};

/// A user's sessions, by client id.
///
/// # Errors
/// Where Redis is away.
pub async fn of(context: &Context, user: &UserId) -> Result<Vec<(ClientId, NodeId)>, Unavailable> {
    let mut members = cmd("SMEMBERS");
    members.arg(context.keys.user(user));
    members_of(broken::ask(context, user, members).await?)
}

/// Who is in a user's set, by client id; what is no session is passed over.
///
/// # Errors
/// Where it is no set of texts.
pub fn members_of(set: Value) -> Result<Vec<(ClientId, NodeId)>, Unavailable> {
    let mut sessions = Vec::new();
    for member in reply::array(set)? {
        if let Some((client, node)) = reply::text(&member)?.split_once('@')
            && let (Ok(client), Ok(node)) = (client.parse(), node.parse())
        {
            sessions.push((client, node));
        }
    }
    sessions.sort();
    Ok(sessions)
}

/// Which of `users` are online.
///
/// # Errors
/// Where Redis is away.
pub async fn online(context: &Context, users: Vec<UserId>) -> Result<Vec<UserId>, Unavailable> {
    let mut pipeline = redis::pipe();
    for user in &users {
        pipeline.cmd("EXISTS").arg(context.keys.user(user));
    }
    let there = context.link.run(&pipeline).await?;
    let mut online = Vec::new();
    for (user, there) in users.into_iter().zip(&there) {
        if reply::integer(there)? == 1 {
            online.push(user);
        }
    }
    Ok(online)
}

/// Asks the nodes that hold the user's sessions to close them, or one of them, and notes it for one that does not hear.
///
/// # Errors
/// Where Redis is away.
pub async fn sign_out(
    context: &Context,
    user: &UserId,
    client: Option<&ClientId>,
) -> Result<(), Unavailable> {
    let call = |until: u64| {
        let mut call = scripts::call(&scripts::SIGNOUT, 2, 3);
        call.arg(context.keys.user(user)).arg(context.keys.cursor(user));
        call.arg(client.map_or("*", ClientId::as_str)).arg(ms(context.config.log_ttl)).arg(until);
        call
    };
    let awaited = Awaited::now(context);
    let mut members = broken::ask(context, user, call(awaited.until)).await?;
    if let Some(until) = awaited.again(&members)? {
        members = broken::ask(context, user, call(until)).await?;
    }
    let sessions = members_of(members)?.into_iter();
    let theirs = sessions.filter(|(its_client, _)| client.is_none_or(|client| client == its_client));
    let mut notes = redis::pipe();
    for node in theirs.map(|(_, node)| node).collect::<BTreeSet<_>>() {
        notes.add_command(inbox::add(context, node.as_str(), &Hints::sign_out(user, client)));
    }
    context.link.run(&notes).await.map(drop)
}
