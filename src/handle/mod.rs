//! The shared part of a session: what the rest of the node sees of it, and a bounded outbox.
//!
//! The outbox is a deque under a lock with a waker, not a channel: an idle session then costs no buffer.

mod losses;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::close::Close;
use crate::engine::Told;
use crate::id::{ClientId, EventId, Logged, UserId};
use crate::lock::lock;

/// Bytes that may wait for one slow socket, besides `--send-queue` events.
const OUTBOX_BYTES: usize = 1024 * 1024;

/// Something for a socket.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where the event stands in the log; none where transient.
    pub logged: Option<Logged>,
    /// The frame; none where the event is for another session, and only where it stands counts.
    pub frame: Option<Utf8Bytes>,
}

/// What a session should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Close.
    Close(Close),
    /// The outbox has something.
    Send,
    /// Read the log: what waited has been dropped, or a hint went astray.
    CatchUp,
}

/// A session, as the rest of the node sees it.
#[derive(Debug)]
pub struct Handle {
    /// The user's id.
    pub user: UserId,
    /// The client's id.
    pub client: ClientId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    outbox: VecDeque<Outgoing>,
    bytes: usize,
    /// The first event that waits does not follow on the last one that was sent: the session is not woken for it, as
    /// what lies between may come yet.
    held: bool,
    /// The session reads the log, which has all that is logged: until it has caught up, hints of that are dropped.
    behind: bool,
    /// It is behind because its outbox ran over: until it has caught up, transient events are dropped, too.
    pressed: bool,
    /// Something transient was dropped since the outbox was taken: the session makes no room, and is not waited for.
    overrun: bool,
    /// A look into the log was asked for since the last one began.
    look: bool,
    /// The newest event that this session has heard of.
    heard: EventId,
    /// The same when the last look into the log began.
    heard_before_look: EventId,
    /// That look tells the engine that Redis has lost `told.event`: once it has ended without a gap, that is over.
    tells_loss: bool,
    /// What the next look tells the engine: of the newest event that was hinted or read, and whether a later hint has
    /// shown that it is lost.
    told: Told,
    confirmed: EventId,
    saved: EventId,
    /// When the connection was registered, as the engine counts; 0 before that.
    order: u64,
    /// When the latest connection of this client was registered elsewhere.
    replaced_at: u64,
    close: Option<Close>,
    /// The session has been told of `close`.
    close_reported: bool,
    ended: bool,
    waker: Option<Waker>,
}

impl Outgoing {
    fn size(&self) -> usize {
        self.frame.as_ref().map_or(0, |frame| frame.as_str().len())
    }
}

