//! What the parts of one process's share have in common: the plan, the clock, the count. One thread, no locks.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use hdrhistogram::{CreationError, Histogram};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::event;
use super::ledger::Ledger;
use super::plan::{Plan, Via};
use crate::logging::printable;

/// Longest latency that is told from longer ones, us.
const MOST_US: u64 = 600_000_000;
/// An event that waits for so long until it is handed over is told as trouble: it is not the node alone that is measured.
const LATE_NS: u64 = 1_000_000_000;

/// A histogram of microseconds, true to one in a thousand.
///
/// # Errors
/// Never: its bounds are fixed, and allowed.
pub fn histogram() -> Result<Histogram<u64>, CreationError> {
    Histogram::new_with_bounds(1, MOST_US, 3)
}

/// A histogram as pairs of microseconds and how often; so that those of several shares add up.
pub type Spread = Vec<(u64, u64)>;

/// What a share counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Count {
    /// Events published in the measured part, and before it.
    pub published: u64,
    /// Those that were handed over in the measured part, whenever they were due.
    pub published_measured: u64,
    /// Events refused.
    pub refused: u64,
    /// Events whose answers never came.
    pub unanswered: u64,
    /// Events that sessions saw, all told.
    pub delivered: u64,
    /// Those that came in the measured part, whenever they were published.
    pub measured: u64,
    /// Never seen by a session that got in, and not refused.
    pub lost: u64,
    /// Seen again.
    pub duplicated: u64,
    /// Seen after a later one.
    pub out_of_order: u64,
    /// Events that another run published.
    pub of_other_runs: u64,
    /// `gap` frames.
    pub gaps: u64,
    /// Sockets that ended before their time.
    pub broken: u64,
    /// Latencies of deliveries.
    pub latencies: Spread,
    /// Latencies of answers to publishers.
    pub answers: Spread,
    /// How long sockets that broke were away.
    pub returns: Spread,
    /// The first trouble.
    pub trouble: Option<String>,
}

/// The share's state.
pub struct Load {
    /// What is to be done.
    pub plan: Plan,
    /// This share's users.
    pub users: std::ops::Range<usize>,
    /// Tells this run's sessions from those of another.
    pub run: String,
    /// Tells its events from those of another.
    pub mark: Vec<u8>,
    epoch: Instant,
    /// What was counted so far. What the ledgers and the histograms hold comes to it at the end.
    pub count: RefCell<Count>,
    /// Events published for each of this share's users.
    pub published: RefCell<Vec<u64>>,
    /// What each session saw, user by user; nothing where it never got in.
    pub ledgers: RefCell<Vec<Option<Ledger>>>,
    /// Sessions of each user that got in.
    listeners: RefCell<Vec<u64>>,
    /// The sum of these.
    pub entered: Cell<u64>,
    /// When the last of them did, ns.
    pub entered_ns: Cell<u64>,
    /// Deliveries that what was published should lead to, were nothing refused.
    owed: Cell<u64>,
    /// From publish, or from when that was due, to the socket.
    pub latencies: RefCell<Histogram<u64>>,
    /// From the same to the publisher's answer.
    pub answers: RefCell<Histogram<u64>>,
    /// From a socket's end to its next welcome.
    pub returns: RefCell<Histogram<u64>>,
    /// Sessions that are registered.
    pub registered: Cell<usize>,
    /// Sessions that could not connect.
    pub failed: Cell<usize>,
    /// The measured part begins, ns.
    pub from_ns: Cell<u64>,
    /// How long it lasts, ns.
    measured_ns: u64,
    /// Events that were refused, for each of this share's users.
    refused_of: RefCell<Vec<u64>>,
    /// Those of which nobody said whose they were.
    refused_of_whom: Cell<u64>,
    /// Deliveries that refusals of known users took away.
    excused: Cell<u64>,
    /// Events of each of this share's users whose answers are awaited.
    asked: RefCell<Vec<u64>>,
    /// The sum of these.
    pub awaited: Cell<u64>,
    /// Deliveries that nobody waits for any more.
    forgiven: Cell<u64>,
    /// When they were given up, ns: they were published before.
    forgiven_ns: Cell<u64>,
    /// Fewer are on their way than before.
    pub moved: Notify,
    /// [`Load::moved`] is told once no more than so many are on their way.
    pub low: Cell<u64>,
    /// The run is over: sockets end in peace.
    pub over: Cell<bool>,
}

