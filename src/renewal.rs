//! Keeps the node's lease: claims the id, renews it, claims it anew where it was lost, and clears up after other
//! nodes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::engine::{Claim, Unavailable};
use crate::ms::ms;
use crate::router::Router;

/// How long a node that has just claimed its id leaves the leases of others alone: what kept it away, a Redis that was
/// away for longer than a lease, kept them away as well, and whoever is cleared up after has to wait for that.
const OTHERS_RETURN: Duration = Duration::from_secs(2);

/// How long a reason why Redis is away stands in the log before another one is told.
const RETOLD: Duration = Duration::from_secs(5);

/// How a node's lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The node was asked to stop.
    Stopped,
    /// Another process has the id now.
    TakenOver,
    /// A task that a node cannot be without has ended: it drains as if it was asked to.
    Failed,
}

/// Keeps the lease until `stop`. Where another node has died, `hurry` is notified: hints that it owed are missing.
pub async fn keep(
    router: Arc<Router>,
    ttl: Duration,
    hurry: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) -> End {
    let mut keeper = Keeper {
        router,
        ttl,
        hurry,
        clearing: JoinSet::new(),
        claimed: Instant::now(),
        held_before: false,
        away: None,
        lost: None,
        took: Duration::ZERO,
    };
    let mut pause = Duration::ZERO;
    let mut failures = 0;
    loop {
        // A pause between beats also ends when something went wrong: then it is time to look.
        let woken = async {
            tokio::select! {
                () = keeper.router.engine().suspected() => {}
                () = keeper.router.lease().doubted() => {}
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return End::Stopped,
            _ = timeout(pause, woken) => {}
        }
        match keeper.round().await {
            Ok(Round::Held) => {
                failures = 0;
                // From when it was asked: the lease counts from there, however late the answer is.
                pause = (ttl / 3).min(Duration::from_secs(1)).saturating_sub(keeper.took);
            }
            Ok(Round::NotYet) => pause = (ttl / 10).clamp(Duration::from_millis(50), Duration::from_secs(1)),
            Ok(Round::TakenOver) => return End::TakenOver,
            Err(unavailable) => {
                keeper.tell_away(&unavailable);
                failures += 1;
                // Up to 0.1 s, then 0.2 s, then 0.4 s, with jitter; asleep here, because a suspicion would end it.
                let most = Duration::from_millis(50 << failures.min(3));
                pause = Duration::ZERO;
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return End::Stopped,
                    () = sleep(most.mul_f64(0.25 + 0.75 * fastrand::f64())) => {}
                }
            }
        }
    }
}

enum Round {
    Held,
    NotYet,
    TakenOver,
}

struct Keeper {
    router: Arc<Router>,
    ttl: Duration,
    hurry: Arc<Notify>,
    /// Clears up after other nodes: one task at most, which ends with this.
    clearing: JoinSet<()>,
    /// When the id was claimed last.
    claimed: Instant,
    held_before: bool,
    /// When Redis was last told of as away, and why.
    away: Option<(Instant, Unavailable)>,
    /// Why the lease was lost, until it is held again.
    lost: Option<String>,
    /// How long the last claim or beat took.
    took: Duration,
}

