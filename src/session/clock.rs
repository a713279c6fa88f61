//! The times of one socket, under one timer: pings, its greatest age, the end of its credentials.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::Limits;
use super::line::Moved;
use crate::close::Close;
use crate::id::EventId;

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tick {
    /// A ping goes out: [`Clock::pinged`].
    Ping,
    /// The pong to it is late: [`Clock::is_silent`].
    Late,
    /// The session's time is up.
    Close(Close),
    /// The session has reached its greatest age.
    Age,
    /// What is between the last event and those that wait has not come: the log has it.
    Missing,
}

/// The keep-alive of one socket.
#[derive(Debug)]
enum Ping {
    /// The next ping goes out at this time.
    Due(Instant),
    /// A ping is out; its pong confirms everything up to this id.
    Out {
        /// When the peer is looked at, if it sends nothing: after half of its time, at the end of it, and so on.
        until: Instant,
        confirms: EventId,
        /// How many bytes had been written in all once the ping had; [`WAITS`] as long as it has not.
        sent: u64,
        /// How often it was looked at since it last showed that it is there.
        looks: u8,
        /// The peer has shown that it is slow and not silent: it sends, or takes what is before the ping.
        slow: bool,
        /// Its system had no room at the last look.
        full: bool,
    },
    /// As that, but it is the last one, and its time is a moment: after it the session closes for this.
    Last { until: Instant, confirms: EventId, close: Close },
}

/// How long the last pong may take: who gives none finds again what it has not confirmed.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Stands for how many bytes end with a ping that has not gone out yet.
const WAITS: u64 = u64::MAX;
/// Bytes a second with which a peer that is slow must take what waits for it, or send what it is sending: half of what is
/// promised, as either goes by packets, a few in the time between two looks.
const LEAST_RATE: f64 = 512.0;
/// Looks at a peer whose system has no room, four times `--pong-timeout`: systems make room in steps of 40 KiB and more.
const LOOKS_WITHOUT_ROOM: u8 = 8;
/// How long new credentials may be looked at beyond the end of the old ones, which anyone could put off by them: a set of
/// keys is read once a second at most, and answers within another.
const RENEWING: Duration = Duration::from_secs(2);
/// How long what is missing may take: hints of two publishers cross within milliseconds, and what is lost costs no more.
const CROSSING: Duration = Duration::from_millis(20);

