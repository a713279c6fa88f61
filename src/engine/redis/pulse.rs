//! The inbox's reader and its guard. A reader that waits for ever, or has panicked, looks like one to whom nothing
//! comes; so this node sends itself signs of life, and one that goes in and does not come out means that the reader
//! has died. Then another is started, and the inbox made anew: every session looks into its log by that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::{Context, inbox};
use crate::lock::lock;
use crate::retold::Retold;

/// How often the guard looks. Two looks in a row must find the same: whoever was frozen has not read either.
const LOOK: Duration = Duration::from_secs(1);

/// This node's signs of life, and what its reader says of itself.
#[derive(Debug, Default)]
pub struct Pulse {
    times: Mutex<Times>,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Times {
    /// When the oldest was sent that has not come through.
    sent: Option<Instant>,
    /// When one last came through.
    came: Option<Instant>,
}

/// Why the inbox cannot be read, from when that is so until it is read; whichever reader finds it.
#[derive(Debug, Default)]
struct Trouble {
    why: Option<String>,
    /// What was told, by reason: there are a few, and one may take turns with another.
    told: BTreeMap<String, Retold>,
}

impl Pulse {
    /// A sign of life went into this node's inbox, no earlier than that. One that has come through since may be this one:
    /// a reader is often quicker than the answer. Where it was another one, there will be more.
    pub fn sent(&self, at: Instant) {
        let mut times = lock(&self.times);
        if times.came.is_none_or(|came| came < at) {
            times.sent.get_or_insert(at);
        }
    }

    /// One came through it.
    pub fn came(&self) {
        *lock(&self.times) = Times { sent: None, came: Some(Instant::now()) };
    }

    /// How long ago one last came through.
    pub fn last(&self) -> Option<Duration> {
        lock(&self.times).came.map(|came| came.elapsed())
    }

    /// The inbox cannot be read, once more. How often since this reason was told, where it is time to tell it again.
    pub fn stops(&self, why: &str) -> Option<u64> {
        let mut trouble = lock(&self.trouble);
        trouble.why = Some(why.to_owned());
        trouble.told.entry(why.to_owned()).or_default().again()
    }

    /// The inbox is read. Whether it was told that it cannot be.
    pub fn reads(&self) -> bool {
        std::mem::take(&mut *lock(&self.trouble)).why.is_some()
    }

    /// Why it cannot be read, as far as its reader knows.
    pub fn why(&self) -> Option<String> {
        lock(&self.trouble).why.clone()
    }

    /// Expects none of those that are on their way.
    fn forget(&self) {
        lock(&self.times).sent = None;
    }

    /// For how long one has been on its way, if any is.
    fn silent(&self) -> Duration {
        lock(&self.times).sent.map_or(Duration::ZERO, |sent| sent.elapsed())
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
            () = silence() => {}
        }
        reader.abort();
        // A reader that ends at once must not keep a core busy.
        sleep(LOOK).await;
        lost();
    }
}

/// Resolves, and tells it, when a sign of life has been on its way for so long that the node has not been ready for a while.
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
            warn!(why = context.pulse.why(), "nothing comes through the inbox: another reader is started");
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
        pulse.sent(Instant::now());
        sleep(second).await;
        let asked = Instant::now();
        pulse.sent(asked);
        assert_eq!((pulse.silent(), pulse.last()), (second, None), "the first of them");
        pulse.came();
        assert_eq!((pulse.silent(), pulse.last()), (Duration::ZERO, Some(Duration::ZERO)), "it has come");
        pulse.sent(asked);
        sleep(second).await;
        assert_eq!((pulse.silent(), pulse.last()), (Duration::ZERO, Some(second)), "before its answer did");
        pulse.came();
        sleep(second).await;
        pulse.sent(Instant::now());
        sleep(second).await;
        assert_eq!((pulse.silent(), pulse.last()), (second, Some(2 * second)), "the next has not");
        pulse.forget();
        assert_eq!((pulse.silent(), pulse.last()), (Duration::ZERO, Some(2 * second)), "it need not come");
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_why_it_is_not_read_is_told_at_once_and_then_once_a_minute() {
        let pulse = Pulse::default();
        assert!(!pulse.reads(), "as it always was");
        assert_eq!(
            (pulse.stops("full"), pulse.stops("broken"), pulse.stops("full")),
            (Some(1), Some(1), None)
        );
        sleep(Duration::from_secs(60)).await;
        assert_eq!((pulse.stops("full"), pulse.why().as_deref()), (Some(2), Some("full")));
        assert_eq!((pulse.reads(), pulse.reads(), pulse.why()), (true, false, None), "told once");
        assert_eq!(pulse.stops("full"), Some(1), "that is news again");
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