impl Load {
    /// A share before its start.
    ///
    /// # Errors
    /// Never: see [`histogram`].
    pub fn new(plan: Plan, share: usize, run: String) -> Result<Self, CreationError> {
        let users = plan.share(share);
        let sessions = users.len() * plan.sessions;
        let measured_ns = u64::try_from(plan.duration.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self {
            published: RefCell::new(vec![0; users.len()]),
            ledgers: RefCell::new((0..sessions).map(|_| None).collect()),
            listeners: RefCell::new(vec![0; users.len()]),
            refused_of: RefCell::new(vec![0; users.len()]),
            asked: RefCell::new(vec![0; users.len()]),
            entered: Cell::new(0),
            entered_ns: Cell::new(0),
            owed: Cell::new(0),
            plan,
            users,
            mark: event::mark(&run),
            run,
            epoch: Instant::now(),
            count: RefCell::default(),
            latencies: RefCell::new(histogram()?),
            answers: RefCell::new(histogram()?),
            returns: RefCell::new(histogram()?),
            registered: Cell::new(0),
            failed: Cell::new(0),
            from_ns: Cell::new(u64::MAX),
            measured_ns,
            refused_of_whom: Cell::new(0),
            excused: Cell::new(0),
            awaited: Cell::new(0),
            forgiven: Cell::new(0),
            forgiven_ns: Cell::new(0),
            moved: Notify::new(),
            low: Cell::new(0),
            over: Cell::new(false),
        })
    }

    /// Nanoseconds since this share was made.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A session got in: from here on it should see what its user is sent.
    pub fn enter(&self, session: usize) {
        if let Some(ledger @ None) = self.ledgers.borrow_mut().get_mut(session) {
            *ledger = Some(Ledger::default());
            self.listeners.borrow_mut()[session / self.plan.sessions] += 1;
            self.entered.set(self.entered.get() + 1);
            self.entered_ns.set(self.now_ns());
        }
    }

    /// Whether a session has ever got in.
    pub fn is_in(&self, session: usize) -> bool {
        matches!(self.ledgers.borrow().get(session), Some(Some(_)))
    }

    /// Deliveries that are still to come.
    pub fn on_their_way(&self) -> u64 {
        let delivered = self.count.borrow().delivered;
        self.owed.get().saturating_sub(delivered + self.forgiven.get() + self.excused())
    }

    /// Nobody waits for what is on its way now. It may still come.
    pub fn forgive(&self) {
        self.forgiven.set(self.forgiven.get() + self.on_their_way());
        self.forgiven_ns.set(self.now_ns());
    }

    /// What was given up is waited for after all.
    pub fn await_all(&self) {
        self.forgiven.set(0);
    }

