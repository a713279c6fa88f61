//! Users who are followed, in memory: the steps are kept here instead of in Redis, no longer than there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::context::Context;
use crate::engine::{Event, Published, steps};
use crate::id::{EventId, UserId};
use crate::trace::{KEPT, MAX_STEPS, MAX_USERS, PAGE, Step, Traced, Tracer};

/// Steps that are filed at once.
const BATCH: usize = 256;

/// Steps by user.
#[derive(Default)]
pub(super) struct Traces {
    of: HashMap<UserId, Steps>,
    places: u64,
}

struct Steps {
    /// Each with its place.
    kept: VecDeque<(EventId, Step)>,
    until: Instant,
}

impl Traces {
    /// Lets go of steps whose time is over.
    pub(super) fn lapse(&mut self) {
        let now = Instant::now();
        self.of.retain(|_, steps| steps.until > now);
    }

    /// Keeps a step that is filed at `ms`.
    fn file(&mut self, step: Step, ms: u64, tracer: &Tracer) {
        if !self.of.contains_key(&step.user) && !self.has_room(&step.user, tracer) {
            return;
        }
        self.places += 1;
        // Unlike a log's, these count on beyond a millisecond.
        let place = EventId { ms, seq: self.places };
        let until = Instant::now() + KEPT;
        let steps =
            self.of.entry(step.user.clone()).or_insert_with(|| Steps { kept: VecDeque::new(), until });
        steps.until = until;
        steps.kept.push_back((place, step));
        if steps.kept.len() > MAX_STEPS {
            steps.kept.pop_front();
        }
    }

    /// Whether there is room for one more user: of those who were followed before, the one without a step for the longest
    /// goes. Nobody goes for the last step of one who is not followed any more.
    fn has_room(&mut self, user: &UserId, tracer: &Tracer) -> bool {
        self.lapse();
        if self.of.len() < MAX_USERS {
            return true;
        }
        let first = self.of.iter().min_by_key(|(user, steps)| (tracer.follows(user.as_str()), steps.until));
        let Some(first) = first.map(|(user, _)| user.clone()) else { return true };
        let goes = tracer.follows(user.as_str()) || !tracer.follows(first.as_str());
        if goes {
            self.of.remove(&first);
        }
        goes
    }
}

/// Files steps for as long as the process lives.
pub(super) async fn keep(context: Arc<Context>) {
    loop {
        let steps = context.tracer.take(BATCH).await;
        let ms = context.now_ms();
        context.with(|state| {
            for step in steps {
                state.traces.file(step, ms, &context.tracer);
            }
        });
    }
}

impl Context {
    /// A user's steps after a place, oldest first; the first ones where there are many.
    pub(super) fn read_traces(&self, user: &UserId, after: EventId) -> Vec<Traced> {
        let traced = |(place, step): &(EventId, Step)| {
            let fields = step.written(self.config.node.as_str());
            let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            Traced { place: place.to_string(), fields }
        };
        self.with(|state| {
            state.traces.lapse();
            let steps = state.traces.of.get(user).into_iter().flat_map(|steps| &steps.kept);
            steps.filter(|(place, _)| *place > after).map(traced).take(PAGE).collect()
        })
    }

    /// Notes what became of an event.
    pub(super) fn trace_published(&self, event: &Event, published: &Published, again: bool) {
        self.tracer.note(event.user.as_str(), "published", || {
            steps::published(event, "worker", published.id, &published.nodes, again)
        });
    }
}