impl Keeper {
    async fn round(&mut self) -> Result<Round, Unavailable> {
        let asked = Instant::now();
        let lease = self.router.lease();
        // A lease that has run out by our clock is claimed, not renewed: the inbox may have been cleared up.
        let runs = self.held_before && lease.is_held();
        if runs && self.router.engine().beat(self.router.registry().len(), self.served()).await? {
            let whole = lease.renewed(asked, self.ttl);
            (self.took, self.lost) = (asked.elapsed(), None);
            self.tell_back();
            if !whole {
                self.router.look_all();
            }
            if self.claimed.elapsed() >= OTHERS_RETURN {
                self.clear_up();
            }
            return Ok(Round::Held);
        }
        if self.lost.is_none() {
            self.lost = Some(self.why(runs, lease.was_given_up()));
        }
        lease.lost();
        let claim = self.router.engine().claim().await;
        let changed = lease.waits_for(claim.as_ref().ok().and_then(Claim::obstacle));
        match claim? {
            Claim::Held => {
                lease.claimed(asked, self.ttl);
                self.took = asked.elapsed();
                let why = self.lost.take().unwrap_or_default();
                if self.held_before {
                    warn!(node = %self.router.node(), why, "the lease was lost and is held again: every session registers anew");
                } else {
                    info!(node = %self.router.node(), "registered");
                }
                self.held_before = true;
                self.claimed = Instant::now();
                self.tell_back();
                self.router.look_all();
                Ok(Round::Held)
            }
            Claim::Taken(_) if self.held_before => {
                error!(node = %self.router.node(), "another process has taken this node's id: this one leaves");
                Ok(Round::TakenOver)
            }
            obstacle => {
                if changed {
                    self.tell_waiting(&obstacle);
                }
                Ok(Round::NotYet)
            }
        }
    }

    /// How many users have a session that is registered, at least. In this order: who has been let in between the two is.
    fn served(&self) -> usize {
        let users = self.router.registry().users();
        users.saturating_sub(self.router.registering.inside())
    }

    /// Something else than before keeps the node from having its id.
    fn tell_waiting(&self, obstacle: &Claim) {
        let node = self.router.node();
        match obstacle {
            Claim::Held => {}
            Claim::Taken(lapses) => {
                let lapses_ms = ms(*lapses);
                warn!(
                    %node, lapses_ms,
                    "this node id is live elsewhere: waiting until that lease lapses; give each node its own --node-id"
                );
            }
            Claim::OtherFormat(other) => warn!(
                %node, %other,
                "that node's release is too far from this one to share keys with it: waiting until it is gone; upgrade, or roll back, one release at a time"
            ),
            Claim::ClearingUp => {
                info!(%node, "this id's last owner is still cleared up after: waiting for that");
            }
        }
    }

    /// Why a lease is claimed anew: it `runs` until now, or else was `given_up` by this node itself, or ran out.
    fn why(&self, runs: bool, given_up: bool) -> String {
        match &self.away {
            _ if runs => "Redis did not know it any more".to_owned(),
            Some((_, error)) => format!("Redis could not be used: {error}"),
            None if given_up => "the inbox has to be made anew".to_owned(),
            // It counts from when it was asked for.
            None if self.took >= self.ttl / 3 => format!(
                "the last answer came after {} ms, and the lease lasts {} ms: Redis is slow, or this machine is",
                self.took.as_millis(),
                self.ttl.as_millis()
            ),
            None => "this process stood still until it was over".to_owned(),
        }
    }

    /// Clears up after nodes that have died, beside the lease: after one with many users that takes longer than a lease
    /// lasts, and who loses its own meanwhile is cleared up after in turn.
    fn clear_up(&mut self) {
        while self.clearing.try_join_next().is_some() {}
        if !self.clearing.is_empty() {
            return;
        }
        let (engine, hurry) = (self.router.engine().clone(), self.hurry.clone());
        self.clearing.spawn(async move {
            match engine.clear_up().await {
                Ok(true) => hurry.notify_one(),
                Ok(false) => {}
                Err(error) => {
                    debug!(%error, "whether a node has died is not known; the next round asks again")
                }
            }
        });
    }

    /// Redis is away. That is told once; where the reason becomes another one, again, but not all the time.
    fn tell_away(&mut self, error: &Unavailable) {
        if self
            .away
            .as_ref()
            .is_none_or(|(told, last)| last.reason != error.reason && told.elapsed() >= RETOLD)
        {
            warn!(node = %self.router.node(), %error, "Redis cannot be used: sockets stay open, publishing is refused, retrying");
            self.away = Some((Instant::now(), error.clone()));
        }
    }

    fn tell_back(&mut self) {
        if self.away.take().is_some() {
            info!(node = %self.router.node(), "Redis is back");
        }
    }
}
