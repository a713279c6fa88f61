//! Pings to a worker: when the next one is due, and how long its pong may take.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::session::Limits;

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// A ping goes out.
    Ping,
    /// The pong to it has not come in time, nor anything else.
    Silent,
}

/// The keep-alive of one worker's socket.
pub struct Pings {
    timer: Pin<Box<Sleep>>,
    /// A ping is out, and the timer is that of its pong.
    out: bool,
    interval: Duration,
    patience: Duration,
}

impl Pings {
    /// The first one comes at random within the interval, so that those who came together do not stay so.
    pub fn new(limits: &Limits) -> Self {
        let (interval, patience) = (limits.ping_interval, limits.pong_timeout);
        let first = interval.mul_f64(0.5 + fastrand::f64() / 2.0);
        Self { timer: Box::pin(sleep(first)), out: false, interval, patience }
    }

    /// What is due, as soon as something is. Whoever asks decides what becomes of a worker that is silent: asked on, it
    /// has as much time again.
    pub async fn due(&mut self) -> Due {
        self.timer.as_mut().await;
        let due = if self.out { Due::Silent } else { Due::Ping };
        self.out = true;
        self.heard();
        due
    }

    /// The worker has sent something, or what it sends was not read for a while: its pong may take longer.
    pub fn heard(&mut self) {
        if self.out {
            self.timer.as_mut().reset(Instant::now() + self.patience);
        }
    }

    /// A pong has come: the next ping is due after a while.
    pub fn answered(&mut self) {
        self.out = false;
        self.timer.as_mut().reset(Instant::now() + self.interval);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn pings() -> Pings {
        let seconds = Duration::from_secs;
        Pings::new(&Limits {
            ping_interval: seconds(10),
            pong_timeout: seconds(3),
            hello_timeout: seconds(1),
            client_rate: 1,
            max_message: 1,
            max_connection_age: None,
        })
    }

    /// What is due next, and after how many seconds.
    async fn next(pings: &mut Pings) -> (Due, f64) {
        let start = Instant::now();
        (pings.due().await, start.elapsed().as_secs_f64())
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_answers_is_pinged_again_and_whoever_does_not_is_silent() {
        let mut pings = pings();
        advance(Duration::from_secs(4)).await;
        pings.heard(); // no ping is out
        let (due, after) = next(&mut pings).await;
        assert_eq!(due, Due::Ping);
        assert!((1.0..=6.0).contains(&after), "within the second half of the interval: {after}");
        advance(Duration::from_secs(2)).await;
        pings.answered();
        assert_eq!(next(&mut pings).await, (Due::Ping, 10.0));
        assert_eq!(next(&mut pings).await, (Due::Silent, 3.0));
        assert_eq!(next(&mut pings).await, (Due::Silent, 3.0), "where it was not read, it has as long again");
        pings.answered();
        assert_eq!(next(&mut pings).await, (Due::Ping, 10.0));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_heard_is_not_silent() {
        let mut pings = pings();
        pings.due().await;
        for _ in 0..5 {
            advance(Duration::from_secs(2)).await;
            pings.heard();
        }
        assert_eq!(next(&mut pings).await, (Due::Silent, 3.0));
    }
}
