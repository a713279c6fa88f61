//! Where a port's connections wait between requests: before their first, after an answer. There are so many seats.
//!
//! Whoever sits there costs a file and sends nothing whole. Healthy peers are through in milliseconds, slow and idle
//! ones are not; so where all seats are taken and somebody comes, the one who has sat the longest has to go, and where even
//! that one has only just come (everyone comes at once), nobody else is let in for the moment. Whoever takes the last
//! seat after an answer is to leave with it: those who ask again and again have always only just sat down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::lock::lock;

/// Nobody has to go before this: a handshake over a bad line takes as long.
const GRACE: Duration = Duration::from_secs(1);
/// Stands for no seat.
const NONE: u64 = 0;

/// The seats of one port.
pub struct Room {
    most: usize,
    seats: Mutex<Seats>,
    freed: Notify,
}

#[derive(Default)]
struct Seats {
    last: u64,
    /// In the order in which they were taken.
    taken: BTreeMap<u64, (Instant, Arc<Notify>)>,
}

/// A connection that waits here between its requests.
pub struct Guest {
    room: Arc<Room>,
    seat: AtomicU64,
    asked_to_go: Arc<Notify>,
}

impl Room {
    /// A room with `most` seats.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, seats: Mutex::default(), freed: Notify::new() })
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        lock(&self.seats)
    }

    /// Waits until there is a seat, or until somebody may be asked to make room, and does so.
    async fn seat_free(&self) {
        loop {
            let patience = {
                let mut seats = self.seats();
                if seats.taken.len() < self.most {
                    return;
                }
                let Some(mut oldest) = seats.taken.first_entry() else { return };
                let sat = oldest.get().0.elapsed();
                if sat >= GRACE {
                    oldest.get_mut().1.notify_one();
                    oldest.remove();
                    return;
                }
                GRACE - sat
            };
            // Only one waits here, so a note that came before it waits is kept for it.
            let _ = timeout(patience, self.freed.notified()).await;
        }
    }

    /// Asks everyone to go who has sat for longer than `most`.
    pub fn sweep(&self, most: Duration) {
        let mut seats = self.seats();
        while let Some(oldest) = seats.taken.first_entry() {
            if oldest.get().0.elapsed() <= most {
                return;
            }
            oldest.remove().1.notify_one();
        }
    }

    /// Gives a new connection a seat, as soon as there is one. One waits here at a time, with a file of its own.
    pub async fn enter(self: &Arc<Self>) -> Arc<Guest> {
        self.seat_free().await;
        let guest =
            Guest { room: self.clone(), seat: AtomicU64::new(NONE), asked_to_go: Arc::new(Notify::new()) };
        guest.sit();
        Arc::new(guest)
    }
}

impl Guest {
    /// A request has been answered: it waits for the answer to be taken, and for the next request. Says whether all
    /// seats are taken now: then there should be no next one.
    pub fn sit(&self) -> bool {
        let mut seats = self.room.seats();
        seats.last += 1;
        let seat = seats.last;
        seats.taken.insert(seat, (Instant::now(), self.asked_to_go.clone()));
        self.seat.store(seat, Ordering::Relaxed);
        seats.taken.len() >= self.room.most
    }

    /// A request has come.
    pub fn stand(&self) {
        let seat = self.seat.swap(NONE, Ordering::Relaxed);
        if seat != NONE && self.room.seats().taken.remove(&seat).is_some() {
            self.room.freed.notify_one();
        }
    }

    /// The connection has to go.
    pub fn ask_to_go(&self) {
        self.asked_to_go.notify_one();
    }

    /// Resolves when the connection has to go.
    pub async fn asked_to_go(&self) {
        self.asked_to_go.notified().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stand();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn must_go(guest: &Guest) -> bool {
        guest.asked_to_go().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_sat_longest_makes_room_for_one_who_comes() {
        let room = Room::new(2);
        let (first, second) = (room.enter().await, room.enter().await);
        tokio::time::advance(GRACE).await;
        first.stand();
        first.sit(); // it has sent a request, so the other has sat longer
        assert!(!must_go(&second), "nobody has come");
        let third = room.enter().await;
        assert!(must_go(&second) && !must_go(&first));
        drop((second, third));
        room.enter().await;
        assert!(!must_go(&first), "there is a seat");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_who_has_only_just_come_has_to_go() {
        let room = Room::new(1);
        let first = room.enter().await;
        assert!(room.enter().now_or_never().is_none());
        let begin = Instant::now();
        let second = room.enter().await;
        assert!(must_go(&first) && begin.elapsed() >= GRACE);
        let waits = room.enter();
        tokio::pin!(waits);
        assert!(waits.as_mut().now_or_never().is_none());
        second.stand();
        assert!(waits.now_or_never().is_some(), "a seat that was left is free at once");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_the_last_seat_after_an_answer_is_to_leave() {
        let room = Room::new(2);
        let first = room.enter().await;
        first.stand();
        assert!(!first.sit(), "there is another seat");
        let _second = room.enter().await;
        first.stand();
        assert!(first.sit());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_spares_those_in_the_middle_of_a_request() {
        let room = Room::new(4);
        let (idle, busy, fresh) = (room.enter().await, room.enter().await, room.enter().await);
        busy.stand();
        tokio::time::advance(Duration::from_secs(3)).await;
        fresh.stand();
        fresh.sit();
        room.sweep(Duration::from_secs(2));
        assert!(must_go(&idle) && !must_go(&busy) && !must_go(&fresh));
    }
}
