//! Micro-batches. Callers queue operations; a lane takes whatever waits, does it in as few scripts as possible,
//! and hands the answers back. Under load batches grow by themselves; an idle lane's batch is one operation.
//!
//! There are three: events pass one, the beginnings and ends of sessions the next, so that no event waits for a thousand
//! clients who come at once, and what clients send up the last (`uplink`). A lane does one batch after the other, so what
//! it does happens in the order in which it was called. More lanes would make batches smaller, and each call costs Redis
//! and the node as much as several of its items.

mod ends;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use self::ends::{Ends, Whose, in_turn};
use super::presence::Owed;
use super::sessions::{End, Ended};
use super::{Context, batch, broadcast, publish, sessions};
use crate::engine::{Answer, Connect, Connected, Disconnect, Event, Mode, Published, Reply, Unavailable};
use crate::id::{EventName, NodeId, UserId};
use crate::protocol::publish::Data;

/// Beginnings and ends of sessions that may wait. No end may be refused, or its session would outlive it; how many there
/// are is bounded by the sessions, and how many begin at once before they come here.
pub const MOST_SESSIONS: usize = Semaphore::MAX_PERMITS;
/// Beginnings and ends of sessions taken at once; their script calls are bounded apart.
const TAKE: usize = 256;
/// How often ends of sessions that Redis has not heard of are tried again: `TAKE` of them, and more while any goes through.
const RETRY: Duration = Duration::from_millis(250);
/// How often it is tried again to tell `presence` of some users who have left.
const RETELL: Duration = Duration::from_secs(1);
/// Users of whom `presence` may be told later: as many as many nodes may have had, 200 MB where their ids are long. Of one
/// more it is told when they come back, or when this node's users are cleared up after, by itself as it ends or by another;
/// who was a dead node's stays on that one's list.
const MOST_UNTOLD: usize = 1 << 20;
const TOO_MANY_UNTOLD: &str = "of too many users `presence` is to be told later";

/// What is published, and where its answer goes.
pub enum Publishing {
    /// [`crate::engine::Engine::publish`]
    Event(Event, Reply<Published>),
    /// [`crate::engine::Engine::broadcast`]
    Broadcast(Broadcast, Reply<Vec<NodeId>>),
}

/// The name and the content of an event for everyone.
type Broadcast = (EventName, Data);

/// The lane of events. Works until the engine is dropped.
pub async fn events(context: Arc<Context>, mut waiting: mpsc::Receiver<Publishing>) {
    let mut taken = Vec::with_capacity(batch::MAX_AT_ONCE);
    while waiting.recv_many(&mut taken, batch::MAX_AT_ONCE).await > 0 {
        let (mut events, mut broadcasts) = (Vec::with_capacity(taken.len()), Vec::new());
        for publish in taken.drain(..) {
            match publish {
                Publishing::Event(event, reply) => {
                    if !broadcasts.is_empty() {
                        broadcast_all(&context, std::mem::take(&mut broadcasts)).await;
                    }
                    events.push((event, reply));
                }
                Publishing::Broadcast(event, reply) => {
                    if !events.is_empty() {
                        publish_all(&context, std::mem::take(&mut events)).await;
                    }
                    broadcasts.push((event, reply));
                }
            }
        }
        publish_all(&context, events).await;
        broadcast_all(&context, broadcasts).await;
    }
}

async fn publish_all(context: &Context, events: Vec<(Event, Reply<Published>)>) {
    let (events, replies): (Vec<_>, Vec<_>) = events.into_iter().unzip();
    let mut replies = replies.into_iter();
    let masters = context.link.masters();
    for (batch, calls) in batch::batches(&events, |event| event, batch::slot(context), masters) {
        let outcomes = publish::publish(context, batch, &calls).await;
        answer(context, "to publish", replies.by_ref().take(batch.len()), outcomes);
    }
}

async fn broadcast_all(context: &Context, broadcasts: Vec<(Broadcast, Reply<Vec<NodeId>>)>) {
    let (broadcasts, replies): (Vec<_>, Vec<_>) = broadcasts.into_iter().unzip();
    let mut replies = replies.into_iter();
    for entry in batch::sized(&broadcasts, batch::MAX_EVENTS, |(_, data)| data.as_bytes().len()) {
        let told = broadcast::send(context, entry).await;
        answer(context, "to broadcast", replies.by_ref().take(entry.len()), vec![told; entry.len()]);
    }
}

/// The beginning or the end of a session, and where its answer goes.
pub enum Op {
    /// [`crate::engine::Engine::connect`]
    Connect(Connect, Reply<Connected>),
    /// [`crate::engine::Engine::disconnect`]
    Disconnect(Disconnect, Reply<()>),
    /// [`tell_later`]
    TellLater(Vec<UserId>, Reply<()>),
}

