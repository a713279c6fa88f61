//! What of many events is sent to Redis at once, and in which script calls.

use std::collections::HashMap;

use super::slot::{Groups, Slot};
use super::{Context, sessions};
use crate::engine::Event;
use crate::id::UserId;

/// Events of one script call: the cost per event is flat beyond 32, and 64 keep Redis for 0.6 ms.
pub const MAX_EVENTS: usize = 64;
/// Events that are sent to a master at once, in several calls. Their answers are waited for, so that many share the way
/// there and back: with 64, two nodes whose Redis is a millisecond away publish a third as much.
pub const MAX_AT_ONCE: usize = 512;
/// Events of a call where one would not hold them all: users fall to calls by chance, and seldom more than
/// [`MAX_EVENTS`] to one.
const SHARE: usize = 40;
/// Bytes of data of one script call, but for one event that is larger: they keep Redis for as long.
pub const MAX_BYTES: usize = 256 << 10;

/// The first items, so many at most, for which there is room, but one at least; and the rest.
fn split<T>(items: &[T], most: usize, mut has_room: impl FnMut(&T) -> bool) -> (&[T], &[T]) {
    let fits = items.iter().take(most).enumerate().take_while(|(place, item)| has_room(item) || *place == 0);
    items.split_at(fits.count())
}

/// Cuts items into batches of so many, at most, and of [`MAX_BYTES`].
pub fn sized<T>(mut items: &[T], most: usize, size: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let (batch, rest) = split(items, most, |item| {
            bytes += size(item);
            bytes <= MAX_BYTES
        });
        items = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

/// Cuts events into what is sent to each master at once, in their order, and that into script calls. All of a user's
/// events are in one of these, so that no call overtakes another where Redis turns one away: it does not have the script,
/// or a Cluster's slot is on its way to another master. `slot` is told among how many calls a single server shares users.
pub fn batches<T>(
    mut events: &[T],
    event: impl Fn(&T) -> &Event,
    slot: impl Fn(&UserId, usize) -> Slot,
    masters: usize,
) -> impl Iterator<Item = (&[T], Groups)> {
    std::iter::from_fn(move || {
        let most = events.len().min(MAX_AT_ONCE * masters);
        let shares = if most <= MAX_EVENTS { 1 } else { most.div_ceil(SHARE) };
        let (mut bytes, mut slots, mut of_slots) =
            (0, Vec::with_capacity(most), HashMap::<Slot, usize>::new());
        let (batch, rest) = split(events, most, |next| {
            let next = event(next);
            bytes += next.data.as_bytes().len();
            let slot = slot(&next.user, shares);
            slots.push(slot);
            let of_slot = of_slots.entry(slot).or_default();
            *of_slot += 1;
            bytes <= MAX_BYTES * masters && *of_slot <= MAX_EVENTS
        });
        events = rest;
        slots.truncate(batch.len());
        (!batch.is_empty()).then(|| (batch, Groups::new(slots.into_iter(), MAX_EVENTS)))
    })
}

/// What [`batches`] cuts by.
pub fn slot(context: &Context) -> impl Fn(&UserId, usize) -> Slot {
    move |user, shares| match context.link.is_cluster() {
        true => sessions::user_slot(context, user),
        false => Slot::share(user.as_str().as_bytes(), shares),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn of_users<'a>(users: impl Iterator<Item = &'a str>) -> Vec<Event> {
        users.map(|user| Event::of_tests(user, "1".to_owned())).collect()
    }

    /// By size: each batch, and its calls.
    fn cut(events: &[Event], masters: usize) -> Vec<(usize, Vec<usize>)> {
        let slot = |user: &UserId, shares| match masters {
            1 => Slot::share(user.as_str().as_bytes(), shares),
            _ => Slot::of(user.as_str().as_bytes()),
        };
        let batches = batches(events, |event| event, slot, masters);
        batches.map(|(batch, calls)| (batch.len(), calls.iter().map(<[_]>::len).collect())).collect()
    }

    #[test]
    fn a_batch_takes_so_many_events_or_so_many_bytes_but_one_at_least() {
        let sizes = |sizes: &[usize], masters: usize| {
            let event =
                |(user, size)| Event::of_tests(&format!("u-{user}"), format!("\"{}\"", "x".repeat(size - 2)));
            let events: Vec<_> = (0..).zip(sizes.iter().copied()).map(event).collect();
            cut(&events, masters).into_iter().map(|(size, _)| size).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[], 1), [0; 0]);
        assert_eq!(sizes(&[200; 150], 1), [150]);
        assert_eq!(sizes(&[200; 700], 1), [512, 188]);
        assert_eq!(sizes(&[200; 700], 2), [700]);
        assert_eq!(sizes(&[MAX_BYTES / 4; 9], 1), [4, 4, 1]);
        assert_eq!(sizes(&[200, 4 * MAX_BYTES, 200, 200], 1), [1, 1, 2]);
        assert_eq!(sizes(&[4 * MAX_BYTES; 3], 1), [1, 1, 1]);
    }

    #[test]
    fn no_user_is_in_two_calls_of_a_batch() {
        // One call, where it holds all of them.
        assert_eq!(cut(&of_users(["u"; 64].into_iter()), 1), [(64, vec![64])]);
        assert_eq!(cut(&of_users(["u"; 70].into_iter()), 1), [(64, vec![64]), (6, vec![6])]);
        let users: Vec<_> = (0..400).map(|user| format!("u-{}", user % 160)).collect();
        let events = of_users(users.iter().map(String::as_str));
        let share = |user: &UserId, shares| Slot::share(user.as_str().as_bytes(), shares);
        let (batch, calls) = batches(&events, |event| event, share, 1).next().unwrap();
        assert_eq!((batch.len(), calls.iter().count()), (400, 10));
        let mut at = BTreeMap::new();
        for (call, events) in calls.iter().enumerate() {
            assert!(events.len() <= MAX_EVENTS && events.is_sorted());
            let elsewhere = |place: &usize| *at.entry(&batch[*place].user).or_insert(call) != call;
            assert!(!events.iter().any(elsewhere));
        }
        // On a Cluster one for each slot, however many masters there are.
        let of_two = of_users(["u"; 70].into_iter().chain(["v"; 70]));
        assert_eq!(cut(&of_two[..70], 3), [(64, vec![64]), (6, vec![6])]);
        assert_eq!(cut(&of_two, 3), [(64, vec![64]), (70, vec![6, 64]), (6, vec![6])]);
    }
}
