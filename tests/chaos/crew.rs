//! The run: a stage under load, one fault after the other, and a verdict after each.

use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::time::sleep;

use crate::clients::Client;
use crate::faults::Fault;
use crate::ledger::{Gaps, Kind, Record, Seen, Verdict};
use crate::load::Load;
use crate::presence::Presence;
use crate::scale::Scale;
use crate::stage::{SESSION_TTL, Stage};
use crate::support::eventually;

/// Load before a fault, and after it.
const BEFORE: Duration = Duration::from_millis(700);
const AFTER: Duration = Duration::from_millis(1500);
/// How long sessions may take to become whole once nothing new is sent: the slowest mend is the heartbeat, every
/// third of a lease; the rest is for a busy machine.
const SETTLE: Duration = Duration::from_secs(SESSION_TTL.as_secs() / 3 + 17);

/// A ping and its pong, and the heartbeat that notes it.
const CONFIRMED: Duration = Duration::from_secs(5 + SESSION_TTL.as_secs() / 3);

/// Everything that takes part.
pub struct Crew {
    pub scale: Scale,
    pub stage: Stage,
    pub load: Load,
    pub clients: Vec<Client>,
    /// Second tabs with an id that one of `clients` has.
    pub intruders: Vec<Client>,
    pub rng: Rng,
    /// Users of whom the last fault knows that no session was left at some time.
    pub offline: Vec<usize>,
    presence: Presence,
    /// The last fault threw data away.
    threw_away: bool,
}

/// What is counted of a fault, and how wide its column is.
const COLUMNS: [(&str, usize); 10] = [
    ("sent", 7),
    ("seen", 8),
    ("lost", 6),
    ("double", 7),
    ("order", 6),
    ("gaps", 6),
    ("false", 6),
    ("other", 6),
    ("wait ms", 9),
    ("whole ms", 9),
];

/// What came of one fault.
pub struct Outcome {
    pub fault: Fault,
    pub verdict: Verdict,
    /// From the end of the fault until the last late event was there.
    pub whole_after: Duration,
}

impl Crew {
    /// Starts it all, and waits until every session is there.
    pub async fn start(scale: Scale) -> Self {
        let stage = Stage::start().await;
        let load = Load::start(&scale, &stage.addresses);
        let mut rng = Rng::with_seed(scale.seed);
        let sessions =
            (0..scale.users).flat_map(|user| (0..scale.sessions).map(move |client| (user, client)));
        let clients = sessions
            .map(|session| {
                let kind = if rng.bool() { Kind::Since } else { Kind::Stable };
                Client::start(session, kind, stage.addresses.clone(), rng.u64(..))
            })
            .collect();
        let crew = Self {
            scale,
            stage,
            load,
            clients,
            intruders: Vec::new(),
            rng,
            offline: Vec::new(),
            presence: Presence::default(),
            threw_away: false,
        };
        crew.all_connected().await;
        crew
    }

    /// Waits until every client has been welcomed.
    pub async fn all_connected(&self) {
        eventually(Duration::from_secs(60), "every client to be connected", async || {
            let away = self.clients.iter().filter(|client| !client.is_connected()).count();
            if away == 0 { Ok(()) } else { Err(format!("{away} are not")) }
        })
        .await;
    }

    /// One fault under load, and what came of it.
    pub async fn suffer(&mut self, fault: Fault) -> Outcome {
        if self.threw_away {
            // Until pings and heartbeats have confirmed where everybody is: who came back before would rightly be told
            // of the same gap again.
            sleep(CONFIRMED).await;
        }
        let records = self.records();
        // The records begin anew before anything is sent: what came in between would be in none.
        self.clients.iter().for_each(Client::begin);
        self.load.begin(&records);
        sleep(BEFORE).await;
        let gaps = fault.happen(self).await;
        self.threw_away = gaps != Gaps::None;
        self.stage.ready().await;
        sleep(AFTER).await;
        self.load.pause();
        eventually(Duration::from_secs(30), "an answer for every event that has a key", async || match self
            .load
            .unanswered()
        {
            0 => Ok(()),
            waiting => Err(format!("{waiting} wait")),
        })
        .await;
        self.all_connected().await;
        let mut verdict = self.settled(&gaps).await;
        let mut presence = std::mem::take(&mut self.presence);
        presence.check(self, &gaps, &mut verdict).await;
        self.presence = presence;
        self.check_closes(fault, &mut verdict);
        self.check_tasks(&mut verdict);
        let healed_ms = *self.stage.healed_ms.lock().expect("the time");
        let whole_after = Duration::from_millis(verdict.late_until_ms.saturating_sub(healed_ms));
        self.intruders.clear();
        self.offline.clear();
        Outcome { fault, verdict, whole_after }
    }

    fn records(&self) -> Vec<Record> {
        self.clients.iter().chain(&self.intruders).map(Client::record).collect()
    }

    /// The verdict, once nothing is missing any more or the time for that is over.
    async fn settled(&self, gaps: &Gaps) -> Verdict {
        let end = Instant::now() + SETTLE;
        loop {
            let records = self.records();
            let verdict = self.load.ledger(|ledger| ledger.check(&records, gaps));
            if verdict.lost.is_empty() || Instant::now() >= end {
                return verdict;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// A client or a sender that has panicked has found something, and without it there is less to be found.
    fn check_tasks(&self, verdict: &mut Verdict) {
        let senders = self.load.ended();
        if senders > 0 {
            verdict.strange.push(format!("{senders} senders have ended: see what they said"));
        }
        for client in self.clients.iter().filter(|client| client.has_ended()) {
            let (user, at) = client.session;
            verdict.strange.push(format!("the client of session {user}/{at} has ended: see what it said"));
        }
    }

    /// Sockets stay open where the fault is none of theirs; and nobody is sent away for good without a reason.
    fn check_closes(&self, fault: Fault, verdict: &mut Verdict) {
        let fights =
            |client: &Client| self.intruders.iter().any(|intruder| intruder.session == client.session);
        for client in self.clients.iter().filter(|client| !fights(client)) {
            let (user, at) = client.session;
            let welcome = |seen: &Seen| matches!(seen, Seen::Welcome { .. });
            if fault.keeps_sockets() && client.record().seen.iter().any(welcome) {
                verdict.strange.push(format!("session {user}/{at} had to connect again"));
            }
            for code in client.unwelcome() {
                verdict.strange.push(format!("session {user}/{at} was closed with {code}"));
            }
        }
    }
}

impl Outcome {
    /// The head of the table whose lines are outcomes.
    pub fn head() -> String {
        let columns: String = COLUMNS.iter().map(|(name, width)| format!("{name:>width$}")).collect();
        format!("{:<38}{columns}", "fault")
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let it = &self.verdict;
        let counts = [
            it.sent,
            it.delivered,
            it.lost.len(),
            it.doubled.len(),
            it.disordered.len(),
            it.gaps,
            it.false_gaps.len(),
            it.strange.len(),
            it.longest_wait_ms as usize,
            self.whole_after.as_millis() as usize,
        ];
        write!(to, "{:<38}", self.fault.name())?;
        COLUMNS.iter().zip(counts).try_for_each(|((_, width), count)| write!(to, "{count:>width$}"))
    }
}
