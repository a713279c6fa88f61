//! Ends of sessions.

use super::{MAX_CONNECTS, late, list, user_keys, user_slot};
use crate::engine::Unavailable;
use crate::engine::redis::presence::Owed;
use crate::engine::redis::slot::Groups;
use crate::engine::redis::wire::Returned;
use crate::engine::redis::{Context, ms, reply, scripts};
use crate::id::{EventId, NodeId, UserId};

/// A session that is off its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// And nothing more is to be done.
    Told,
    /// Its user still counts as served here, since `presence` does not say yet that nobody is left.
    Untold,
}

/// A user, which of their sessions ends (`*`: all that a node has; empty: none, where only `presence` is to be told), and
/// what it has confirmed.
pub type End<'a> = (&'a UserId, &'a str, Option<EventId>);

/// Takes off their users those sessions that `node` has, in calls of at most `most`, and says what came of each call.
/// `is_trusted`: only where the link is.
pub async fn each(
    context: &Context,
    node: &NodeId,
    ends: &[End<'_>],
    most: usize,
    is_trusted: bool,
) -> (Groups, Vec<Returned>) {
    let groups = Groups::new(ends.iter().map(|(user, ..)| user_slot(context, user)), most);
    let call = |group: &[usize], until: u64| {
        let mut call = scripts::call(&scripts::DISCONNECT, 4 * group.len(), 3 + 2 * group.len());
        for place in group {
            user_keys(context, &mut call, ends[*place].0);
        }
        call.arg(node.as_str()).arg(ms(context.config.log_ttl)).arg(until);
        for place in group {
            let (_, client, confirmed) = ends[*place];
            call.arg(client).arg(confirmed.map_or_else(String::new, |confirmed| confirmed.to_string()));
        }
        call
    };
    let answers = late::ask(context, &groups, is_trusted, call).await;
    (groups, answers)
}

/// Takes a batch of sessions off their users, and notes who went offline. What is not done may be done again.
pub async fn disconnect(context: &Context, ends: &[End<'_>]) -> Vec<Result<Ended, Unavailable>> {
    if let Err(refused) = context.link.is_trusted() {
        return ends.iter().map(|_| Err(refused.clone())).collect();
    }
    let (groups, answers) = each(context, &context.config.node, ends, MAX_CONNECTS, true).await;
    let (mut owed, mut unserved) = (Owed::default(), Vec::new());
    let mut outcomes = groups.outcomes(answers, |place, answer| {
        let (user, ..) = ends[place];
        // Where it is passed over it stays listed, for whoever clears up: perhaps its keys are whole by then.
        let Some(edges) = context.broken.item_of(user, reply::text(&answer)?) else {
            return Ok(Ended::Told);
        };
        let another_shape = || Unavailable::new("disconnect.lua answered with another shape");
        let (others_here, edges) = edges.split_once(' ').ok_or_else(another_shape)?;
        if others_here == "0" {
            unserved.push(user);
        }
        owed.add(user, edges);
        Ok(Ended::Told)
    });
    // First told, then let go of: a survivor finds what is owed by the users that this node served.
    let rest = match owed.tell(context).await {
        Ok(mut settle) => {
            if !unserved.is_empty() {
                settle.add_command(list(context, "SREM", &context.config.node, unserved.into_iter()));
            }
            context.link.run(&settle).await.map(drop)
        }
        Err(error) => Err(error),
    };
    if rest.is_err() {
        outcomes.iter_mut().flatten().for_each(|ended| *ended = Ended::Untold);
    }
    outcomes
}