/// Leaves it to the lane to tell `presence` of users whose sessions have ended: this node's, or those of one that it clears
/// up after, which come onto this node's list.
///
/// # Errors
/// Where they have not come onto it, or are too many.
pub fn tell_later(context: &Context, users: Vec<UserId>) -> Answer<()> {
    match context.lane.upgrade() {
        Some(lane) => Answer::queued(&lane, |reply| Op::TellLater(users, reply)),
        None => Answer::now(Err(Unavailable::new("the engine has stopped"))),
    }
}

/// The lane of sessions. Within a batch the ends come first and the beginnings next. The beginning of a session whose end
/// was queued after it, because its client left while it waited, is not done at all.
pub struct Sessions {
    context: Arc<Context>,
    /// Ends of sessions that Redis has not heard of yet.
    owed: Ends,
    /// When they are tried again.
    retry: Instant,
    /// Users whose sessions have ended, of which `presence` has not been told.
    untold: BTreeMap<UserId, ()>,
    /// The last of them that was tried again: the next have their turn.
    tried: Option<UserId>,
    /// When that is tried again.
    retell: Instant,
}

impl Sessions {
    /// A lane with nothing owed.
    pub fn new(context: Arc<Context>) -> Self {
        let now = Instant::now();
        let (owed, untold) = (Ends::default(), BTreeMap::new());
        Self { context, owed, retry: now, untold, tried: None, retell: now }
    }

    /// Works until the engine is dropped.
    pub async fn run(mut self, mut ops: mpsc::Receiver<Op>) {
        let mut taken = Vec::with_capacity(TAKE);
        loop {
            let retry = if self.owed.is_empty() { Duration::MAX } else { RETRY };
            let retell = self.retell.saturating_duration_since(Instant::now());
            let wait = if self.untold.is_empty() { retry } else { retry.min(retell) };
            if let Ok(0) = timeout(wait, ops.recv_many(&mut taken, TAKE)).await {
                return; // the node has gone: so will what it still owes, with its id
            }
            // Where nothing came in time, only what is owed is done.
            self.batch(&mut taken).await;
        }
    }

    async fn batch(&mut self, taken: &mut Vec<Op>) {
        let mut connects = Vec::<(Connect, Reply<Connected>)>::new();
        let (mut ends, mut hear) = (Vec::new(), Vec::new());
        for op in taken.drain(..) {
            match op {
                Op::Connect(connect, reply) => connects.push((connect, reply)),
                Op::Disconnect(end, reply) => {
                    connects.retain(|(connect, reply)| !is_over(connect, reply, &end));
                    ends.push(end);
                    hear.push(reply);
                }
                Op::TellLater(users, reply) => {
                    let _ = reply.send(self.take_over(users).await);
                }
            }
        }
        self.end_some().await;
        for (reply, ended) in hear.into_iter().zip(self.end_sessions(&ends).await) {
            let _ = reply.send(ended);
        }
        self.tell_of_some().await;
        // What goes to several masters at once may be as much more.
        let most = sessions::MAX_CONNECTS * self.context.link.masters();
        let mut newcomers = Newcomers::default();
        while !connects.is_empty() {
            // A node that was held up first hears who has gone: whoever has given up may be elsewhere by now, and would be
            // replaced there.
            yield_now().await;
            connects.retain(|(_, reply)| !reply.is_closed());
            let next = connects.len().min(most);
            let (mut batch, replies): (Vec<_>, Vec<_>) = connects.drain(..next).unzip();
            for connect in &mut batch {
                // It is back before its older connection's end got through.
                let owed = self.owed.confirmed(&whose(connect));
                connect.confirmed = connect.confirmed.max(owed);
            }
            let register = sessions::connect(&self.context, &batch);
            let ((outcomes, owed), ()) = join(register, newcomers.let_in(&self.context)).await;
            for (connect, outcome) in batch.iter().zip(&outcomes) {
                if let Ok(Connected::Registered(_)) = outcome {
                    // It is here again, and that end must not take it away.
                    self.owed.remove(&whose(connect));
                    // And tells that it was away, now or with a heartbeat.
                    self.untold.remove(&connect.user);
                }
            }
            newcomers = Newcomers { replies, outcomes, owed };
        }
        newcomers.let_in(&self.context).await;
        // What was let go is found where Redis still has its session.
        if self.owed.looks_for_others() {
            self.context.listing.notify_one();
        }
    }

    /// Takes these sessions off their users. What is not done is owed.
    async fn end_sessions(&mut self, ends: &[Disconnect]) -> Vec<Result<(), Unavailable>> {
        let mut outcomes = Vec::with_capacity(ends.len());
        for batch in ends.chunks(sessions::MAX_CONNECTS * self.context.link.masters()) {
            let of_each: Vec<End> =
                batch.iter().map(|end| (&end.user, end.client.as_str(), end.confirmed)).collect();
            for (end, ended) in batch.iter().zip(sessions::disconnect(&self.context, &of_each).await) {
                let ended = self.context.refused.hear("to end sessions", ended);
                match &ended {
                    Ok(ended) => {
                        self.owed.done(end);
                        if *ended == Ended::Untold {
                            self.note_untold(end.user.clone());
                        }
                    }
                    Err(_) => self.owed.add(end),
                }
                outcomes.push(ended.map(drop));
            }
        }
        outcomes
    }

