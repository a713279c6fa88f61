//! Server-sent events: a session's frames as the body of an HTTP answer that does not end.
//!
//! Between the session and hyper there is one place for bytes. The session fills it when hyper has taken what was
//! there, so a peer that reads slowly is felt here just as on a socket.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;

use crate::close::Close;
use crate::id::EventId;
use crate::lock::lock;

/// A browser's `EventSource` that was told not to come back comes back after this long, ms: the longest there is.
const NEVER: u32 = i32::MAX as u32;

/// Bytes that hyper is handed at once: it holds what its peer has not taken, and only so it shows that some is.
const PART: usize = 16 * 1024;
/// Rounds in which a peer that takes its time may take the last of it.
const LAST_ROUNDS: usize = 5;

/// A stream of events and its other end, for hyper.
pub fn pair() -> (Events, EventBody) {
    let shared = Arc::new(Mutex::new(Shared::default()));
    (Events { shared: shared.clone(), waiting: Vec::new() }, EventBody(shared))
}

/// The session's end. Dropping it ends the answer.
pub struct Events {
    shared: Arc<Mutex<Shared>>,
    /// Goes out with the next flush.
    waiting: Vec<u8>,
}

/// The body of the answer. hyper drops it when the peer is gone.
pub struct EventBody(Arc<Mutex<Shared>>);

type Act = Box<dyn FnOnce(bool) + Send>;

#[derive(Default)]
struct Shared {
    /// What hyper may take.
    out: Option<Bytes>,
    /// Parts that it has taken.
    taken: u64,
    /// The session says no more.
    ended: bool,
    /// The peer is gone.
    gone: bool,
    session: Option<Waker>,
    body: Option<Waker>,
    over: Option<Act>,
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Events {
    /// Puts a frame out; who has it stands at `id`. A browser's `EventSource` keeps that for when it comes back.
    pub fn feed(&mut self, frame: &str, id: Option<EventId>) {
        if let Some(id) = id {
            self.waiting.extend_from_slice(format!("id: {id}\n").as_bytes());
        }
        // A line end within `data` is white space to JSON, and would end the line here.
        for line in frame.split(['\n', '\r']) {
            self.waiting.extend_from_slice(b"data: ");
            self.waiting.extend_from_slice(line.as_bytes());
            self.waiting.push(b'\n');
        }
        self.waiting.push(b'\n');
    }

    /// Puts a sign of life out: a comment. Behind it no line is empty: some readers take each of those for the end of a
    /// message.
    pub fn ping(&mut self) {
        self.waiting.extend_from_slice(b":\n");
    }

    /// Tells an `EventSource` when to come back.
    pub fn retry(&mut self, ms: u32) {
        self.waiting.extend_from_slice(format!("retry: {ms}\n").as_bytes());
    }

    /// What a `bye` means to an `EventSource`, which does not read it.
    pub fn retry_after(&mut self, close: Close) {
        match close.after() {
            _ if !close.reconnect() => self.retry(NEVER),
            Some(after) => self.retry(u32::try_from(after.as_millis()).unwrap_or(NEVER)),
            None => {}
        }
    }

    /// Ready once hyper has taken everything, which it does when the peer has room for it.
    ///
    /// # Errors
    /// Where the peer is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut shared = lock(&self.shared);
        if shared.gone {
            return Poll::Ready(Err(Error::ConnectionClosed));
        }
        if shared.out.is_none() {
            if self.waiting.is_empty() {
                return Poll::Ready(Ok(()));
            }
            shared.out = Some(std::mem::take(&mut self.waiting).into());
            wake(&mut shared.body);
        }
        shared.session = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits until hyper has taken everything. Not for a peer that takes nothing for `round`, nor for more than some of
    /// these.
    pub async fn flush_last(&mut self, round: Duration) {
        for _ in 0..LAST_ROUNDS {
            let before = lock(&self.shared).taken;
            let flushed = timeout(round, poll_fn(|cx| self.poll_flush(cx))).await;
            if flushed.is_ok() || lock(&self.shared).taken == before {
                return;
            }
        }
    }

    /// Ready when the peer is gone: it says nothing before that.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = lock(&self.shared);
        if shared.gone {
            return Poll::Ready(());
        }
        shared.session = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let over = {
            let mut shared = lock(&self.shared);
            shared.ended = true;
            wake(&mut shared.body);
            shared.over.take().map(|over| (over, shared.out.is_none()))
        };
        if let Some((over, is_taken)) = over {
            over(is_taken);
        }
    }
}

