//! One client's connection, from its welcome to its end.
//!
//! A session sends what its outbox holds, in the order of the log, each event once. Where an event does not follow
//! on the last one, or the outbox ran over, or the lease was lost, it reads the log after the last event it got:
//! that is the one way in which anything is mended.
//!
//! A pong is a receipt: WebSocket delivers in order, so a pong proves that all that was sent before its ping has
//! arrived.

mod catch_up;
mod clock;
pub mod events;
mod incoming;
mod input;
mod leave;
mod line;
mod outgoing;
pub mod rate;
pub mod socket;
mod steps;
pub mod transport;
mod untaken;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::coop::{poll_proceed, unconstrained};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tracing::{debug, info};

use crate::auth::{Auth, Pass};
use crate::close::Close;
use crate::engine::{Registration, Unavailable};
use crate::handle::Signal;
use crate::id::EventId;
use crate::metrics::Metrics;
use crate::ms::ms;
use crate::protocol::client::{self, Welcome};
use crate::protocol::code::Refusal;
use crate::router::Registered;
use catch_up::CatchUp;
use clock::{Clock, Tick};
use rate::{FreeAcks, Rates};
use steps::Steps;
use transport::Transport;

/// Limits on a client's connection, from its handshake to its end.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Between WebSocket pings.
    pub ping_interval: Duration,
    /// A peer that stays silent longer is closed.
    pub pong_timeout: Duration,
    /// For the handshake, and for the hello frame.
    pub hello_timeout: Duration,
    /// Messages a second from one client.
    pub client_rate: u32,
    /// Largest frame from a client, bytes.
    pub max_message: usize,
    /// Sockets older than this are asked to reconnect, ±10 %.
    pub max_connection_age: Option<Duration>,
}

/// Answers (pongs, errors) that may wait for a peer that asks but does not read: 128 KiB at most. A slow reader that
/// pings once a second gets there after eight minutes without a finished flush.
const MOST_ANSWERS: u32 = 512;
/// With so many, they go out before more is read: who reads what it asks for has few waiting.
const MANY_ANSWERS: u32 = MOST_ANSWERS / 2;

/// Why a session is over.
#[derive(Debug)]
enum End {
    /// The peer closed, with this code where it said one, or is gone.
    Gone(Option<u16>),
    /// The node closes it.
    Close(Close),
}

/// What came of a message of the client's that takes its time.
enum Done {
    /// The engine has it.
    Uplinked,
    /// Its token is good until then.
    Renewed(Instant),
}

type Pending = BoxFuture<'static, Result<Done, Refusal>>;

/// What happened.
enum Step {
    Message(Option<Result<Message, Error>>),
    Flushed(Result<(), Error>),
    Signal(Signal),
    CaughtUp(Result<crate::engine::Connected, Unavailable>),
    Done(Result<Done, Refusal>),
    Tick(Tick),
}

/// A client's session.
pub struct Session {
    transport: Transport,
    registered: Registered,
    /// The last event that was handed to the socket.
    last: EventId,
    /// The user's newest event when the client connected.
    welcomed_at: EventId,
    flushing: bool,
    /// Answers since the last flush was done.
    answers: u32,
    catch_up: CatchUp,
    /// Attempts to catch up that were in vain, since the last that was not.
    in_vain: u8,
    /// What the last message of the client's asked for, until it is done.
    pending: Option<Pending>,
    auth: Arc<Auth>,
    clock: Clock,
    rates: Arc<Rates>,
    free_acks: FreeAcks,
    steps: Steps,
    /// One of `--max-connections`.
    _place: OwnedSemaphorePermit,
}

impl Session {
    /// Greets the client, and serves it until its end: in a task of its own, which holds nothing of the handshake and
    /// is small, because what it needs only at the end is made then. `place` is free again after that.
    pub fn start(
        transport: impl Into<Transport>,
        registered: Registered,
        registration: Box<Registration>,
        limits: Arc<Limits>,
        rates: Arc<Rates>,
        pass: Pass,
        place: OwnedSemaphorePermit,
    ) {
        let session = Box::new(Session {
            transport: transport.into(),
            last: registration.from,
            welcomed_at: registration.position,
            flushing: false,
            answers: 0,
            catch_up: CatchUp::Idle,
            in_vain: 0,
            pending: None,
            clock: Clock::new(&limits, pass.expires),
            auth: pass.auth,
            rates,
            free_acks: FreeAcks::default(),
            steps: Steps::default(),
            registered,
            _place: place,
        });
        tokio::spawn(session.run(registration));
    }

