//! A worker's frames on their way to Redis, in the order in which they came.
//!
//! Answers go out in that order too, so only the first of them is waited for: one waker for all, and what a frame
//! needs here is its place in the queue.

use std::collections::VecDeque;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use crate::protocol::code::Refusal;
use crate::protocol::publish::Receipt;
use crate::router::Outcome;

/// Events of one worker that may be on their way; the next frame is read when the first of them is answered. One frame
/// may go beyond it.
const MOST: usize = 1024;
/// Their bytes: a hundred times what two nodes have on their way at full load. One frame may go beyond it, too.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of all workers' frames together: as much as of all bodies of requests. Beyond it each worker has one frame on
/// its way at a time.
pub const ALL: usize = 256 * 1024 * 1024;

/// What all workers have on their way.
#[derive(Debug)]
pub struct OnTheirWay {
    bytes: AtomicUsize,
    most: usize,
}

impl OnTheirWay {
    /// Nothing yet; `most` bytes may be.
    pub fn new(most: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), most }
    }
}

/// The queue.
pub struct InFlight {
    frames: VecDeque<Waiting>,
    events: usize,
    bytes: usize,
    all: Arc<OnTheirWay>,
}

struct Waiting {
    reference: Option<String>,
    outcome: Result<Outcome, Option<Refusal>>,
    events: usize,
    size: usize,
}

/// A frame that is done.
#[derive(Debug)]
pub struct Done {
    /// The frame's `ref`.
    pub reference: Option<String>,
    /// What came of it.
    pub outcome: Result<Receipt, Refusal>,
}

impl InFlight {
    /// An empty queue, one of all.
    pub fn new(all: Arc<OnTheirWay>) -> Self {
        Self { frames: VecDeque::new(), events: 0, bytes: 0, all }
    }

    /// Whether another frame may be read. Where it may not, that changes with the next one that is done here.
    pub fn has_room(&self) -> bool {
        let crowded = self.all.bytes.load(Ordering::Relaxed) >= self.all.most;
        self.frames.is_empty() || (self.events < MOST && self.bytes < MOST_BYTES && !crowded)
    }

    /// Puts in a frame that comes to so many events, of `size` bytes.
    pub fn push(
        &mut self,
        reference: Option<String>,
        outcome: Result<Outcome, Refusal>,
        events: usize,
        size: usize,
    ) {
        self.events += events;
        self.bytes += size;
        self.all.bytes.fetch_add(size, Ordering::Relaxed);
        self.frames.push_back(Waiting { reference, outcome: outcome.map_err(Some), events, size });
    }

    /// The next frame that is done, in order; none where there are no frames.
    pub async fn next(&mut self) -> Option<Done> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`InFlight::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Done>> {
        let Some(first) = self.frames.front_mut() else { return Poll::Ready(None) };
        let outcome = match &mut first.outcome {
            Ok(outcome) => match Pin::new(outcome).poll(cx) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => return Poll::Pending,
            },
            Err(refusal) => Err(refusal.take().unwrap_or_else(Refusal::unavailable)),
        };
        self.events -= first.events;
        self.bytes -= first.size;
        self.all.bytes.fetch_sub(first.size, Ordering::Relaxed);
        let reference = first.reference.take();
        self.frames.pop_front();
        Poll::Ready(Some(Done { reference, outcome }))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.all.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::engine::{Answer, Published};
    use crate::protocol::code::Code;

    #[test]
    fn frames_are_done_in_their_order_whatever_is_answered_first() {
        let mut frames = InFlight::new(Arc::new(OnTheirWay::new(ALL)));
        let (first, answer) = oneshot::channel();
        frames.push(Some("1".into()), Ok(Outcome::One(Answer::later(answer))), 1, MOST_BYTES);
        assert!(!frames.has_room(), "its bytes count until it is done");
        frames.push(Some("2".into()), Err(Refusal::new(Code::InvalidEvent, "")), 1, 1);
        assert!(frames.next().now_or_never().is_none(), "the second waits for the first");
        first.send(Ok(Published { id: None, nodes: Vec::new() })).unwrap();
        let done = |frames: &mut InFlight| frames.next().now_or_never().flatten().unwrap();
        let (one, two) = (done(&mut frames), done(&mut frames));
        assert_eq!((one.reference.as_deref(), one.outcome.is_ok()), (Some("1"), true));
        assert_eq!(
            (two.reference.as_deref(), two.outcome.unwrap_err().code),
            (Some("2"), Code::InvalidEvent)
        );
        assert!(frames.has_room() && frames.next().now_or_never().unwrap().is_none());
    }

    #[test]
    fn where_all_have_much_on_their_way_each_has_one_frame() {
        let all = Arc::new(OnTheirWay::new(10));
        let (mut one, mut other) = (InFlight::new(all.clone()), InFlight::new(all));
        let refused = || Err(Refusal::new(Code::InvalidEvent, ""));
        one.push(None, refused(), 1, 9);
        assert!(one.has_room() && other.has_room());
        one.push(None, refused(), 1, 9);
        assert!(!one.has_room(), "that is too much");
        assert!(other.has_room(), "one frame is always taken");
        other.push(None, refused(), 1, 1);
        assert!(!other.has_room());
        drop(one);
        assert!(other.has_room(), "a worker that is gone has nothing on its way");
    }

    #[test]
    fn a_frame_counts_as_what_it_comes_to() {
        let mut frames = InFlight::new(Arc::new(OnTheirWay::new(ALL)));
        let refused = || Err(Refusal::new(Code::InvalidEvent, ""));
        frames.push(None, refused(), MOST - 1, 1);
        assert!(frames.has_room());
        frames.push(None, refused(), 1, 1);
        assert!(!frames.has_room());
        frames.next().now_or_never().unwrap();
        assert!(frames.has_room());
    }

    #[test]
    fn who_never_gets_an_answer_is_told_so() {
        let mut frames = InFlight::new(Arc::new(OnTheirWay::new(ALL)));
        let (gone, answer) = oneshot::channel();
        frames.push(None, Ok(Outcome::One(Answer::later(answer))), 1, 1);
        drop(gone);
        let done = frames.next().now_or_never().flatten().unwrap();
        assert_eq!(done.outcome.unwrap_err().code, Code::Unavailable);
    }
}