    /// Whether every user has as many listeners as any other.
    pub fn is_even(&self) -> bool {
        self.listeners.borrow().windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Deliveries that refusals took away.
    fn excused(&self) -> u64 {
        self.excused.get() + self.excused_of_whom()
    }

    /// Those of them of which nobody said whose they were: users take turns, so each stands for as many sessions as a
    /// user has on average.
    fn excused_of_whom(&self) -> u64 {
        (self.refused_of_whom.get() * self.entered.get()).div_ceil(self.users.len() as u64)
    }

    /// Deliveries that never came, but for those that refusals took away.
    pub fn lost(&self) -> u64 {
        let (published, refused) = (self.published.borrow(), self.refused_of.borrow());
        let (listeners, ledgers) = (self.listeners.borrow(), self.ledgers.borrow());
        let of_users = ledgers.chunks(self.plan.sessions).enumerate().map(|(user, ledgers)| {
            let missing: u64 = ledgers.iter().flatten().map(|ledger| ledger.lost(published[user])).sum();
            missing.saturating_sub(refused[user] * listeners[user])
        });
        of_users.sum::<u64>().saturating_sub(self.excused_of_whom())
    }

    /// So many events went out at `now_ns`, of which the first was due at `then_ns`; `why` one may wait for long.
    pub fn handed_over(&self, events: u64, then_ns: u64, now_ns: u64, why: &str) {
        if self.is_measured(now_ns) {
            self.count.borrow_mut().published_measured += events;
        }
        let waited_ns = now_ns.saturating_sub(then_ns);
        if events > 0 && waited_ns > LATE_NS {
            self.trouble(|| format!("an event waited {} ms for {why}", waited_ns / 1_000_000));
        }
    }

    fn is_measured(&self, now_ns: u64) -> bool {
        let from_ns = self.from_ns.get();
        (from_ns..from_ns.saturating_add(self.measured_ns)).contains(&now_ns)
    }

    /// Numbers the next event of one of this share's users.
    pub fn number(&self, user: usize) -> u64 {
        self.count.borrow_mut().published += 1;
        self.owed.set(self.owed.get() + self.listeners.borrow()[user]);
        let mut published = self.published.borrow_mut();
        let next = &mut published[user];
        *next += 1;
        *next - 1
    }

    /// Notes the first trouble. What others said is in it: a close's reason, an answer.
    pub fn trouble(&self, text: impl FnOnce() -> String) {
        self.count.borrow_mut().trouble.get_or_insert_with(|| printable(&text()));
    }

    /// A session saw the event with this number, published (or due) at `then_ns`; `now_ns` is now.
    pub fn deliver(&self, session: usize, number: u64, then_ns: u64, now_ns: u64) {
        let fresh = match self.ledgers.borrow_mut().get_mut(session) {
            Some(Some(ledger)) => ledger.note(number),
            _ => false,
        };
        if !fresh {
            return;
        }
        self.count.borrow_mut().delivered += 1;
        if self.is_measured(now_ns) {
            self.count.borrow_mut().measured += 1;
        }
        // It was given up, and comes all the same.
        if then_ns <= self.forgiven_ns.get() {
            self.forgiven.set(self.forgiven.get().saturating_sub(1));
        }
        if then_ns >= self.from_ns.get() {
            self.latencies.borrow_mut().saturating_record(now_ns.saturating_sub(then_ns) / 1000);
        }
        self.fewer();
    }

    /// An event of one of this share's users is to be answered.
    pub fn ask(&self, user: usize) {
        self.asked.borrow_mut()[user] += 1;
        self.awaited.set(self.awaited.get() + 1);
    }

    /// The answer to an event that was due at `then_ns` is there.
    pub fn answered(&self, user: usize, then_ns: u64) {
        if then_ns >= self.from_ns.get() {
            self.answers.borrow_mut().saturating_record(self.now_ns().saturating_sub(then_ns) / 1000);
        }
        self.await_less(user);
    }

    /// An event was refused, as `answer` says; of one of this share's users, if that is known.
    pub fn refuse(&self, user: Option<usize>, answer: &[u8]) {
        self.count.borrow_mut().refused += 1;
        self.trouble(|| format!("an event was refused: {}", String::from_utf8_lossy(answer)));
        if let Some(user) = user {
            self.refused_of.borrow_mut()[user] += 1;
            self.excused.set(self.excused.get() + self.listeners.borrow()[user]);
            self.await_less(user);
        } else {
            self.refused_of_whom.set(self.refused_of_whom.get() + 1);
        }
        self.fewer();
    }

    /// No answer to an event will come any more: as far as anybody knows, it was refused.
    pub fn unanswered(&self, user: usize) {
        self.count.borrow_mut().unanswered += 1;
        self.refuse(Some(user), b"no answer came");
    }

    /// No answer is awaited any more. By a worker's socket what was sent is on its way all the same.
    pub fn give_up(&self) {
        if self.plan.via == Via::Worker {
            self.count.borrow_mut().unanswered = self.awaited.get();
            return;
        }
        let asked = self.asked.borrow().clone();
        for (user, awaited) in asked.into_iter().enumerate() {
            (0..awaited).for_each(|_| self.unanswered(user));
        }
    }

    fn await_less(&self, user: usize) {
        let mut asked = self.asked.borrow_mut();
        if asked[user] > 0 {
            asked[user] -= 1;
            self.awaited.set(self.awaited.get() - 1);
            if self.awaited.get() == 0 {
                self.moved.notify_one();
            }
        }
    }

    /// Fewer are on their way: tells whoever waits for that.
    fn fewer(&self) {
        if self.on_their_way() <= self.low.get() {
            self.moved.notify_one();
        }
    }
}