    async fn run(mut self: Box<Self>, registration: Box<Registration>) {
        let (user, client) = (self.registered.user(), self.registered.client());
        info!(node = %self.registered.router().node(), %user, %client, replayed = registration.replayed, recovered = registration.whole, "connected");
        self.metrics().connected();
        self.note_connected(&registration);
        let registration = {
            let boxed = registration; // goes now, and not when the session ends
            *boxed
        };
        let end = match self.greet(registration) {
            Ok(()) => self.until_end().await,
            Err(_) => End::Gone(None),
        };
        self.note_end(&end);
        self.metrics().disconnected(match end {
            End::Gone(_) => None,
            End::Close(close) => Some(close),
        });
        Box::pin(self.leave(end)).await;
    }

    fn metrics(&self) -> &Metrics {
        self.registered.router().metrics()
    }

    /// Whether Redis is there and knows this node.
    fn node_is_up(&self) -> bool {
        let router = self.registered.router();
        router.engine().is_up() && router.lease().is_held()
    }

    fn greet(&mut self, registration: Registration) -> Result<(), Error> {
        let welcome = client::welcome(&Welcome {
            user_id: self.registered.user().as_str(),
            client_id: self.registered.client().as_str(),
            node_id: self.registered.router().node().as_str(),
            position: registration.position.to_string(),
            recovered: registration.whole,
            replayed: registration.replayed,
            ping_interval: ms(self.clock.limits.ping_interval),
        });
        // Where something follows, or is missing, the client does not stand at the log's end yet.
        let at_end = registration.whole && registration.replayed == 0;
        let id = if at_end { registration.position } else { registration.from.min(registration.position) };
        self.feed(welcome, Some(id))?;
        self.take_page(registration)
    }

    async fn until_end(&mut self) -> End {
        poll_fn(|cx| {
            let mut all_read = false;
            loop {
                let step = ready!(self.poll_step(cx, &mut all_read));
                match self.act(step) {
                    Ok(None) => {}
                    Ok(Some(end)) => return Poll::Ready(end),
                    Err(error) => {
                        debug!(user = %self.registered.user(), client = %self.registered.client(), %error, "the connection broke");
                        return Poll::Ready(End::Gone(None));
                    }
                }
            }
        })
        .await
    }

    /// Acts on what happened; says how the session ends, where it does.
    fn act(&mut self, step: Step) -> Result<Option<End>, Error> {
        match step {
            Step::Message(None) => return Ok(Some(End::Gone(None))),
            Step::Message(Some(Err(error))) => {
                return socket::close_for(&error).map(|close| Some(End::Close(close))).ok_or(error);
            }
            Step::Message(Some(Ok(_))) if self.answers > MOST_ANSWERS => {
                return Ok(Some(End::Close(Close::RateLimited)));
            }
            Step::Message(Some(Ok(message))) => return self.take_message(message),
            Step::Flushed(flushed) => {
                (self.flushing, self.answers) = (false, 0);
                if self.transport.flush_is_pong() {
                    // It confirms nothing: it has left this node, no more.
                    self.clock.answered();
                }
                self.clock.flushed(self.transport.moved().went);
                flushed?;
                self.steps.flushed(&self.registered);
            }
            Step::Signal(Signal::Close(close)) => match self.last_ping(close) {
                Some(pinged) => pinged?,
                None => return Ok(Some(End::Close(close))),
            },
            Step::Signal(Signal::CatchUp) => {
                self.metrics().catch_ups.inc();
                steps::note(&self.registered, "behind", Vec::new);
                self.catch_up = CatchUp::Wanted;
                self.clock.missing = None;
            }
            Step::Signal(Signal::Send) => self.send_waiting(),
            Step::CaughtUp(answer) => return Ok(self.take_answer(answer)?.map(End::Close)),
            Step::Done(outcome) => {
                self.pending = None;
                self.clock.renews = false;
                match outcome {
                    Ok(Done::Uplinked) => {}
                    Ok(Done::Renewed(expires)) => {
                        (self.clock.expires, self.clock.overdue) = (Some(expires), false);
                    }
                    Err(refusal) => self.refuse(&refusal)?,
                }
            }
            // Who is sent away now would be let in nowhere.
            Step::Tick(Tick::Age) if !self.node_is_up() => self.clock.ages_out_later(),
            Step::Tick(Tick::Age) => self.registered.handle().close(Close::Age),
            Step::Tick(Tick::Missing) => self.registered.handle().look(),
            // What it sends meanwhile is not read.
            Step::Tick(Tick::Late) if self.pending.is_some() => self.clock.heard(),
            Step::Tick(Tick::Late) if self.clock.is_silent(self.transport.taken()) => {
                return Ok(Some(End::Close(Close::PongTimeout)));
            }
            Step::Tick(Tick::Late) => {}
            Step::Tick(Tick::Close(Close::Expired)) if !self.clock.overdue => self.clock.overdue = true,
            Step::Tick(Tick::Close(close)) => return Ok(Some(End::Close(close))),
            Step::Tick(Tick::Ping) => {
                self.clock.pinged(self.last);
                self.flushing = true;
                self.transport.ping(self.last)?;
            }
        }
        Ok(None)
    }

