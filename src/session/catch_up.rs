//! Reading the log page by page, as fast as the peer takes it: a slow socket needs no big queue.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};
use tokio_tungstenite::tungstenite::Error;
use tracing::{debug, info};

use super::{Session, steps};
use crate::close::Close;
use crate::engine::{Answer, Connected, Registration, Unavailable};
use crate::fault;
use crate::protocol::client;

/// The longest pause after an attempt in vain. With the next two it doubles, to 2 s: where a master of a Cluster is away,
/// each session of its users may ask again and again, and who connects waits behind them.
const PAUSE: Duration = Duration::from_millis(500);

/// How far a session is with catching up.
pub(super) enum CatchUp {
    /// It has everything.
    Idle,
    /// The next page is read as soon as the last one has gone out.
    Wanted,
    /// A page is on its way. Boxed: most sessions wait for none.
    Reading(Box<Answer<Connected>>),
    /// Redis is away: it is asked again in a while.
    Waiting(Pin<Box<Sleep>>),
}

impl Session {
    pub(super) fn poll_catch_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<Connected, Unavailable>> {
        loop {
            match &mut self.catch_up {
                CatchUp::Idle => return Poll::Pending,
                CatchUp::Wanted => {
                    self.registered.handle().begin_look();
                    let router = self.registered.router();
                    self.catch_up =
                        CatchUp::Reading(Box::new(router.resume(self.registered.handle(), self.last)));
                }
                CatchUp::Reading(answer) => return Pin::new(answer).poll(cx),
                CatchUp::Waiting(pause) => {
                    if pause.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.catch_up = CatchUp::Wanted;
                }
            }
        }
    }

    pub(super) fn take_answer(
        &mut self,
        answer: Result<Connected, Unavailable>,
    ) -> Result<Option<Close>, Error> {
        match answer {
            Ok(Connected::Registered(registration)) => {
                self.in_vain = 0;
                self.registered.handle().set_order(registration.order);
                self.registered.router().note_lease(self.registered.handle(), &registration);
                self.take_page(registration)?;
                Ok(None)
            }
            Ok(Connected::Replaced) => Ok(Some(Close::Replaced)),
            Ok(Connected::SignedOut) => Ok(Some(Close::SignedOut)),
            Ok(Connected::Full) => Ok(Some(Close::Overloaded)),
            Err(error) => {
                debug!(user = %self.registered.user(), client = %self.registered.client(), %error, "cannot catch up yet");
                self.catch_up = CatchUp::Waiting(Box::pin(sleep(pause(self.in_vain))));
                self.in_vain = self.in_vain.saturating_add(1);
                Ok(None)
            }
        }
    }

    /// Sends a page of the log. Where it cannot be shown to be whole, the client is told first.
    pub(super) fn take_page(&mut self, registration: Registration) -> Result<(), Error> {
        // What was sent to it, or told it by a hint, is not in the log any more: Redis came back without its newest.
        let newest = registration.position;
        let handle = self.registered.handle();
        let lost = newest < self.last.max(handle.heard_before_look());
        if lost {
            self.last = self.last.min(newest);
            self.registered.handle().went_back(newest);
        }
        let upto = if lost { registration.upto.min(newest) } else { registration.upto };
        if !registration.whole || lost {
            info!(
                node = %self.registered.router().node(),
                user = %self.registered.user(), client = %self.registered.client(),
                since = %registration.from, "a gap: some events after that may be gone"
            );
            self.registered.handle().told_gap(registration.knows.max(newest));
            self.metrics().gaps.inc();
            self.note_gap(&registration);
            // Where nothing is left after it, the client stands where the page ends.
            let id = registration.events.is_empty().then_some(upto);
            self.feed(client::gap(registration.from, registration.position), id)?;
        } else {
            handle.looked(registration.knows);
        }
        self.registered.handle().read(registration.heard);
        let Self { transport, registered, last, steps: unflushed, free_acks, .. } = self;
        let mut burst = registered.router().metrics().burst();
        for event in fault::replayed(registration.events) {
            if event.id > *last {
                // Only JSON text goes into a log; what is not UTF-8 there was put by another hand.
                let data = std::str::from_utf8(&event.data).unwrap_or("null");
                transport.feed(client::event(Some(event.id), &event.event, data), Some(event.id))?;
                *last = event.id;
                free_acks.sends_event();
                burst.logged(event.id, event.id > self.welcomed_at);
                let step = if event.id > self.welcomed_at { "caught_up" } else { "replayed" };
                steps::note(registered, step, || steps::event(Some(event.id)));
                unflushed.handed(registered, Some(event.id));
            }
        }
        drop(burst);
        self.last = self.last.max(upto);
        let done = !registration.more && self.registered.handle().caught_up(self.last);
        self.catch_up = if done { CatchUp::Idle } else { CatchUp::Wanted };
        self.flushing = true;
        Ok(())
    }
}

/// How long to wait before the next attempt, after one in vain and so many before it.
fn pause(before: u8) -> Duration {
    (PAUSE * (1 << before.min(2))).mul_f64(0.2 + 0.8 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_two_seconds() {
        for (before, most) in [(0, 500), (1, 1000), (2, 2000), (3, 2000), (u8::MAX, 2000)] {
            let pauses: Vec<_> = (0..1000).map(|_| pause(before).as_millis()).collect();
            assert!(pauses.iter().all(|ms| (most / 5..=most).contains(ms)), "{before}: {pauses:?}");
            assert!(pauses.iter().any(|ms| *ms > most / 2), "{before}: they are spread");
        }
    }
}
