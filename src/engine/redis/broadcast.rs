//! Broadcasts: events for every client there is. They are in no log.

use redis::Value;

use super::inbox::Hints;
use super::publish::tell_missed;
use super::refused::is_wrong_type;
use super::{Context, inbox, status};
use crate::engine::Unavailable;
use crate::id::{EventName, NodeId};
use crate::protocol::publish::Data;

/// Sends events to every live node's sessions, in their order: to this node's, whether it is on the list of live ones or
/// not, and to those of all others there.
///
/// # Errors
/// Where Redis is away.
pub async fn send(context: &Context, broadcasts: &[(EventName, Data)]) -> Result<Vec<NodeId>, Unavailable> {
    let (now, leases) = (status::now(context), status::leases(context).await?);
    let own = &context.config.node;
    let others: Vec<NodeId> =
        leases.keys().filter_map(|name| name.parse().ok()).filter(|name| name != own).collect();
    let (mut pipeline, mut hints) = (redis::pipe(), Hints::default());
    for (event, data) in broadcasts {
        hints.broadcast(event, data);
    }
    for node in &others {
        pipeline.add_command(inbox::add(context, node.as_str(), &hints));
    }
    let added = context.link.run_each(&pipeline).await;
    // Of a node that is no longer live, nobody may be able to clear up what is on a master that is away.
    let is_live = |node: &NodeId| leases.get(node.as_str()).is_some_and(|end| *end > now);
    let mut errors =
        others.iter().zip(&added).filter_map(|(node, added)| Some((node, added.as_ref().err()?)));
    if !added.iter().any(Result::is_ok)
        && let Some((_, error)) = errors.find(|(node, error)| !is_wrong_type(error) && is_live(node))
    {
        return Err(error.clone());
    }
    // As events of a user: what comes after it here must not overtake it.
    if let Some(node) = context.node() {
        broadcasts.iter().for_each(|(event, data)| node.broadcast(event.as_str(), data.as_str()));
    }
    let mut told = vec![own.clone()];
    for (node, added) in others.into_iter().zip(added) {
        match added {
            // An inbox that is not there is that of a node that has gone.
            Ok(Value::Nil) => {}
            Ok(_) => told.push(node),
            // Were it sent again, all others would tell it their clients twice.
            Err(error) => tell_missed(context, &node, &error),
        }
    }
    Ok(told)
}