impl EventBody {
    /// Has `act` done when the session says no more; it is told whether hyper has taken everything, or never began to.
    pub fn when_over(&self, act: impl FnOnce(bool) + Send + 'static) {
        let mut shared = lock(&self.0);
        if !shared.ended {
            shared.over = Some(Box::new(act));
            return;
        }
        drop(shared);
        act(true);
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut shared = lock(&self.0);
        if let Some(mut part) = shared.out.take() {
            let rest = part.split_off(part.len().min(PART));
            shared.taken += 1;
            if rest.is_empty() {
                wake(&mut shared.session);
            } else {
                shared.out = Some(rest);
            }
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        shared.body = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.gone = true;
        shared.out = None;
        wake(&mut shared.session);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::time::{Instant, sleep};

    use super::*;

    async fn text(body: &mut EventBody) -> String {
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_frame_keeps_its_lines_and_brings_its_place() {
        let (mut events, mut body) = pair();
        events.feed("{\"a\":\r\n1}", Some(EventId { ms: 7, seq: 1 }));
        events.ping();
        events.retry(5);
        events.feed("{}", None);
        let flush = tokio::spawn(async move { poll_fn(|cx| events.poll_flush(cx)).await.map(|()| events) });
        assert_eq!(
            text(&mut body).await,
            "id: 7-1\ndata: {\"a\":\ndata: \ndata: 1}\n\n:\nretry: 5\ndata: {}\n\n"
        );
        drop(flush.await.unwrap().unwrap());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_flush_waits_until_what_was_put_out_is_taken() {
        let (mut events, mut body) = pair();
        let flush = async |events: &mut Events| {
            tokio::time::timeout(std::time::Duration::ZERO, poll_fn(|cx| events.poll_flush(cx))).await
        };
        events.feed("1", None);
        assert!(flush(&mut events).await.is_err());
        events.feed("2", None);
        assert!(flush(&mut events).await.is_err(), "the first is not taken yet");
        assert_eq!(text(&mut body).await, "data: 1\n\n");
        assert!(flush(&mut events).await.is_err(), "the second is not taken yet");
        assert_eq!(text(&mut body).await, "data: 2\n\n");
        assert!(flush(&mut events).await.is_ok());
        drop(body);
        assert!(flush(&mut events).await.unwrap().is_err());
        poll_fn(|cx| events.poll_gone(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_is_waited_for_while_some_of_it_is_taken() {
        const ROUND: Duration = Duration::from_secs(2);
        for (pauses, begun) in [(vec![1, 1, 1, 1], 4), (vec![1, 4, 1, 1], 4), (vec![1; 20], 10)] {
            let (mut events, mut body) = pair();
            events.feed(&"x".repeat((pauses.len() - 1) * PART), None);
            let start = Instant::now();
            let last = tokio::spawn(async move { (events.flush_last(ROUND).await, start.elapsed()).1 });
            for pause in pauses {
                sleep(Duration::from_secs(pause)).await;
                assert!(text(&mut body).await.len() <= PART);
            }
            assert_eq!(last.await.unwrap(), Duration::from_secs(begun));
        }
    }

    #[test]
    fn the_end_is_told_once_also_where_it_was_before() {
        let told = Arc::new(Mutex::new(0));
        let tell = |body: &EventBody| {
            let told = told.clone();
            body.when_over(move |is_taken| *told.lock().unwrap() += if is_taken { 1 } else { 10 });
        };
        let (events, body) = pair();
        tell(&body);
        assert_eq!(*told.lock().unwrap(), 0);
        drop(events);
        assert_eq!(*told.lock().unwrap(), 1);
        tell(&body);
        assert_eq!(*told.lock().unwrap(), 2);
        let (mut events, body) = pair();
        tell(&body);
        events.ping();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(events.poll_flush(&mut cx).is_pending());
        drop(events);
        assert_eq!(*told.lock().unwrap(), 12, "hyper has not taken what was put out");
    }
}
