//! The senders: workers with sockets, and back ends that `XADD`. Each sends its share, and what gets no answer it
//! sends again under the same key.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::ledger::{Fate, Ledger, Number, Record, Sent, To};
use crate::scale::Scale;
use crate::stage::{Addresses, now_ms};
use crate::{stream, worker};

/// Workers with a socket, and as many that `XADD`.
const SENDERS: usize = 3;
/// How often a sender sends what is due.
const TICK: Duration = Duration::from_millis(20);

/// Everything that sends. Ends when dropped.
pub struct Load {
    desk: Arc<Desk>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the senders share.
pub struct Desk {
    pub addresses: Arc<Addresses>,
    ledger: Mutex<Ledger>,
    next: AtomicU64,
    sending: AtomicBool,
    users: usize,
    sessions: usize,
}

/// One event on its way: sent again until it is answered, if it has a key.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub number: Number,
    pub sent: Sent,
}

/// A sender's share of the load.
pub struct Share {
    pub desk: Arc<Desk>,
    pub rng: Rng,
    lane: usize,
    per_tick: f64,
    due: f64,
}

impl Load {
    /// Starts the senders, paused.
    pub fn start(scale: &Scale, addresses: &Arc<Addresses>) -> Self {
        let desk = Arc::new(Desk {
            addresses: addresses.clone(),
            ledger: Mutex::default(),
            next: AtomicU64::new(1),
            sending: AtomicBool::new(false),
            users: scale.users,
            sessions: scale.sessions,
        });
        let per_tick = scale.rate as f64 * TICK.as_secs_f64() / (2 * SENDERS) as f64;
        let share = |lane: usize| Share {
            desk: desk.clone(),
            rng: Rng::with_seed(scale.seed.wrapping_mul(31).wrapping_add(lane as u64)),
            lane,
            per_tick,
            due: 0.0,
        };
        let tasks = (0..SENDERS)
            .flat_map(|lane| {
                [tokio::spawn(worker::run(share(2 * lane))), tokio::spawn(stream::run(share(2 * lane + 1)))]
            })
            .collect();
        Self { desk, tasks }
    }

    /// A new phase, after one in which this was seen.
    pub fn begin(&self, records: &[Record]) {
        self.desk.ledger().begin(self.desk.next.load(Ordering::Relaxed), records);
        self.desk.sending.store(true, Ordering::Release);
    }

    /// Sends nothing new; what is not answered goes on being sent.
    pub fn pause(&self) {
        self.desk.sending.store(false, Ordering::Release);
    }

    /// Events with a key that have not been answered yet.
    pub fn unanswered(&self) -> usize {
        let ledger = self.desk.ledger();
        ledger.events.values().filter(|sent| sent.keyed && sent.fate == Fate::Unknown).count()
    }

    /// Senders that have ended: none does by itself.
    pub fn ended(&self) -> usize {
        self.tasks.iter().filter(|task| task.is_finished()).count()
    }

    /// Looks into the ledger.
    pub fn ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.desk.ledger())
    }

    /// Enters an event that somebody else sends.
    pub fn enter(&self, sent: Sent) -> Number {
        self.desk.enter(sent)
    }

    /// An event that was entered has been answered.
    pub fn answered(&self, number: Number, fate: Fate) {
        self.desk.answered(number, fate);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Desk {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("the ledger")
    }

    fn enter(&self, sent: Sent) -> Number {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.ledger().events.insert(number, sent);
        number
    }

    /// What became of an event.
    pub fn answered(&self, number: Number, fate: Fate) {
        if let Some(sent) = self.ledger().events.get_mut(&number) {
            sent.fate = fate;
            sent.answered_ms = Some(now_ms());
        }
    }

    /// It is sent again: its order is not known any more.
    pub fn again(&self, number: Number) {
        if let Some(sent) = self.ledger().events.get_mut(&number) {
            sent.once = false;
        }
    }
}

impl Share {
    /// A ticker for [`Share::due`].
    pub fn ticks() -> tokio::time::Interval {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    /// What is to be sent at this tick, entered into the ledger.
    pub fn due(&mut self) -> Vec<Outgoing> {
        if !self.desk.sending.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.due += self.per_tick;
        let count = self.due as usize;
        self.due -= count as f64;
        (0..count).map(|_| self.event()).collect()
    }

    fn event(&mut self) -> Outgoing {
        let session = self.rng.usize(..self.desk.sessions);
        let (to, collapse, transient) = match self.rng.u32(..100) {
            0..5 => (To::Only(session), false, false),
            5..10 => (To::Except(session), false, false),
            10..20 => (To::All, true, false),
            20..23 => (To::All, false, true),
            _ => (To::All, false, false),
        };
        let sent = Sent {
            user: self.rng.usize(..self.desk.users),
            to,
            collapse,
            transient,
            lane: self.lane,
            once: true,
            keyed: !transient && self.rng.u32(..10) > 0,
            fate: Fate::Unknown,
            answered_ms: None,
        };
        Outgoing { number: self.desk.enter(sent.clone()), sent }
    }
}

impl Outgoing {
    /// Its data: 200 bytes, as an event of the field has.
    pub fn data(&self) -> serde_json::Value {
        json!({ "n": self.number, "pad": "x".repeat(180) })
    }
}
