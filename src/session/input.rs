//! Whether a peer may have sent something since it was last asked.
//!
//! Nearly all that wakes a session is something to write. To ask its socket for input each time takes some 4 % of
//! a node's time, so what reads has a waker of its own, which notes that it was woken before it wakes the task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// What is known of input.
#[derive(Default)]
pub struct Input {
    watch: Option<Arc<Watch>>,
}

/// Woken where there may be something to read.
struct Watch {
    task: Waker,
    woken: AtomicBool,
}

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Input {
    /// Reads, unless the last time had to wait and nothing has come since.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let watch = match &self.watch {
            Some(watch) if watch.task.will_wake(cx.waker()) => watch,
            _ => {
                self.watch.insert(Arc::new(Watch { task: cx.waker().clone(), woken: AtomicBool::new(true) }))
            }
        };
        if !watch.woken.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Noted before it reads: what comes meanwhile wakes it again.
        watch.woken.store(false, Ordering::Relaxed);
        let outcome = read(&mut Context::from_waker(&Waker::from(watch.clone())));
        if outcome.is_ready() {
            watch.woken.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Asks for input where `outcome` would come of it; says what wakes that, where it was asked at all.
    async fn ask(input: &mut Input, outcome: Poll<()>) -> Option<Waker> {
        poll_fn(|cx| {
            let mut waker = None;
            let told = input.poll(cx, |cx| {
                waker = Some(cx.waker().clone());
                outcome
            });
            assert_eq!(told, if waker.is_some() { outcome } else { Poll::Pending });
            Poll::Ready(waker)
        })
        .await
    }

    #[tokio::test]
    async fn who_was_not_woken_is_not_asked_again() {
        let mut input = Input::default();
        ask(&mut input, Poll::Ready(())).await.unwrap();
        let waker = ask(&mut input, Poll::Pending).await.expect("more may be behind what came");
        assert!(ask(&mut input, Poll::Ready(())).await.is_none());
        waker.wake();
        assert!(ask(&mut input, Poll::Pending).await.is_some());
        // Another task knows nothing of what the first was told, and has to be woken itself.
        let other =
            async move { (ask(&mut input, Poll::Pending).await, ask(&mut input, Poll::Pending).await) };
        let (first, second) = tokio::spawn(other).await.unwrap();
        assert!(first.is_some() && second.is_none());
    }

    #[tokio::test]
    async fn what_comes_while_it_is_read_wakes_the_task_and_is_read_next() {
        let (mut input, mut asked) = (Input::default(), 0);
        let read = poll_fn(|cx| {
            input.poll(cx, |cx| {
                asked += 1;
                cx.waker().wake_by_ref();
                if asked < 3 { Poll::Pending } else { Poll::Ready(asked) }
            })
        });
        assert_eq!(tokio::time::timeout(std::time::Duration::from_secs(10), read).await, Ok(3));
    }
}
