//! The answer of an engine's verb, later.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::Unavailable;

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
    pub fn queued<O>(
        lane: &mpsc::Sender<O>,
        op: impl FnOnce(oneshot::Sender<Result<T, Unavailable>>) -> O,
    ) -> Self {
        let (sender, receiver) = oneshot::channel();
        match lane.try_send(op(sender)) {
            Ok(()) => Self::later(receiver),
            Err(_) => Self::now(Err(Unavailable::new("too much is waiting"))),
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
