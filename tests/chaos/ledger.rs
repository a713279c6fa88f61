//! The ledger: every event that was sent, what is known of it, and what each session has seen of it.
//!
//! It knows the contract and nothing else: no process, no socket, no clock of its own. So it can be tested with
//! records that are made up (`ledger_tests`).

use std::collections::{BTreeMap, HashMap, VecDeque};

/// An event id `<ms>-<n>`.
pub type Id = (u64, u64);
/// Each event carries a number of its own in its data.
pub type Number = u64;
/// Which user, which of the user's clients.
pub type Session = (usize, usize);

/// Whom an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    All,
    Only(usize),
    Except(usize),
}

/// What is known of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Sent; no answer yet, or none that says anything. It may be published or not, but not in part.
    Unknown,
    /// A worker was answered with this id.
    Acknowledged(Id),
    /// Redis took it onto the ingress stream under this id: that is as good as an answer.
    Added(Id),
}

/// An event that was sent.
#[derive(Debug, Clone)]
pub struct Sent {
    pub user: usize,
    pub to: To,
    /// It takes the place of the user's older event of the same key.
    pub collapse: bool,
    pub transient: bool,
    /// Which sender, and whether it sent it once only: of those the order is known.
    pub lane: usize,
    pub once: bool,
    /// It has an idempotency key, and is sent again until it is answered.
    pub keyed: bool,
    pub fate: Fate,
    /// Unix ms of the answer.
    pub answered_ms: Option<u64>,
}

/// What a session saw, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A connection began; with the `since` that was given.
    Welcome {
        since: Option<Id>,
    },
    Event {
        id: Option<Id>,
        number: Number,
        at_ms: u64,
    },
    Gap {
        since: Id,
        position: Id,
        at_ms: u64,
    },
}

/// What a client does with ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Gives the last id that it saw: exactly once.
    Since,
    /// Has a stable client id only: at least once.
    Stable,
}

/// Who may be told that something is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gaps {
    /// Nobody: nothing was thrown away.
    None,
    /// Whoever has missed something: all data were thrown away, idempotency keys among them.
    All,
    /// These users alone.
    Of(Vec<usize>),
}

/// One client's record; two tabs that fight over one id have one each.
#[derive(Debug, Clone)]
pub struct Record {
    pub session: Session,
    pub kind: Kind,
    pub seen: Vec<Seen>,
    /// The newest id of earlier phases.
    pub last: Id,
}

/// What the ledger finds in the records of one phase.
#[derive(Debug, Default)]
pub struct Verdict {
    pub sent: usize,
    pub delivered: usize,
    /// Not seen by a session that should have, and no gap told.
    pub lost: Vec<String>,
    /// Seen twice where once was promised, or published twice.
    pub doubled: Vec<String>,
    pub disordered: Vec<String>,
    /// A gap where nothing was thrown away.
    pub false_gaps: Vec<String>,
    /// Never sent, or not to this session.
    pub strange: Vec<String>,
    /// Gaps that were rightly told.
    pub gaps: usize,
    /// Seen again on a later connection by clients that have a stable id only: allowed.
    pub again: usize,
    /// The longest that a session waited for an event, ms.
    pub longest_wait_ms: u64,
    /// When the last event came that had been waited for longer than a second, Unix ms.
    pub late_until_ms: u64,
    /// That event.
    pub latest: String,
}

/// How late counts as late: a busy machine needs some of it, a mend needs more.
const LATE_MS: u64 = 1_000;

impl Verdict {
    /// Everything that should not be.
    pub fn findings(&self) -> Vec<String> {
        let named = [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("disordered", &self.disordered),
            ("false gap", &self.false_gaps),
            ("strange", &self.strange),
        ];
        named.iter().flat_map(|(what, found)| found.iter().map(move |it| format!("{what}: {it}"))).collect()
    }
}

/// Phases that are remembered: a client with a stable id may see again what came since it confirmed something, and
/// through restarts and kills that follow on each other it may not stay anywhere for long enough to do so.
pub const REMEMBERED: usize = 8;