impl State {
    /// What was lost stays until the client has been told.
    fn told_of(&mut self, id: EventId) {
        if !self.told.is_lost {
            self.told.event = self.told.event.max(id);
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Why to close, once.
    fn tell_close(&mut self) -> Option<Close> {
        self.close.filter(|_| !std::mem::replace(&mut self.close_reported, true))
    }

    /// The first reason counts. But one to move on gives the client a moment, and another may come in it, which says more:
    /// not to come back, for one.
    fn close_for(&mut self, close: Close) {
        if self.close.is_none_or(|first| first.moves_on() && !close.moves_on()) {
            (self.close, self.close_reported) = (Some(close), false);
            self.wake();
        }
    }

    fn close_if_replaced(&mut self) {
        if self.order != 0 && self.order < self.replaced_at {
            self.close_for(Close::Replaced);
        }
    }

    fn look(&mut self) {
        self.fall_behind();
        self.look = true;
        self.wake();
    }

    /// The session is to read the log. What is transient still waits for it.
    fn fall_behind(&mut self) {
        (self.behind, self.held) = (true, false);
        self.keep_transient();
    }

    fn keep_transient(&mut self) {
        self.outbox.retain(|outgoing| outgoing.logged.is_none());
        self.bytes = self.outbox.iter().map(Outgoing::size).sum();
    }
}

impl Handle {
    /// A session that takes no hints until it has caught up.
    pub fn new(user: UserId, client: ClientId) -> Self {
        let state = State { behind: true, ..State::default() };
        Self { user, client, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Something for the socket. Where more than `most` events or 1 MiB would wait, all that waits is dropped and
    /// the session catches up from the log as fast as its peer reads; what is transient is gone then, and until it has
    /// caught up. Who reads the log for another reason gets what is transient after that.
    pub fn push(&self, outgoing: &Outgoing, most: usize) {
        let mut state = self.state();
        if let Some(logged) = outgoing.logged {
            state.heard = state.heard.max(logged.id);
            let told = state.told;
            if logged.prev < told.event && told.event < logged.id && !told.is_lost {
                state.told.is_lost = true;
                state.look();
            }
            state.told_of(logged.id);
        }
        if state.behind && (state.pressed || outgoing.logged.is_some()) {
            return;
        }
        let bytes = outgoing.size();
        if state.outbox.len() >= most || (state.bytes + bytes > OUTBOX_BYTES && !state.outbox.is_empty()) {
            if outgoing.logged.is_none() {
                state.overrun = true;
                return; // transient: dropped first
            }
            state.outbox = VecDeque::new();
            state.pressed = true;
            state.fall_behind();
        } else {
            state.bytes += bytes;
            state.outbox.push_back(outgoing.clone());
            state.held = false;
        }
        state.wake();
    }

    /// Whether the session should take what waits before `bytes` more come: they would fill the outbox by more than half.
    /// Not where it has run over or the session leaves: waiting for that is in vain.
    pub fn is_crowded(&self, bytes: usize, most: usize) -> bool {
        let state = self.state();
        let waiting = state.outbox.len();
        let filled = 2 * waiting > most || (waiting > 0 && 2 * (state.bytes + bytes) > OUTBOX_BYTES);
        filled && !(state.behind || state.overrun || state.close.is_some())
    }

    /// Something may have been missed: read the log.
    pub fn look(&self) {
        self.state().look();
    }

    /// A look into the log begins: whoever asks from here on wants another.
    pub fn begin_look(&self) {
        let mut state = self.state();
        state.look = false;
        state.heard_before_look = state.heard;
        state.tells_loss = state.told.is_lost;
    }

    /// Whether the session has heard of `newest`, or reads the log, which has it.
    pub fn has_heard(&self, newest: EventId) -> bool {
        let state = self.state();
        state.behind || newest <= state.heard
    }

    /// As [`Handle::look`], where the session has not heard of `newest`.
    pub fn look_for(&self, newest: EventId) {
        if newest > self.state().heard {
            self.look();
        }
    }

    /// Asks the session to close. The first reason counts; but where that is to move on (a drain, its age), another does.
    pub fn close(&self, close: Close) {
        self.state().close_for(close);
    }

    /// The client has connected elsewhere at `at`: this connection must go if it is older. Where it is still being
    /// registered, that shows when it is.
    pub fn replaced(&self, at: u64) {
        let mut state = self.state();
        state.replaced_at = state.replaced_at.max(at);
        state.close_if_replaced();
    }

    /// Notes when the connection was registered, as the engine counts.
    pub fn set_order(&self, order: u64) {
        let mut state = self.state();
        state.order = order;
        state.close_if_replaced();
    }

    /// What to do next; to close it is told once, and may take its time.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Signal> {
        let mut state = self.state();
        if let Some(close) = state.tell_close() {
            return Poll::Ready(Signal::Close(close));
        }
        if state.behind {
            // The session asks only while it does not catch up already.
            return Poll::Ready(Signal::CatchUp);
        }
        if !state.outbox.is_empty() && !state.held {
            return Poll::Ready(Signal::Send);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the session was asked to close; for one that is catching up and does not [`Handle::poll`].
    pub fn poll_close(&self, cx: &mut Context<'_>) -> Poll<Close> {
        let mut state = self.state();
        match state.tell_close() {
            Some(close) => Poll::Ready(close),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Drops what waits and is in the log.
    pub fn keep_transient(&self) {
        self.state().keep_transient();
    }

    /// Puts back what was taken and does not follow on what was sent. The session is not told of it again before more
    /// comes.
    pub fn hold(&self, mut waiting: VecDeque<Outgoing>) {
        let mut state = self.state();
        if state.behind {
            return; // the log has it
        }
        state.held = state.outbox.is_empty();
        state.bytes += waiting.iter().map(Outgoing::size).sum::<usize>();
        waiting.append(&mut state.outbox);
        state.outbox = waiting;
    }

    /// Takes everything that waits.
    pub fn take(&self) -> VecDeque<Outgoing> {
        let mut state = self.state();
        (state.bytes, state.held, state.overrun) = (0, false, false);
        std::mem::take(&mut state.outbox)
    }

    /// The session has everything up to `last`: hints are taken again, unless one of something newer has come
    /// meanwhile, or another look was asked for.
    pub fn caught_up(&self, last: EventId) -> bool {
        let mut state = self.state();
        state.behind = state.look || state.heard > last;
        state.pressed &= state.behind;
        state.heard = state.heard.max(last);
        !state.behind
    }

    /// When the connection was registered, as the engine counts; 0 before that.
    pub fn order(&self) -> u64 {
        self.state().order
    }

    /// Registered from this position on, which the engine has noted.
    pub fn begin(&self, from: EventId) {
        let mut state = self.state();
        (state.confirmed, state.saved) = (from.max(state.confirmed), from);
    }

    /// The client has confirmed everything up to `id`. Returns whether that is more than before.
    pub fn confirm(&self, id: EventId) -> bool {
        let mut state = self.state();
        let is_more = id > state.confirmed;
        state.confirmed = state.confirmed.max(id);
        is_more
    }

    /// What the client has confirmed on an older connection, which this one takes the place of, it has confirmed.
    pub fn confirm_as(&self, older: &Self) {
        let confirmed = older.state().confirmed;
        self.confirm(confirmed);
    }

    /// What the client has confirmed, if anything.
    pub fn confirmed(&self) -> Option<EventId> {
        Some(self.state().confirmed).filter(|confirmed| *confirmed != EventId::ZERO)
    }

    /// What the client has confirmed and the engine has not been told.
    pub fn unsaved(&self) -> Option<EventId> {
        let state = self.state();
        (state.confirmed > state.saved).then_some(state.confirmed)
    }

    /// The engine has been told.
    pub fn saved(&self, id: EventId) {
        let mut state = self.state();
        state.saved = state.saved.max(id);
    }

    /// Notes that the session is over, whoever still holds it; false where that was noted before.
    pub fn end(&self) -> bool {
        !std::mem::replace(&mut self.state().ended, true)
    }

    /// Whether the session is over.
    pub fn has_ended(&self) -> bool {
        self.state().ended
    }
}

#[cfg(test)]
mod tests;
