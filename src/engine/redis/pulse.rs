//! The inbox's reader and its guard. A reader that waits for ever, or has panicked, looks like one to whom nothing
//! comes; so this node sends itself signs of life, and one that goes in and does not come out means that the reader
//! has died. Then another is started, and the inbox made anew: every session looks into its log by that.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::{Context, inbox};
use crate::lock::lock;

/// How often the guard looks. Two looks in a row must find the same: whoever was frozen has not read either.
const LOOK: Duration = Duration::from_secs(1);

/// This node's signs of life.
#[derive(Debug, Default)]
pub struct Pulse(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    /// When the oldest was sent that has not come through.
    sent: Option<Instant>,
    /// When one last came through.
    came: Option<Instant>,
}

impl Pulse {
    /// A sign of life went into this node's inbox.
    pub fn sent(&self) {
        lock(&self.0).sent.get_or_insert_with(Instant::now);
    }

    /// One came through it.
    pub fn came(&self) {
        *lock(&self.0) = Times { sent: None, came: Some(Instant::now()) };
    }

    /// How long ago one last came through.
    pub fn last(&self) -> Option<Duration> {
        lock(&self.0).came.map(|came| came.elapsed())
    }

    /// Expects none of those that are on their way.
    fn forget(&self) {
        lock(&self.0).sent = None;
    }

    /// For how long one has been on its way, if any is.
    fn silent(&self) -> Duration {
        lock(&self.0).sent.map_or(Duration::ZERO, |sent| sent.elapsed())
    }
}

/// Has this node's inbox read for as long as the process lives.
pub async fn keep(context: Arc<Context>) {
    let lost = || {
        context.pulse.forget();
        if let Some(node) = context.node() {
            node.inbox_lost();
        }
    };
    keep_reading(|| inbox::read(context.clone()), || silence(context.clone()), lost).await;
}

/// Starts a reader, and another one as soon as `silence` is there or the reader has ended; `lost` is told of each.
async fn keep_reading<R, S>(read: impl Fn() -> R, silence: impl Fn() -> S, lost: impl Fn())
where
    R: Future<Output = ()> + Send + 'static,
    S: Future<Output = ()>,
{
    loop {
        let mut reader = tokio::spawn(read());
        tokio::select! {
            ended = &mut reader => error!(?ended, "the inbox's reader has ended: another one is started"),
            () = silence() => warn!("nothing comes through the inbox: another reader is started"),
        }
        reader.abort();
        // A reader that ends at once must not keep a core busy.
        sleep(LOOK).await;
        lost();
    }
}

/// Resolves when a sign of life has been on its way for so long that the node has not been ready for a while.
async fn silence(context: Arc<Context>) {
    // A node is not ready without one for a lease, or 5 s; balancers hear of that first.
    let patience = context.config.node_ttl.max(Duration::from_secs(5)).mul_f64(1.5);
    let mut found = false;
    loop {
        sleep(LOOK).await;
        if !context.link.is_up() {
            context.pulse.forget(); // nothing comes from a Redis that is away
        }
        let silent = context.pulse.silent() > patience;
        if silent && found {
            return;
        }
        found = silent;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_has_not_come_through_counts_from_when_it_was_sent() {
        let (pulse, second) = (Pulse::default(), Duration::from_secs(1));
        pulse.sent();
        sleep(second).await;
        pulse.sent();
        assert_eq!((pulse.silent(), pulse.last()), (second, None), "the first of them");
        pulse.came();
        assert_eq!((pulse.silent(), pulse.last()), (Duration::ZERO, Some(Duration::ZERO)), "it has come");
        pulse.sent();
        sleep(second).await;
        assert_eq!((pulse.silent(), pulse.last()), (second, Some(second)), "the next has not");
        pulse.forget();
        assert_eq!((pulse.silent(), pulse.last()), (Duration::ZERO, Some(second)), "it need not come");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_panics_or_falls_silent_has_a_successor() {
        let (started, running, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(()), AtomicUsize::new(0));
        let read = || {
            let (number, running) = (started.fetch_add(1, Ordering::SeqCst), running.clone());
            async move {
                let _running = running;
                assert!(number > 0, "the first one panics");
                std::future::pending().await
            }
        };
        // The second one is silent after a while, the third one is not.
        let silence = || async {
            match started.load(Ordering::SeqCst) {
                2 => sleep(Duration::from_secs(60)).await,
                _ => std::future::pending().await,
            }
        };
        let keep = keep_reading(read, silence, || _ = lost.fetch_add(1, Ordering::SeqCst));
        assert!(timeout(Duration::from_secs(600), keep).await.is_err(), "it goes on");
        assert_eq!((started.load(Ordering::SeqCst), lost.load(Ordering::SeqCst)), (3, 2));
        assert_eq!(Arc::strong_count(&running), 2, "only the last one still runs");
    }
}