/// The events of one phase, and older ones, which a client with a stable id may see again.
#[derive(Debug, Default)]
pub struct Ledger {
    pub events: BTreeMap<Number, Sent>,
    /// The first of this phase: from here on it is known what every session must have seen.
    pub first: Number,
    /// Those of the phases before.
    pub older: VecDeque<Number>,
}

impl Ledger {
    /// Holds the sessions' records against what was sent.
    pub fn check(&self, records: &[Record], gaps: &Gaps) -> Verdict {
        let mut verdict = Verdict { sent: self.events.range(self.first..).count(), ..Verdict::default() };
        let ids = self.ids(records, gaps, &mut verdict);
        let newest = self.newest_of_collapse(&ids);
        for record in records {
            self.check_order(record, gaps, &mut verdict);
        }
        self.check_lanes(&ids, &mut verdict);
        let mut sessions: BTreeMap<Session, Vec<&Record>> = BTreeMap::new();
        for record in records {
            sessions.entry(record.session).or_default().push(record);
        }
        for (session, records) in sessions {
            self.check_complete(session, &records, &ids, &newest, &mut verdict);
        }
        verdict
    }

    /// A new phase begins: what was seen in the last one is known from here on, what is older is forgotten.
    pub fn begin(&mut self, first: Number, records: &[Record]) {
        for record in records {
            for seen in &record.seen {
                let Seen::Event { id: Some(id), number, .. } = seen else { continue };
                if let Some(sent) = self.events.get_mut(number) {
                    sent.fate = Fate::Acknowledged(*id);
                }
            }
        }
        self.older.push_back(std::mem::replace(&mut self.first, first));
        if self.older.len() > REMEMBERED {
            self.older.pop_front();
        }
        if let Some(oldest) = self.older.front() {
            self.events = self.events.split_off(oldest);
        }
    }

    /// Each event's place, from answers and from what anybody saw.
    fn ids(&self, records: &[Record], gaps: &Gaps, verdict: &mut Verdict) -> HashMap<Number, Id> {
        let mut ids = HashMap::new();
        for (number, sent) in &self.events {
            if let Fate::Acknowledged(id) = sent.fate {
                ids.insert(*number, id);
            }
        }
        for record in records {
            for seen in &record.seen {
                let Seen::Event { id: Some(id), number, .. } = seen else { continue };
                let known = ids.entry(*number).or_insert(*id);
                // Where keys were thrown away, what was sent again may be published again.
                if known != id && *gaps != Gaps::All {
                    verdict.doubled.push(format!("event {number} has ids {known:?} and {id:?}"));
                }
            }
        }
        ids
    }

    fn newest_of_collapse(&self, ids: &HashMap<Number, Id>) -> HashMap<usize, Id> {
        let mut newest: HashMap<usize, Id> = HashMap::new();
        for (number, sent) in self.events.iter().filter(|(_, sent)| sent.collapse) {
            if let Some(id) = ids.get(number) {
                let known = newest.entry(sent.user).or_default();
                *known = (*known).max(*id);
            }
        }
        newest
    }

    /// Within a connection ids rise; across those of a client that gives `since` as well.
    fn check_order(&self, record: &Record, gaps: &Gaps, verdict: &mut Verdict) {
        let (user, client) = record.session;
        let who = format!("session {user}/{client}");
        let mut last = record.last;
        let mut newest = record.last;
        for seen in &record.seen {
            match seen {
                Seen::Welcome { since } if record.kind == Kind::Since => last = since.unwrap_or(last),
                Seen::Welcome { .. } => last = (0, 0),
                Seen::Gap { since, position, .. } => {
                    let allowed = match gaps {
                        Gaps::None => false,
                        Gaps::All => true,
                        Gaps::Of(users) => users.contains(&user),
                    };
                    if allowed {
                        verdict.gaps += 1;
                    } else {
                        verdict.false_gaps.push(format!("{who}: between {since:?} and {position:?}"));
                    }
                }
                Seen::Event { id, number, .. } => {
                    verdict.delivered += 1;
                    self.check_addressed(record.session, *number, verdict);
                    let Some(id) = *id else { continue };
                    if id == last {
                        verdict.doubled.push(format!("{who}: {number} as {id:?} twice in a row"));
                    } else if id < last {
                        verdict.disordered.push(format!("{who}: {number} as {id:?} after {last:?}"));
                    }
                    if id <= newest {
                        verdict.again += 1;
                    }
                    last = id;
                    newest = newest.max(id);
                }
            }
        }
    }

