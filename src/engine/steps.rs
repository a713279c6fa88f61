//! What is written down of an event of a user who is followed, alike by both engines.

use super::{Event, Unavailable};
use crate::id::{EventId, NodeId};
use crate::trace::Fields;

/// It is in the log under `id`, or is transient, and `nodes` hold the user; `again` where it was there before. `via`: which
/// way in it took, `worker` (the worker port) or `ingress`.
pub fn published(event: &Event, via: &str, id: Option<EventId>, nodes: &[NodeId], again: bool) -> Fields {
    let mut fields = begun(event, via);
    fields.extend(id.map(|id| ("id", id.to_string())));
    let nodes: Vec<_> = nodes.iter().map(NodeId::as_str).collect();
    fields.push(("nodes", nodes.join(",")));
    fields.extend(again.then(|| ("again", "1".to_owned())));
    addressed(fields, event)
}

/// It was refused.
pub fn refused(event: &Event, via: &str, error: &Unavailable) -> Fields {
    let mut fields = begun(event, via);
    fields.push(("refused", error.to_string()));
    addressed(fields, event)
}

fn begun(event: &Event, via: &str) -> Fields {
    vec![("event", event.event.to_string()), ("via", via.to_owned())]
}

fn addressed(mut fields: Fields, event: &Event) -> Fields {
    fields.extend(event.client.as_ref().map(|client| ("client", client.to_string())));
    fields.extend(event.except.as_ref().map(|client| ("except", client.to_string())));
    fields.extend(event.collapse.as_ref().map(|key| ("collapse", key.to_string())));
    fields.extend(event.transient.then(|| ("transient", "1".to_owned())));
    fields
}