    /// Ends some of those that are owed, where it is time for that; all who left during an outage, once it is over.
    async fn end_some(&mut self) {
        if Instant::now() < self.retry || self.context.link.is_trusted().is_err() {
            return;
        }
        loop {
            let ends = self.owed.next();
            if !self.end_sessions(&ends).await.iter().any(Result::is_ok) {
                break;
            }
        }
        self.retry = Instant::now() + RETRY;
    }

    /// Its end is done, and to be told. False where there is no place for one more.
    fn note_untold(&mut self, user: UserId) -> bool {
        let has_place = self.untold.len() < MOST_UNTOLD || self.untold.contains_key(&user);
        if self.untold.is_empty() {
            self.retell = Instant::now() + RETELL;
        }
        if has_place {
            self.untold.insert(user, ());
        }
        has_place
    }

    async fn take_over(&mut self, mut users: Vec<UserId>) -> Result<(), Unavailable> {
        let all = users.len();
        users.retain(|user| self.note_untold(user.clone()));
        if users.is_empty() {
            return Err(Unavailable::new(TOO_MANY_UNTOLD));
        }
        // Here, where no end comes between: whoever is on the list is taken off when what is owed of them has been told.
        let mut list = redis::pipe();
        list.add_command(sessions::list(&self.context, "SADD", &self.context.config.node, users.iter()));
        list.add_command(sessions::keep_served(&self.context));
        self.context.link.run(&list).await?;
        if users.len() == all { Ok(()) } else { Err(Unavailable::new(TOO_MANY_UNTOLD)) }
    }

    /// Tells of some users who have left, where it is time for that: of the next at once where that is taken.
    async fn tell_of_some(&mut self) {
        if self.untold.is_empty() || Instant::now() < self.retell {
            return;
        }
        self.retell = Instant::now() + self.pause();
        if self.context.link.is_trusted().is_err() {
            return;
        }
        let next = self.next_untold();
        // Of nobody: what is owed of the user is all that is left to be done.
        let of_each: Vec<End> = next.iter().map(|user| (user, "", None)).collect();
        let mut all_told = true;
        for (user, ended) in next.iter().zip(sessions::disconnect(&self.context, &of_each).await) {
            if let Ok(Ended::Told) = ended {
                self.untold.remove(user);
            } else {
                all_told = false;
            }
        }
        if all_told {
            self.retell = Instant::now();
        }
    }

    /// How long after some the next are tried: no longer than it takes for all to have their turn thrice within
    /// `--log-ttl`. That keeps for as long again what `presence` is owed.
    fn pause(&self) -> Duration {
        let turns = self.untold.len().div_ceil(sessions::MAX_CONNECTS).max(1);
        RETELL.min(self.context.config.log_ttl.div_f64(3.0 * turns as f64))
    }

    /// Who is to be told of next: one call, since clients who come wait for it.
    fn next_untold(&mut self) -> Vec<UserId> {
        let next = in_turn(&self.untold, self.tried.as_ref(), sessions::MAX_CONNECTS);
        let next: Vec<_> = next.map(|(user, ())| user.clone()).collect();
        self.tried = next.last().cloned();
        next
    }
}

/// Sessions that are registered, where their answers go, and what `presence` is to be told of them first. While it is, the
/// next are registered: one way to Redis and back for each call in place of two.
#[derive(Default)]
struct Newcomers {
    replies: Vec<Reply<Connected>>,
    outcomes: Vec<Result<Connected, Unavailable>>,
    owed: Owed,
}

impl Newcomers {
    async fn let_in(self, context: &Arc<Context>) {
        sessions::tell_online(context, self.owed).await;
        answer(context, "to let a client in", self.replies.into_iter(), self.outcomes);
    }
}

fn whose(connect: &Connect) -> Whose {
    (connect.user.clone(), connect.client.clone())
}

/// Whether a beginning is of the session whose end was queued after it: its caller has gone meanwhile (it awaits nothing
/// more), or it was only to catch up. Ends come first, so it would outlive its end.
fn is_over(connect: &Connect, reply: &Reply<Connected>, end: &Disconnect) -> bool {
    let same = connect.user == end.user && connect.client == end.client;
    same && (reply.is_closed() || matches!(connect.mode, Mode::Resume { .. }))
}

/// Hands each operation of a batch its own outcome.
pub fn answer<T>(
    context: &Context,
    what: &'static str,
    replies: impl Iterator<Item = Reply<T>>,
    outcomes: Vec<Result<T, Unavailable>>,
) {
    for (reply, outcome) in replies.zip(outcomes) {
        let _ = reply.send(context.refused.hear(what, outcome)); // nobody waits any more: the caller's connection has ended
    }
}

#[cfg(test)]
mod tests;