    fn check_addressed(&self, (user, client): Session, number: Number, verdict: &mut Verdict) {
        match self.events.get(&number) {
            None => verdict.strange.push(format!("session {user}/{client} saw {number}, which nobody sent")),
            Some(sent) if !sent.is_for((user, client)) => {
                verdict.strange.push(format!("session {user}/{client} saw {number}: {sent:?}"));
            }
            Some(_) => {}
        }
    }

    /// What one sender sent once to one user lies in the log in that order.
    fn check_lanes(&self, ids: &HashMap<Number, Id>, verdict: &mut Verdict) {
        let mut last: HashMap<(usize, usize), (Id, Number)> = HashMap::new();
        for (number, sent) in self.events.iter().filter(|(_, sent)| sent.once) {
            let Some(id) = ids.get(number) else { continue };
            let before = last.insert((sent.lane, sent.user), (*id, *number));
            if let Some((before, older)) = before
                && before > *id
            {
                verdict
                    .disordered
                    .push(format!("{number} as {id:?} before {older} as {before:?} in the log"));
            }
        }
    }

    fn check_complete(
        &self,
        session: Session,
        records: &[&Record],
        ids: &HashMap<Number, Id>,
        newest: &HashMap<usize, Id>,
        verdict: &mut Verdict,
    ) {
        let mut first_seen: HashMap<Number, u64> = HashMap::new();
        let mut gaps: Vec<(Id, Id, u64)> = Vec::new();
        for seen in records.iter().flat_map(|record| &record.seen) {
            match seen {
                Seen::Event { number, at_ms, .. } => {
                    let first = first_seen.entry(*number).or_insert(*at_ms);
                    *first = (*first).min(*at_ms);
                }
                Seen::Gap { since, position, at_ms } => gaps.push((*since, *position, *at_ms)),
                Seen::Welcome { .. } => {}
            }
        }
        let owed =
            self.events.range(self.first..).filter(|(_, sent)| sent.is_for(session) && !sent.transient);
        for (number, sent) in owed {
            if let Some(at_ms) = first_seen.get(number) {
                if let Some(answered_ms) = sent.answered_ms {
                    let waited = at_ms.saturating_sub(answered_ms);
                    verdict.longest_wait_ms = verdict.longest_wait_ms.max(waited);
                    if waited > LATE_MS && *at_ms > verdict.late_until_ms {
                        let ((user, client), way) =
                            (session, if sent.lane % 2 == 0 { "socket" } else { "XADD" });
                        verdict.late_until_ms = *at_ms;
                        verdict.latest =
                            format!("session {user}/{client} waited {waited} ms for {number}, sent by {way}");
                    }
                }
                continue;
            }
            let id = ids.get(number).copied();
            let owed = id.is_some() || sent.fate != Fate::Unknown;
            // Of one that nobody saw the place in the log is not known, but it is no older than that on the stream.
            let place = id.or(if let Fate::Added(id) = sent.fate { Some(id) } else { None });
            let replaced = sent.collapse && place.is_some_and(|place| newest.get(&sent.user) > Some(&place));
            let covered = gaps.iter().any(|gap| sent.is_covered_by(id, *gap));
            if owed && !replaced && !covered {
                let (user, client) = session;
                verdict.lost.push(format!("session {user}/{client}: {number} as {id:?}, {sent:?}"));
            }
        }
    }
}

impl Sent {
    fn is_for(&self, (user, client): Session) -> bool {
        self.user == user
            && match self.to {
                To::All => true,
                To::Only(only) => only == client,
                To::Except(except) => except != client,
            }
    }

    /// Whether a gap owns up to this event. Of one that nobody saw only the times are known.
    fn is_covered_by(&self, id: Option<Id>, (since, position, at_ms): (Id, Id, u64)) -> bool {
        match id {
            Some(id) => since < id && id <= position,
            None => self.answered_ms.is_some_and(|answered| answered <= at_ms) && since.0 <= at_ms,
        }
    }
}
