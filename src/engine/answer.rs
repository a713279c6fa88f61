//! The answer of an engine's verb, later, or why there is none.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::protocol::code::Refusal;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// For the log.
    pub reason: Arc<str>,
    /// What to make of it.
    pub cause: Cause,
}

/// What kept an answer from coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Redis did not answer, or not as it should: it may or may not have happened.
    Redis,
    /// Redis answered, and refused it.
    Refused,
    /// One of the user's keys holds something else: trying again does not help.
    BrokenKey,
    /// Too much is waiting: it has not happened.
    Full,
}

impl Unavailable {
    /// With a reason for the log; whether it happened is not known.
    pub fn new(reason: impl Into<Arc<str>>) -> Self {
        Self { reason: reason.into(), cause: Cause::Redis }
    }

    /// Whether trying again does not help.
    pub fn is_for_good(&self) -> bool {
        self.cause == Cause::BrokenKey
    }
}

impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Self {
        debug!(%error, "refused as unavailable");
        match error.cause {
            Cause::Full => Refusal::full(),
            Cause::Redis | Cause::Refused => Refusal::unavailable(),
            Cause::BrokenKey => Refusal::broken_key(),
        }
    }
}

/// What a question comes to that Redis does not answer: nothing can have been done by it.
pub fn unread(error: Unavailable) -> Refusal {
    debug!(%error, "cannot be read");
    if error.is_for_good() { Refusal::broken_key() } else { Refusal::unread() }
}

/// Events that may wait in a lane: at 60,000 a second a quarter of a second's. One more is refused.
pub const MOST_EVENTS: usize = 16_384;

/// Where the answer of an operation in a lane goes.
pub type Reply<T> = oneshot::Sender<Result<T, Unavailable>>;

/// The answer. Of an event that is published nothing is allocated for it but the slot that its outcome is put into.
pub struct Answer<T>(State<T>);

enum State<T> {
    Now(Option<Result<T, Unavailable>>),
    Later(oneshot::Receiver<Result<T, Unavailable>>),
    Task(BoxFuture<'static, Result<T, Unavailable>>),
}

impl<T> Answer<T> {
    /// It is known already.
    pub fn now(outcome: Result<T, Unavailable>) -> Self {
        Self(State::Now(Some(outcome)))
    }

    /// Somebody else sends it.
    pub fn later(outcome: oneshot::Receiver<Result<T, Unavailable>>) -> Self {
        Self(State::Later(outcome))
    }

    /// Queues an operation in a lane at once, with the place for its answer. Where the lane is full it is refused.
    pub fn queued<O>(lane: &mpsc::Sender<O>, op: impl FnOnce(Reply<T>) -> O) -> Self {
        let (sender, receiver) = oneshot::channel();
        match lane.try_send(op(sender)) {
            Ok(()) => Self::later(receiver),
            Err(TrySendError::Full(_)) => {
                Self::now(Err(Unavailable { cause: Cause::Full, ..Unavailable::new("too much is waiting") }))
            }
            Err(TrySendError::Closed(_)) => Self::now(Err(Unavailable::new("the engine has stopped"))),
        }
    }

    /// Whoever waits for it works for it.
    pub fn of(work: impl Future<Output = Result<T, Unavailable>> + Send + 'static) -> Self {
        Self(State::Task(Box::pin(work)))
    }
}

// Nothing in it is pinned but what is boxed.
impl<T> Unpin for Answer<T> {}

impl<T> Future for Answer<T> {
    type Output = Result<T, Unavailable>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Now(outcome) => {
                Poll::Ready(outcome.take().unwrap_or_else(|| Err(Unavailable::new("it was answered before"))))
            }
            State::Later(receiver) => Pin::new(receiver)
                .poll(cx)
                .map(|outcome| outcome.unwrap_or_else(|_| Err(Unavailable::new("the engine has stopped")))),
            State::Task(work) => work.as_mut().poll(cx),
        }
    }
}
