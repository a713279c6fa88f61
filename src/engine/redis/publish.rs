//! Publishing in Redis: one script call for a batch, and one entry in the inbox of each other node that holds any of its
//! users. The script adds it where that is worth its time and where it may: not of large batches, not on a Cluster, not
//! before replicas have the batch. There the caller does.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::{Pipeline, Value};
use tracing::{debug, warn};

use super::batch::MAX_EVENTS;
use super::inbox::Hints;
use super::keys::{EVENTS, Keys};
use super::slot::Groups;
use super::{Context, inbox, ms, reply, scripts, traces};
use crate::engine::{Event, Published, Unavailable};
use crate::id::{EventId, Logged, NodeId, UserId};
use crate::lock::lock;
use crate::moderation;

/// About how many bytes of an inbox entry a small event takes.
const HINT: usize = 128;

/// What `publish.lua` made of an event.
pub struct Appended {
    /// Its id; the first one's where it was published before; none where transient, or where not known.
    pub id: Option<EventId>,
    /// The id before it; none where nothing was appended.
    pub prev: Option<EventId>,
    /// Nodes with a live lease on the user.
    pub nodes: Vec<NodeId>,
    /// The first so many of `nodes` were not told by the script: its caller tells them.
    untold: usize,
}

/// What nodes are told of an event.
enum Word {
    /// The event, and where it stands in the log; none where transient.
    Hint(Option<Logged>),
    /// Nothing was appended: whoever listens has to look into the log.
    Look,
}

impl Appended {
    fn word(&self, event: &Event) -> Word {
        match (self.id, self.prev) {
            (Some(id), Some(prev)) => Word::Hint(Some(Logged { id, prev })),
            _ if event.transient => Word::Hint(None),
            _ => Word::Look,
        }
    }
}

/// Publishes a batch and sends it on its way.
pub async fn publish(
    context: &Context,
    events: &[Event],
    calls: &Groups,
) -> Vec<Result<Published, Unavailable>> {
    let batch: Vec<_> = events.iter().map(|event| (event, None)).collect();
    let outcomes = route(context, &batch, calls).await.into_iter();
    outcomes
        .map(|appended| appended.map(|appended| Published { id: appended.id, nodes: appended.nodes }))
        .collect()
}

/// An event, and the ingress entry it came by, if it did.
pub type Routed<'a> = (&'a Event, Option<Entry<'a>>);

/// An entry of an ingress stream.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The stream, as `--ingress` names it.
    pub stream: &'a str,
    /// The entry's id.
    pub id: &'a str,
}

