//! Publishing in Redis: one script call for a batch, then one inbox entry for each node that holds any of its
//! users.

use redis::{Pipeline, Value, cmd};
use tracing::debug;

use super::{Context, inbox, ms, reply, scripts, traces};
use crate::engine::{Event, Hint, Published, Unavailable};
use crate::id::{EventId, EventName, NodeId};
use crate::protocol::publish::Data;

/// Events of one script call: the cost per event is flat beyond 32, and 64 keep Redis for 0.6 ms.
pub const MAX_EVENTS: usize = 64;

/// What `publish.lua` made of an event.
pub struct Appended {
    /// Its id; the first one's where it was published before; none where transient, or where not known.
    pub id: Option<EventId>,
    /// The id before it; none where nothing was appended.
    pub prev: Option<EventId>,
    /// Nodes with a live lease on the user.
    pub nodes: Vec<NodeId>,
}

/// Publishes a batch and sends it on its way.
///
/// # Errors
/// Where Redis is away; each event's own trouble is in its place.
pub async fn publish(
    context: &Context,
    events: &[Event],
) -> Result<Vec<Result<Published, Unavailable>>, Unavailable> {
    let call = script(context, events.iter().map(|event| (event, None)));
    let appended = parse(context.link.run_one(call).await?)?;
    traces::published(context, events.iter().zip(&appended), "worker");
    let hints = hints(context, events.iter().zip(&appended));
    if !hints.is_empty() {
        context.link.run(&hints).await?;
        traces::sent(context, events.iter().zip(&appended));
    }
    Ok(appended
        .into_iter()
        .map(|appended| appended.map(|appended| Published { id: appended.id, nodes: appended.nodes }))
        .collect())
}

/// The script call for a batch; with each event the ingress entry it came by, if it did.
pub fn script<'a>(
    context: &Context,
    events: impl Iterator<Item = (&'a Event, Option<&'a str>)> + Clone,
) -> redis::Cmd {
    let count = events.clone().count();
    let mut call = scripts::call(&scripts::PUBLISH, 3 * count, 2 + 3 * count);
    for (event, _) in events.clone() {
        call.arg(context.keys.nodes_of(&event.user))
            .arg(context.keys.log(&event.user))
            .arg(context.keys.cursor(&event.user));
    }
    call.arg(context.config.log_length).arg(ms(context.config.log_ttl));
    for (event, entry) in events {
        call.arg(event.event.as_str()).arg(event.data.as_bytes());
        let options = [
            ("client", event.client.as_ref().map(|client| client.as_str())),
            ("except", event.except.as_ref().map(|client| client.as_str())),
            ("collapse", event.collapse.as_ref().map(|key| key.as_str())),
            ("key", event.key.as_ref().map(|key| key.as_str())),
            ("ingress", entry),
            ("transient", event.transient.then_some("1")),
        ];
        call.arg(options.iter().filter(|(_, value)| value.is_some()).count());
        for (option, value) in options {
            if let Some(value) = value {
                call.arg(option).arg(value);
            }
        }
    }
    call
}

/// What the script answered, in the order of its events.
///
/// # Errors
/// Where the answer has another shape; what Redis refused is in its place.
pub fn parse(value: Value) -> Result<Vec<Result<Appended, Unavailable>>, Unavailable> {
    Ok(reply::array(value)?
        .into_iter()
        .map(|item| {
            let items = reply::item(item)?;
            let [id, prev, nodes @ ..] = items.as_slice() else {
                return Err(Unavailable::new("publish.lua answered with another shape"));
            };
            Ok(Appended {
                id: reply::event_id(id)?,
                prev: reply::event_id(prev)?,
                nodes: nodes.iter().filter_map(|node| reply::text(node).ok()?.parse().ok()).collect(),
            })
        })
        .collect())
}

/// An inbox entry's fields and their data.
type Items<'a> = Vec<(String, &'a [u8])>;

/// Hands this node its hints, and builds one inbox entry for each other node.
pub fn hints<'a>(
    context: &Context,
    events: impl Iterator<Item = (&'a Event, &'a Result<Appended, Unavailable>)>,
) -> Pipeline {
    let mut batches: Vec<(&NodeId, Items<'_>)> = Vec::new();
    for (event, appended) in events {
        let Ok(appended) = appended else { continue };
        if let (Some(id), Some(_)) = (appended.id, appended.prev) {
            debug!(user = %event.user, %id, nodes = ?appended.nodes, "published");
        }
        let mut head = None;
        for node in &appended.nodes {
            if *node == context.config.node {
                deliver(context, event, appended);
                continue;
            }
            let head = head.get_or_insert_with(|| match (appended.id, appended.prev, event.transient) {
                (_, _, true) => inbox::transient(event),
                (Some(id), Some(prev), _) => inbox::event(event, id, prev),
                _ => inbox::look(&event.user),
            });
            let item = (head.clone(), event.data.as_bytes());
            match batches.iter_mut().find(|(known, _)| *known == node) {
                Some((_, items)) => items.push(item),
                None => batches.push((node, vec![item])),
            }
        }
    }
    let mut pipeline = redis::pipe();
    for (node, items) in batches {
        pipeline.add_command(inbox::add(context, node.as_str(), items));
    }
    pipeline
}

fn deliver(context: &Context, event: &Event, appended: &Appended) {
    let Some(node) = context.node() else { return };
    let place = match (appended.id, appended.prev) {
        (Some(id), Some(prev)) => Some((id, prev)),
        _ if event.transient => None,
        _ => return node.look(event.user.as_str()),
    };
    node.hint(Hint {
        user: event.user.as_str(),
        place,
        client: event.client.as_ref().map(|client| client.as_str()),
        except: event.except.as_ref().map(|client| client.as_str()),
        event: event.event.as_str(),
        data: event.data.as_str(),
    });
}

/// Sends an event to every live node's sessions.
///
/// # Errors
/// Where Redis is away.
pub async fn broadcast(
    context: &Context,
    event: &EventName,
    data: &Data,
) -> Result<Vec<NodeId>, Unavailable> {
    let mut live = cmd("ZRANGE");
    live.arg(context.keys.nodes()).arg(0).arg(-1);
    let mut nodes = Vec::new();
    for node in reply::array(context.link.run_one(live).await?)? {
        if let Ok(node) = reply::text(&node)?.parse::<NodeId>() {
            nodes.push(node);
        }
    }
    let mut pipeline = redis::pipe();
    for node in &nodes {
        pipeline.add_command(inbox::add(
            context,
            node.as_str(),
            [(inbox::broadcast(event), data.as_bytes())],
        ));
    }
    if nodes.is_empty() {
        return Ok(nodes);
    }
    let added = context.link.run(&pipeline).await?;
    // An inbox that is not there is that of a node that has gone.
    Ok(nodes.into_iter().zip(added).filter(|(_, added)| *added != Value::Nil).map(|(node, _)| node).collect())
}