/// The clock of one session.
pub(super) struct Clock {
    ping: Ping,
    pub(super) limits: Arc<Limits>,
    /// How much had moved when the peer was looked at.
    moved: Moved,
    ages_out: Option<Instant>,
    /// When the client's credentials expire, if ever.
    pub(super) expires: Option<Instant>,
    /// New ones have come, and are being looked at.
    pub(super) renews: bool,
    /// They have expired. What came before that may have new ones: the session reads it, acts on it for [`RENEWING`] at most,
    /// and hands out no events meanwhile.
    pub(super) overdue: bool,
    /// Until when what is missing may come, where something is.
    pub(super) missing: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Clock {
    /// A clock that starts now.
    pub(super) fn new(limits: &Arc<Limits>, expires: Option<Instant>) -> Self {
        let now = Instant::now();
        // The first ping comes at random within the interval, so that those who came together do not stay so.
        let first = now + limits.ping_interval.mul_f64(0.5 + fastrand::f64() / 2.0);
        Self {
            ping: Ping::Due(first),
            limits: limits.clone(),
            moved: Moved::default(),
            ages_out: limits.max_connection_age.map(|age| now + age.mul_f64(0.9) + age_spread(age)),
            expires,
            renews: false,
            overdue: false,
            missing: None,
            timer: Box::pin(sleep_until(first)),
        }
    }

    /// What is due, as soon as something is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Tick> {
        let (Ping::Due(ping) | Ping::Out { until: ping, .. } | Ping::Last { until: ping, .. }) = self.ping;
        let expires = self.expires.map(|at| if self.overdue { at + RENEWING } else { at });
        let next = [self.ages_out, expires, self.missing].into_iter().flatten().fold(ping, Instant::min);
        if self.timer.deadline() != next {
            self.timer.as_mut().reset(next);
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let past = |at: Option<Instant>| at.is_some_and(|at| at <= next);
        Poll::Ready(if past(expires) {
            Tick::Close(Close::Expired)
        } else if past(self.ages_out) {
            self.ages_out = None;
            Tick::Age
        } else if past(self.missing) {
            self.missing = None;
            Tick::Missing
        } else {
            match self.ping {
                Ping::Due(_) => Tick::Ping,
                Ping::Out { .. } => Tick::Late,
                Ping::Last { close, .. } => Tick::Close(close),
            }
        })
    }

    /// The session cannot end for its age now: it is due again later, as far from the others as it was.
    pub(super) fn ages_out_later(&mut self) {
        self.ages_out = self.limits.max_connection_age.map(|age| Instant::now() + age_spread(age));
    }

    /// Something is missing: it may come for a moment, from when that was first seen.
    pub(super) fn wait_for_missing(&mut self) {
        self.missing.get_or_insert_with(|| Instant::now() + CROSSING);
    }

    /// A ping goes out: the pong to it confirms everything up to `confirms`.
    pub(super) fn pinged(&mut self, confirms: EventId) {
        let until = Instant::now() + self.limits.pong_timeout / 2;
        self.ping = Ping::Out { until, confirms, sent: WAITS, looks: 0, slow: false, full: false };
    }

    /// All that waited has gone out, `went` bytes in all: where the ping was among it, the time for its pong begins.
    pub(super) fn flushed(&mut self, went: u64) {
        if let Ping::Out { sent, .. } = &mut self.ping
            && *sent == WAITS
        {
            *sent = went;
            self.heard();
        }
    }

    /// Whether a peer whose pong is late is silent, by what it has sent and `taken`. It has half of its time to show
    /// otherwise, and longer where its system has no room: it sends, or it takes what is before the ping. Then it is slow,
    /// and its time begins anew, at last when its system has the ping: what that has taken before, it has yet to read.
    pub(super) fn is_silent(&mut self, (taken, has_room): (Moved, bool)) -> bool {
        let Ping::Out { until, sent, looks, slow, full, .. } = &mut self.ping else { return false };
        let before = std::mem::replace(&mut self.moved, taken);
        let was_full = std::mem::replace(full, !has_room);
        let half = self.limits.pong_timeout / 2;
        *until = Instant::now() + half;
        let least = (LEAST_RATE * half.as_secs_f64()) as u64;
        let had_ping = before.went >= *sent;
        let takes = taken.went >= *sent || taken.went.saturating_sub(before.went) >= least;
        // The first look at a ping shows only where things stand.
        let first = *looks == 0 && !*slow;
        if !first && (taken.came - before.came >= least || !had_ping && takes) {
            (*slow, *looks) = (true, 0);
            return false;
        }
        *looks += 1;
        // Room that was made just now has not been filled yet.
        *looks >= if had_ping || has_room && !was_full { 2 } else { LOOKS_WITHOUT_ROOM }
    }

    /// The last ping went out: the session closes at the pong to it, or soon.
    pub(super) fn pinged_last(&mut self, confirms: EventId, close: Close) {
        self.ping = Ping::Last { until: Instant::now() + LAST_WORD, confirms, close };
        self.ages_out = None;
    }

    /// What the session closes for at the last pong, if that is awaited.
    pub(super) fn closes_for(&self) -> Option<Close> {
        match self.ping {
            Ping::Last { close, .. } => Some(close),
            Ping::Due(_) | Ping::Out { .. } => None,
        }
    }

    /// A pong came; what it confirms, if it answers the ping that is out. That carried the id that it confirms: a pong
    /// that nobody asked for, which anyone may send, or one to a ping before it, does not show what has arrived.
    pub(super) fn pong(&mut self, payload: &[u8]) -> Option<EventId> {
        match self.ping {
            Ping::Out { confirms, .. } | Ping::Last { confirms, .. }
                if payload == confirms.to_string().as_bytes() =>
            {
                self.answered();
                Some(confirms)
            }
            _ => None,
        }
    }

    /// The peer has sent something else: it is not silent, and its pong may take longer.
    pub(super) fn heard(&mut self) {
        if let Ping::Out { until, looks, .. } = &mut self.ping {
            (*until, *looks) = (Instant::now() + self.limits.pong_timeout / 2, 0);
        }
    }

    /// The peer has shown that it is there: the next ping is due after a while.
    pub(super) fn answered(&mut self) {
        if matches!(self.ping, Ping::Out { .. }) {
            self.ping = Ping::Due(Instant::now() + self.limits.ping_interval);
        }
    }
}

/// At random within a fifth of the greatest age: who came together does not go together.
fn age_spread(age: Duration) -> Duration {
    age.mul_f64(0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn clock(age: Option<u64>, expires: Option<u64>) -> Clock {
        let seconds = Duration::from_secs;
        let limits = Limits {
            ping_interval: seconds(10),
            pong_timeout: seconds(3),
            hello_timeout: seconds(1),
            client_rate: 1,
            max_message: 1,
            max_connection_age: age.map(seconds),
        };
        Clock::new(&Arc::new(limits), expires.map(|after| Instant::now() + seconds(after)))
    }

    /// Stands for a peer whose system has no room.
    const FULL: u64 = u64::MAX;

    async fn tick(clock: &mut Clock) -> Tick {
        poll_fn(|cx| clock.poll(cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_pong_in_time_confirms_a_missing_one_closes() {
        let mut clock = clock(None, None);
        let sent = EventId { ms: 7, seq: 0 };
        assert_eq!(clock.pong(b"7-0"), None, "nobody asked for it");
        assert_eq!(tick(&mut clock).await, Tick::Ping);
        clock.pinged(sent);
        assert_eq!(clock.pong(b""), None, "it answers nothing");
        assert_eq!(clock.pong(b"6-0"), None, "that is the answer to a ping before");
        assert_eq!(clock.pong(b"7-0"), Some(sent));
        assert_eq!(clock.pong(b"7-0"), None);
        assert_eq!(tick(&mut clock).await, Tick::Ping);
        clock.pinged(sent);
        let silent_from = Instant::now() + Duration::from_secs(2);
        sleep_until(silent_from).await;
        clock.heard();
        silent_after(&mut clock, &[(0, 0), (0, 0)]).await;
        assert_eq!(Instant::now(), silent_from + Duration::from_secs(3), "it was not silent before");
    }

    /// When a peer counts as silent, seconds after the ping; at each look, this is what has `moved`.
    async fn silent_after(clock: &mut Clock, moved: &[(u64, u64)]) -> f64 {
        let start = Instant::now();
        for (came, went) in moved {
            assert_eq!(tick(clock).await, Tick::Late);
            let has_room = *went != FULL;
            let went = if has_room { *went } else { 5_000 };
            if clock.is_silent((Moved { came: *came, went }, has_room)) {
                return start.elapsed().as_secs_f64();
            }
        }
        panic!("it does not");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_has_longer_and_who_takes_nothing_has_not() {
        // Of 3 s, looked at each 1.5 s: 768 bytes are enough. The ping ends at 10,000.
        for (moved, silent) in [
            (&[(0, 10_000), (0, 10_000)][..], 3.0),
            (&[(0, 10_000), (0, 60_000)], 3.0), // what came after the ping shows nothing
            (&[(0, 9_990), (0, 9_990)], 3.0),
            (&[(0, 9_000), (0, 9_700)], 3.0),
            (&[(0, 9_000), (0, 9_768), (0, 9_768), (0, 9_768)], 6.0),
            (&[(0, 5_000), (0, 5_800), (0, 5_800), (0, 6_600), (0, 6_600), (0, 6_600)], 9.0),
            (&[(0, FULL); 8], 12.0),
            (&[(0, FULL), (0, FULL), (0, FULL), (0, 9_000), (0, 9_000), (0, 9_000)], 9.0),
            (&[(0, FULL), (0, FULL), (0, FULL), (0, 5_000), (0, 5_000)], 7.5), // it has just made room
            (&[(0, 9_990), (0, 10_000), (0, 10_000), (0, 10_000)], 6.0),       // it has just got it
            (&[(0, 9_000), (0, 9_768), (0, 10_000), (0, 10_000), (0, 10_000)], 7.5),
            (&[(0, 10_000), (768, 10_000), (768, 10_000), (800, 10_000)], 6.0), // it is sending something
        ] {
            let mut clock = clock(None, None);
            tick(&mut clock).await;
            clock.pinged(EventId::ZERO);
            clock.flushed(10_000);
            assert_eq!(silent_after(&mut clock, moved).await, silent, "{moved:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_a_pong_begins_when_the_ping_is_out() {
        let mut clock = clock(None, None);
        tick(&mut clock).await;
        let start = Instant::now();
        clock.pinged(EventId::ZERO);
        sleep_until(start + Duration::from_secs(1)).await;
        clock.flushed(10);
        assert_eq!(silent_after(&mut clock, &[(0, 10), (0, 10)]).await, 3.0);
        clock.flushed(20);
        assert_eq!(silent_after(&mut clock, &[(0, 20)]).await, 1.5, "and only then");
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_pong_is_waited_for_a_moment() {
        let mut clock = clock(Some(1), None);
        let (before, sent) = (EventId { ms: 7, seq: 0 }, EventId { ms: 8, seq: 0 });
        let close = Close::Drain(Duration::from_secs(7));
        assert_eq!(clock.closes_for(), None);
        clock.pinged(before);
        clock.pinged_last(sent, close);
        assert_eq!(clock.closes_for(), Some(close));
        assert_eq!(clock.pong(b"7-0"), None, "that is the answer to the ping before");
        assert_eq!(clock.pong(b"8-0"), Some(sent));
        let start = Instant::now();
        assert_eq!(tick(&mut clock).await, Tick::Close(close), "its age does not matter any more");
        assert_eq!(start.elapsed(), LAST_WORD);
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_end_the_session_on_time_and_may_be_renewed() {
        let start = Instant::now();
        let mut clock = clock(None, Some(2));
        clock.expires = Some(start + Duration::from_secs(4));
        assert_eq!(tick(&mut clock).await, Tick::Close(Close::Expired));
        assert_eq!(start.elapsed().as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn new_credentials_that_came_in_time_have_a_moment_beyond_the_end_of_the_old_ones() {
        let start = Instant::now();
        let mut clock = clock(None, Some(2));
        assert_eq!(tick(&mut clock).await, Tick::Close(Close::Expired));
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        clock.overdue = true;
        assert_eq!(tick(&mut clock).await, Tick::Close(Close::Expired));
        assert_eq!(start.elapsed(), Duration::from_secs(2) + RENEWING);
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_together_does_not_go_together() {
        let now = Instant::now();
        let ages = (0..1000).map(|_| clock(Some(1000), None).ages_out.unwrap() - now);
        let (least, most) =
            ages.fold((Duration::MAX, Duration::ZERO), |(least, most), age| (least.min(age), most.max(age)));
        // A tenth less or more; that none of so many comes near an end is not going to happen.
        assert!((900..920).contains(&least.as_secs()), "{least:?}");
        assert!((1080..=1100).contains(&most.as_secs()), "{most:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_has_a_greatest_age() {
        let mut clock = clock(Some(1), None);
        assert_eq!(tick(&mut clock).await, Tick::Age);
    }
}