/// Appends a batch to the logs and sends it on its way. An event whose hints cannot be sent counts as not published: it
/// waits in the log, but is not on its way to everyone.
pub async fn route(
    context: &Context,
    batch: &[Routed<'_>],
    calls: &Groups,
) -> Vec<Result<Appended, Unavailable>> {
    let mut outcomes = append(context, batch, calls).await;
    let (hints, nodes) = hints(context, batch.iter().map(|(event, _)| *event).zip(&outcomes));
    let answers = context.link.run_each(&hints).await;
    traces::sent(context, batch.iter().map(|(event, _)| *event).zip(&outcomes));
    let failed: Vec<_> =
        nodes.iter().zip(answers).filter_map(|(node, answer)| Some((node, answer.err()?))).collect();
    for ((event, entry), outcome) in batch.iter().zip(&mut outcomes) {
        let Ok(appended) = outcome else { continue };
        let untold = &appended.nodes[..appended.untold];
        let missed: Vec<_> = failed.iter().filter(|(node, _)| untold.contains(node)).collect();
        let Some((node, error)) = missed.first() else { continue };
        missed.iter().for_each(|(node, _)| note_unsent(context, node, &event.user));
        if entry.is_some() && event.transient && appended.nodes.len() > missed.len() {
            // No log knows it: tried again, it would come once more to those who have it.
            tell_missed(context, node, error);
        } else {
            *outcome = Err(error.clone());
        }
    }
    outcomes
}

/// Appends a batch to the logs.
async fn append(
    context: &Context,
    batch: &[Routed<'_>],
    groups: &Groups,
) -> Vec<Result<Appended, Unavailable>> {
    let (keys, config) = (&context.keys, &context.config);
    let by = By {
        node: &config.node,
        log_length: config.log_length,
        log_ttl: config.log_ttl,
        tells: groups.iter().len() == 1 && config.wait_replicas == 0 && !context.link.is_cluster(),
    };
    let mut calls = redis::pipe();
    for group in groups.iter() {
        calls.add_command(script(keys, &by, group.iter().map(|place| batch[*place])));
    }
    moderation::passed(batch.len());
    let answers = context.link.run_durably(&calls).await;
    let outcomes = groups.each(answers, |_, answer| parse(answer));
    for (outcome, (event, _)) in outcomes.iter().zip(batch) {
        if let Err(error) = outcome {
            context.broken.tell(&event.user, error);
        }
    }
    let via = if batch.first().is_some_and(|(_, entry)| entry.is_some()) { "ingress" } else { "worker" };
    traces::published(context, batch.iter().map(|(event, _)| *event).zip(&outcomes), via);
    outcomes
}

/// Users whose nodes have to be told to look into the log.
pub type Unsent = BTreeSet<(NodeId, UserId)>;

/// Users that [`Unsent`] may hold; beyond that the heartbeat, which compares each user's newest event, mends it later.
const UNSENT_BOUND: usize = 10_000;

/// A node could not be told of this user: it is told to look, by [`mend`].
pub(super) fn note_unsent(context: &Context, node: &NodeId, user: &UserId) {
    let mut unsent = lock(&context.unsent);
    if unsent.len() < UNSENT_BOUND {
        unsent.insert((node.clone(), user.clone()));
    }
}

/// Tells of an event that no log has, and a node did not get though others did: it is not sent again.
pub(super) fn tell_missed(context: &Context, node: &NodeId, error: &Unavailable) {
    if let Some(times) = lock(&context.missed).again() {
        warn!(%node, %error, times, "an event that is not logged did not reach a node");
    }
}

/// Tells nodes to look where hints could not be sent: their publishers were refused, but what they published is in
/// the logs, and may not wait for the heartbeat.
///
/// # Errors
/// Where an inbox took nothing: it is tried again.
pub async fn mend(context: &Context) -> Result<(), Unavailable> {
    let unsent: Vec<_> = std::mem::take(&mut *lock(&context.unsent)).into_iter().collect();
    let of_nodes = unsent.chunk_by(|(one, _), (next, _)| one == next);
    let entries: Vec<_> = of_nodes.flat_map(|of_node| of_node.chunks(MAX_EVENTS)).collect();
    let mut pipeline = redis::pipe();
    for entry in &entries {
        let mut looks = Hints::default();
        entry.iter().for_each(|(_, user)| looks.look(user, None));
        pipeline.add_command(inbox::add(context, entry[0].0.as_str(), &looks));
    }
    let mut sent = Ok(());
    for (entry, answer) in entries.iter().zip(context.link.run_each(&pipeline).await) {
        if let Err(error) = answer {
            // These alone: each of the others would look into its log with every beat until this inbox takes something.
            entry.iter().for_each(|(node, user)| note_unsent(context, node, user));
            sent = Err(error);
        }
    }
    sent
}

/// A batch as it is sent to Redis, for benchmarks, which have none.
pub fn packed(node: &NodeId, events: &[Event]) -> Vec<u8> {
    let by = By { node, log_length: 256, log_ttl: Duration::from_secs(600), tells: true };
    script(&Keys::new("", false), &by, events.iter().map(|event| (event, None))).get_packed_command()
}

/// Who publishes, and how.
struct By<'a> {
    /// The caller's node, whose sessions the script leaves to it.
    node: &'a NodeId,
    log_length: usize,
    log_ttl: Duration,
    /// Whether the script tells the other nodes.
    tells: bool,
}

/// The script call for events that share a slot.
fn script<'a>(keys: &Keys, by: &By<'_>, events: impl Iterator<Item = Routed<'a>> + Clone) -> redis::Cmd {
    let count = events.clone().count();
    let mut call = scripts::call(&scripts::PUBLISH, 3 * count, 5 + 3 * count);
    for (event, _) in events.clone() {
        call.arg(keys.nodes_of(&event.user)).arg(keys.log(&event.user)).arg(keys.cursor(&event.user));
    }
    call.arg(by.log_length).arg(ms(by.log_ttl)).arg(by.node.as_str());
    call.arg(if by.tells { inbox::BOUND } else { 0 }).arg(keys.before_node());
    for (event, entry) in events {
        call.arg(event.event.as_str()).arg(event.data.as_bytes());
        let options = [
            ("client", event.client.as_ref().map(|client| client.as_str())),
            ("except", event.except.as_ref().map(|client| client.as_str())),
            ("collapse", event.collapse.as_ref().map(|key| key.as_str())),
            ("key", event.key.as_ref().map(|key| key.as_str())),
            ("ingress", entry.map(|entry| entry.id)),
            ("stream", entry.map(|entry| entry.stream).filter(|stream| *stream != EVENTS)),
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

/// Reads what `publish.lua` answered.
///
/// # Errors
/// Where it has another shape.
pub fn parse(answer: Value) -> Result<Vec<Result<Appended, Unavailable>>, Unavailable> {
    let mut lines = reply::text(&answer)?.split('\n');
    let untold = lines.next().unwrap_or_default();
    let line = |line: &str| {
        let mut words = reply::item(line)?.split(' ');
        let mut id = || reply::event_id_or_none(words.next().unwrap_or_default());
        let (id, prev) = (id()?, id()?);
        let mut nodes: Vec<NodeId> = words.filter_map(|node| node.parse().ok()).collect();
        let untold = match untold {
            "" => 0,
            "*" => nodes.len(),
            these => {
                let told = |node: &NodeId| !these.split(' ').any(|untold| untold == node.as_str());
                nodes.sort_by_key(told);
                nodes.partition_point(|node| !told(node))
            }
        };
        Ok(Appended { id, prev, nodes, untold })
    };
    Ok(lines.map(line).collect())
}

/// Hands this node its hints, and builds one inbox entry for each other node that the script has not told.
fn hints<'a>(
    context: &Context,
    events: impl ExactSizeIterator<Item = (&'a Event, &'a Result<Appended, Unavailable>)>,
) -> (Pipeline, Vec<NodeId>) {
    let count = events.len();
    let mut batches: Vec<(&NodeId, Hints)> = Vec::new();
    for (event, appended) in events {
        let Ok(appended) = appended else { continue };
        if let (Some(id), Some(_)) = (appended.id, appended.prev) {
            debug!(user = %event.user, %id, nodes = ?appended.nodes, "published");
        }
        if appended.nodes.contains(&context.config.node) {
            deliver(context, event, appended);
        }
        for node in appended.nodes[..appended.untold].iter().filter(|node| **node != context.config.node) {
            let at = batches.iter().position(|(known, _)| *known == node).unwrap_or_else(|| {
                batches.push((node, Hints::with_capacity(HINT * count)));
                batches.len() - 1
            });
            let hints = &mut batches[at].1;
            match appended.word(event) {
                Word::Hint(logged) => hints.event(event, logged),
                Word::Look => hints.look(&event.user, appended.id),
            }
        }
    }
    let (mut pipeline, mut nodes) = (redis::pipe(), Vec::with_capacity(batches.len()));
    for (node, hints) in batches {
        pipeline.add_command(inbox::add(context, node.as_str(), &hints));
        nodes.push(node.clone());
    }
    (pipeline, nodes)
}

fn deliver(context: &Context, event: &Event, appended: &Appended) {
    let Some(node) = context.node() else { return };
    match appended.word(event) {
        Word::Hint(logged) => node.hint(event.hint(logged)),
        Word::Look => node.look(event.user.as_str(), appended.id),
    }
}
