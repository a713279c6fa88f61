//! Ends of sessions that Redis has not heard of yet.
//!
//! Each attempt to connect that Redis refuses has an end as well: that it was refused does not say that nothing was
//! written. Where a master of a Cluster is away there are thousands of them, and they fail as long as it is. So they are
//! tried again a few at a time, and there is a bound. Beyond it those are let go that have confirmed nothing, as one that
//! was never let in has not; once nothing is owed any more this node's sessions are listed, and those that are not here
//! are taken off.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound::{Excluded, Unbounded};

use super::TAKE;
use crate::engine::Disconnect;
use crate::id::{ClientId, EventId, UserId};

/// Ends that may be owed: some 2 MiB. Of one more what it has confirmed is kept, or else it is let go.
pub const MOST: usize = 16_384;

/// A user, and one of their clients.
pub type Whose = (UserId, ClientId);

/// What is owed.
#[derive(Debug, Default)]
pub struct Ends {
    /// Whose sessions, and what each has confirmed.
    owed: BTreeMap<Whose, Option<EventId>>,
    /// The last of them that was tried again: the next have their turn.
    tried: Option<Whose>,
    /// An end was let go.
    let_go: bool,
}

impl Ends {
    /// Whether none is owed.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// What the session has confirmed whose end is owed, if anything.
    pub fn confirmed(&self, whose: &Whose) -> Option<EventId> {
        *self.owed.get(whose)?
    }

    /// Redis has not heard of this end.
    pub fn add(&mut self, end: &Disconnect) {
        let full = self.owed.len() >= MOST;
        match self.owed.entry(whose(end)) {
            // Of one that was served. A later one may never have been let in.
            Entry::Occupied(mut owed) => _ = owed.insert(end.confirmed.max(*owed.get())),
            Entry::Vacant(_) if full && end.confirmed.is_none() => self.let_go = true,
            Entry::Vacant(place) => _ = place.insert(end.confirmed),
        }
    }

    /// Redis has heard of this end. What an older one has confirmed beyond it stays owed.
    pub fn done(&mut self, end: &Disconnect) {
        let whose = whose(end);
        if self.confirmed(&whose) <= end.confirmed {
            self.remove(&whose);
        }
    }

    /// It is not to be done any more.
    pub fn remove(&mut self, whose: &Whose) {
        self.owed.remove(whose);
    }

    /// Those that are tried again next.
    pub fn next(&mut self) -> Vec<Disconnect> {
        let end = |((user, client), confirmed): (&Whose, &_)| Disconnect {
            user: user.clone(),
            client: client.clone(),
            confirmed: *confirmed,
        };
        let next: Vec<_> = in_turn(&self.owed, self.tried.as_ref(), TAKE).map(end).collect();
        self.tried = next.last().map(whose);
        next
    }

    /// Whether what was let go is to be looked for: once after the last that was owed is done.
    pub fn looks_for_others(&mut self) -> bool {
        self.is_empty() && std::mem::take(&mut self.let_go)
    }
}

fn whose(end: &Disconnect) -> Whose {
    (end.user.clone(), end.client.clone())
}

/// At most so many of all, from the one after the `last` that had its turn.
pub fn in_turn<'a, K: Ord, V>(
    all: &'a BTreeMap<K, V>,
    last: Option<&K>,
    most: usize,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let after = last.map_or(Unbounded, Excluded);
    all.range::<K, _>((after, Unbounded)).chain(all).take(most.min(all.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::super::super::scripts;
    use super::super::super::tests::{context, fake};
    use super::super::{Op, RETRY, Sessions};
    use super::*;

    fn end(user: usize, confirmed: Option<EventId>) -> Disconnect {
        Disconnect { user: user.to_string().parse().unwrap(), client: "tab".parse().unwrap(), confirmed }
    }

    #[test]
    fn there_is_a_bound_and_what_has_confirmed_something_is_kept_beyond_it() {
        let (mut ends, confirmed) = (Ends::default(), Some(EventId { ms: 1, seq: 0 }));
        for user in 0..MOST {
            ends.add(&end(user, None));
        }
        ends.add(&end(1, confirmed));
        assert!(!ends.let_go, "that one was owed already");
        ends.add(&end(1, None));
        assert_eq!(ends.confirmed(&whose(&end(1, None))), confirmed);
        ends.done(&end(1, None));
        assert_eq!(ends.confirmed(&whose(&end(1, None))), confirmed, "that is not heard of");
        ends.add(&end(MOST, confirmed));
        ends.add(&end(MOST + 1, None));
        assert_eq!((ends.owed.len(), ends.confirmed(&whose(&end(MOST, None)))), (MOST + 1, confirmed));
        while !ends.is_empty() {
            assert!(!ends.looks_for_others(), "what is owed is not done");
            for end in ends.next() {
                ends.done(&end);
            }
        }
        assert!(ends.looks_for_others());
        assert!(!ends.looks_for_others());
    }

    #[test]
    fn each_has_its_turn() {
        let mut ends = Ends::default();
        for user in 0..10 * TAKE {
            ends.add(&end(user, None));
        }
        for _ in 0..2 {
            let users: std::collections::HashSet<_> =
                (0..10).flat_map(|_| ends.next()).map(|end| end.user).collect();
            assert_eq!(users.len(), 10 * TAKE);
        }
    }

    #[tokio::test]
    async fn they_are_tried_again_a_few_at_a_time_until_redis_takes_them() {
        let (asked, takes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counts, is_well) = (asked.clone(), takes.clone());
        let place = fake(move |command| {
            let words: Vec<_> = command.split(' ').collect();
            if words.get(1) != Some(&scripts::DISCONNECT.get_hash()) {
                return Some(":1");
            }
            let ends = words[2].parse::<usize>().unwrap() / 4;
            counts.fetch_add(ends, Ordering::AcqRel);
            match is_well.load(Ordering::Acquire) {
                true => Some(format!("*{ends}{}", "\r\n$2\r\n0 ".repeat(ends)).leak()),
                false => Some("-NOPERM this user has no permissions"),
            }
        });
        let mut lane = Sessions::new(context(place.await, std::time::Duration::ZERO));
        for user in 0..8 * TAKE {
            lane.owed.add(&end(user, None));
        }
        let (begun, batches) = (Instant::now(), 40);
        for user in 0..batches {
            let (reply, answer) = oneshot::channel();
            lane.batch(&mut vec![Op::Disconnect(end(user, None), reply)]).await;
            answer.await.unwrap().unwrap_err();
        }
        let times = 1 + begun.elapsed().div_duration_f64(RETRY) as usize;
        let asked = asked.load(Ordering::Acquire);
        assert!((batches + TAKE..=batches + times * TAKE).contains(&asked), "{asked} in {batches} batches");
        takes.store(true, Ordering::Release);
        lane.retry = Instant::now();
        lane.batch(&mut Vec::new()).await;
        assert!(lane.owed.is_empty());
    }
}