    /// The one place where a session waits. A write that the peer does not take holds up other writes, never reads.
    /// `all_read`: the peer has sent nothing more, or has had its turn, and is asked again when the task is woken. Nearly all
    /// that a session does are writes, each of which takes several steps.
    fn poll_step(&mut self, cx: &mut Context<'_>, all_read: &mut bool) -> Poll<Step> {
        if self.answers > MANY_ANSWERS
            && let Poll::Ready(flushed) = self.transport.poll_flush(cx)
        {
            return Poll::Ready(Step::Flushed(flushed));
        }
        // One message of the client's is acted on at a time; the next is read when that is done.
        if self.pending.is_none()
            && self.clock.overdue
            && let Poll::Ready(turn) = poll_proceed(cx)
        {
            // What came in time is read, however many turns it takes. Where nothing is left, nothing has put the end off.
            let message = unconstrained(poll_fn(|cx| self.transport.poll_next(cx)));
            let Poll::Ready(message) = pin!(message).poll(cx) else {
                return Poll::Ready(Step::Tick(Tick::Close(Close::Expired)));
            };
            turn.made_progress();
            return Poll::Ready(Step::Message(message));
        }
        if self.pending.is_none() && !*all_read {
            match self.poll_message(cx) {
                Poll::Ready(message) => return Poll::Ready(Step::Message(message)),
                Poll::Pending => *all_read = true,
            }
        }
        if let Some(pending) = &mut self.pending
            && let Poll::Ready(outcome) = pending.as_mut().poll(cx)
        {
            return Poll::Ready(Step::Done(outcome));
        }
        if self.flushing
            && let Poll::Ready(flushed) = self.transport.poll_flush(cx)
        {
            return Poll::Ready(Step::Flushed(flushed));
        }
        // Its last ping is out, or its time is up: nothing more of the log.
        let leaves = self.clock.closes_for().is_some() || self.clock.overdue;
        if self.flushing || leaves || !matches!(self.catch_up, CatchUp::Idle) {
            let handle = self.registered.handle();
            if let Poll::Ready(close) = handle.poll_close(cx) {
                return Poll::Ready(Step::Signal(Signal::Close(close)));
            }
        } else if let Poll::Ready(signal) = self.registered.handle().poll(cx) {
            return Poll::Ready(Step::Signal(signal));
        }
        if !(self.flushing || leaves)
            && let Poll::Ready(answer) = self.poll_catch_up(cx)
        {
            return Poll::Ready(Step::CaughtUp(answer));
        }
        // Reading may have used up what tokio lets a task do in one go; then no time would ever be up.
        let clock = unconstrained(poll_fn(|cx| self.clock.poll(cx)));
        pin!(clock).poll(cx).map(Step::Tick)
    }

    /// Reads a message. Many may come with one read, so each is as much of the task's turn as that is.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        let turn = ready!(poll_proceed(cx));
        let message = ready!(self.transport.poll_next(cx));
        turn.made_progress();
        Poll::Ready(message)
    }

    /// Hands a frame to the connection. Who has it stands at `id`, where that is known.
    fn feed(&mut self, frame: Utf8Bytes, id: Option<EventId>) -> Result<(), Error> {
        self.flushing = true;
        self.transport.feed(frame, id)
    }

    /// Answers what the client has sent.
    fn answer(&mut self, frame: Utf8Bytes) -> Result<(), Error> {
        self.answers += 1;
        self.feed(frame, None)
    }

    fn refuse(&mut self, refusal: &Refusal) -> Result<(), Error> {
        self.answer(client::error(refusal))
    }
}

#[cfg(test)]
mod tests {
    use super::Session;

    #[test]
    fn a_session_fits_the_allocators_block_and_does_not_take_the_next_which_is_896_bytes() {
        assert!(size_of::<Session>() <= 768, "{}", size_of::<Session>());
    }
}
