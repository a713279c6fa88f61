//! Users who are followed, in memory: the steps are kept here instead of in Redis.

use std::collections::{HashMap, VecDeque};

use super::context::Context;
use crate::engine::{Event, Published, steps};
use crate::id::{EventId, UserId};
use crate::trace::{MAX_STEPS, MAX_USERS, PAGE, Traced};

/// Steps by user, each with its place.
#[derive(Default)]
pub(super) struct Traces {
    of: HashMap<UserId, VecDeque<(EventId, Traced)>>,
    places: u64,
}

impl Context {
    /// A user's steps after a place, oldest first; the first ones where there are many.
    pub(super) fn read_traces(&self, user: &UserId, after: EventId) -> Vec<Traced> {
        let now = self.now_ms();
        self.with(|state| {
            let traces = &mut state.traces;
            for step in self.tracer.take_now(usize::MAX) {
                traces.places += 1;
                // Unlike a log's, these count on beyond a millisecond.
                let place = EventId { ms: now, seq: traces.places };
                let fields = step.written(self.config.node.as_str());
                let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                if traces.of.len() >= MAX_USERS && !traces.of.contains_key(&step.user) {
                    traces.of.clear(); // those who were followed long ago
                }
                let steps = traces.of.entry(step.user).or_default();
                steps.push_back((place, Traced { place: place.to_string(), fields }));
                if steps.len() > MAX_STEPS {
                    steps.pop_front();
                }
            }
            let steps = traces.of.get(user).into_iter().flatten();
            steps.filter(|(place, _)| *place > after).map(|(_, step)| step.clone()).take(PAGE).collect()
        })
    }

    /// Notes what became of an event.
    pub(super) fn trace_published(&self, event: &Event, published: &Published, again: bool) {
        self.tracer.note(event.user.as_str(), "published", || {
            steps::published(event, "worker", published.id, &published.nodes, again)
        });
    }
}
