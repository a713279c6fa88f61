//! Everyone's truth: who is connected where, what was published, what each client has confirmed.
//!
//! Two engines hold it: [`memory`] for one node alone, [`redis`] for any number of nodes. One test suite runs
//! against both (`tests/engine`); where they differ, one of them is wrong.
//!
//! The log is the truth and everything else a hint: an event exists once it is in its user's log. What an engine
//! tells its node through [`Node`] may be lost, doubled or late; a session mends that by [`Engine::connect`]
//! with [`Mode::Resume`], which reads the log after the last id it has got.

mod answer;
mod lease;
pub mod memory;
pub mod redis;
pub mod status;
mod steps;
mod told;
mod turn;

pub use answer::{Answer, Cause, Unavailable, unread};
use answer::{MOST_EVENTS, Reply};
pub use lease::{LeaseState, MAX_BEATS, UserLease};
pub use told::Told;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use crate::id::{ClientId, CollapseKey, EventId, EventName, IdempotencyKey, Logged, NodeId, UserId};
use crate::protocol::publish::{Data, Publish};
use crate::trace::{Traced, Tracer};

/// How a session registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A new connection: it takes the place of an older one of the same client, on any node.
    New,
    /// A connection that is there already: registers anew, or catches up; yields to a newer one elsewhere, and to a
    /// sign-out since.
    Resume {
        /// [`Registration::order`] of the last time.
        order: u64,
        /// What it was told.
        told: Told,
    },
}

/// A session that registers, and reads what it has missed.
#[derive(Debug, Clone)]
pub struct Connect {
    /// Whose session.
    pub user: UserId,
    /// Which session.
    pub client: ClientId,
    /// New, or there already.
    pub mode: Mode,
    /// Read after this id; none: after the client's confirmed position, at first the user's newest event.
    pub since: Option<EventId>,
    /// What the client has confirmed here: counts where the engine knows nothing newer, or, to resume, nothing.
    pub confirmed: Option<EventId>,
}

/// What came of a [`Connect`].
#[derive(Debug)]
pub enum Connected {
    /// Registered.
    Registered(Registration),
    /// The user has as many sessions as allowed; nothing was registered.
    Full,
    /// [`Mode::Resume`] only: the client has since connected elsewhere; nothing was registered.
    Replaced,
    /// [`Mode::Resume`] only: the client was signed out since; nothing was registered.
    SignedOut,
}

/// A registered session, and one page of what it has missed.
#[derive(Debug)]
pub struct Registration {
    /// The user's newest event, or the clock where there is none.
    pub position: EventId,
    /// The id after which was read; an older one where something before it is found to be missing.
    pub from: EventId,
    /// Proven: no event after `from` is missing, but for those that a newer one of its collapse key replaced.
    pub whole: bool,
    /// Events for this client after `from`: of a new connection on this page and beyond, else on this page.
    pub replayed: u64,
    /// The page covers everything after `from` up to and with this id.
    pub upto: EventId,
    /// There is more after the page.
    pub more: bool,
    /// Orders connections of one client: the later has the greater one.
    pub order: u64,
    /// Losses before this id are no news to the session: it is told of them now, or was before, or it began later. With
    /// its next look it says so: [`Told::knows`].
    pub knows: EventId,
    /// The newest event there was, as far as the log or what is noted beside it tells; zero where nothing does.
    pub heard: EventId,
    /// This node had no lease on the user before: sessions of theirs that it has besides are not registered any more.
    pub anew: bool,
    /// Events of the page that are for this client, oldest first.
    pub events: Vec<LogEvent>,
}

/// An event as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// Its place in the log.
    pub id: EventId,
    /// Its name.
    pub event: Box<str>,
    /// JSON text.
    pub data: Bytes,
}

/// A session that ended.
#[derive(Debug, Clone)]
pub struct Disconnect {
    /// Whose session.
    pub user: UserId,
    /// Which session.
    pub client: ClientId,
    /// The id up to which the client has confirmed.
    pub confirmed: Option<EventId>,
}

/// An event for one user.
#[derive(Debug, Clone)]
pub struct Event {
    /// Who gets it.
    pub user: UserId,
    /// That session alone.
    pub client: Option<ClientId>,
    /// Every session but that one.
    pub except: Option<ClientId>,
    /// Its name.
    pub event: EventName,
    /// Its content.
    pub data: Data,
    /// It takes the place of the log's entry with this key, and the same target.
    pub collapse: Option<CollapseKey>,
    /// Published once.
    pub key: Option<IdempotencyKey>,
    /// Not logged.
    pub transient: bool,
}

impl Event {
    /// What is published, for one of its users.
    pub fn of(publish: &Publish, user: UserId) -> Self {
        Self {
            user,
            client: publish.client.clone(),
            except: publish.except.clone(),
            event: publish.event.clone(),
            data: publish.data.clone(),
            collapse: publish.collapse.clone(),
            key: publish.key.clone(),
            transient: publish.transient,
        }
    }

    /// The hint of it; `logged`: none where transient.
    pub fn hint(&self, logged: Option<Logged>) -> Hint<'_> {
        Hint {
            user: self.user.as_str(),
            logged,
            client: self.client.as_ref().map(ClientId::as_str),
            except: self.except.as_ref().map(ClientId::as_str),
            event: self.event.as_str(),
            data: self.data.as_str(),
        }
    }
}

/// A published event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its id, the first one's where its key was published before; none where transient.
    pub id: Option<EventId>,
    /// The nodes that hold the user's sockets.
    pub nodes: Vec<NodeId>,
}

/// A message from a client, for back ends.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// Who sent it, as the node vouches.
    pub user: UserId,
    /// From which session.
    pub client: ClientId,
    /// Its name.
    pub event: EventName,
    /// Its content.
    pub data: Data,
}

/// What became of a claim to a node id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is ours.
    Held,
    /// Another process has it, for this long at least.
    Taken(Duration),
    /// The id's last owner is still cleared up after, here or by a surviving node, which takes a moment.
    ClearingUp,
    /// This live node is of a release whose keys this one cannot share.
    OtherFormat(NodeId),
}

impl Claim {
    /// What the claim waits for, in words for an operator.
    pub fn obstacle(&self) -> Option<&'static str> {
        match self {
            Self::Held => None,
            Self::Taken(_) => Some("another process has this node id"),
            Self::ClearingUp => Some("this id's last owner is still cleared up after"),
            Self::OtherFormat(_) => Some("a node of a release that is too far from this one is live"),
        }
    }
}

/// A live node.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Its id.
    pub node_id: String,
    /// Sockets of clients it holds.
    pub sessions: u64,
    /// The program's version.
    pub version: String,
    /// Unix ms: the process's first claim of the id, however often its lease was lost since; in local mode its start.
    pub started: u64,
    /// Where clients connect.
    pub client_url: String,
    /// Where workers connect.
    pub worker_url: String,
}

/// What is waiting: entries that are not done. None where that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Of this node's inbox.
    pub inbox: Option<u64>,
    /// Of the ingress streams that can be read, whichever node reads them.
    pub ingress: Option<u64>,
}

/// How far a leaving node is with sending its clients away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leaving {
    /// How many clients are sent away now.
    pub clients: usize,
    /// So many later.
    pub later: usize,
    /// It goes on for this long; zero where it is done.
    pub left: Duration,
    /// Nobody may be told to wait longer.
    pub longest: Duration,
}

/// When clients that are sent away should come back, counted from now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots {
    /// The first of them.
    pub first: Duration,
    /// Between two of them.
    pub step: Duration,
}

/// An event, or word of one, on its way to this node's sockets.
#[derive(Debug, Clone, Copy)]
pub struct Hint<'a> {
    /// Whose.
    pub user: &'a str,
    /// Where it stands in the log; none where transient.
    pub logged: Option<Logged>,
    /// That session alone.
    pub client: Option<&'a str>,
    /// Every session but that one.
    pub except: Option<&'a str>,
    /// Its name.
    pub event: &'a str,
    /// JSON text.
    pub data: &'a str,
}

/// What an engine tells the node it serves. All of it returns at once.
pub trait Node: Send + Sync + 'static {
    /// An event for a user's sessions here.
    fn hint(&self, hint: Hint<'_>);
    /// Something of this user may have been missed, by whoever has not heard of `newest`, where that is known: look into
    /// the log.
    fn look(&self, user: &str, newest: Option<EventId>);
    /// An event for every session here.
    fn broadcast(&self, event: &str, data: &str);
    /// How many sessions of a user here, or of all users, should take what waits for them before an event of so many
    /// bytes more comes: those whose outbox it would fill by more than half. Not those who do not read, and are behind.
    fn crowded(&self, user: Option<&UserId>, bytes: usize) -> usize;
    /// The client has connected elsewhere at `order`; whatever connection is older must go.
    fn replaced(&self, user: &str, client: &str, order: u64);
    /// An operator closes the user's sessions, or one of them.
    fn sign_out(&self, user: &str, client: Option<&str>);
    /// The inbox was lost and begins anew: every session must look into the log.
    fn inbox_lost(&self);
    /// Another server has taken over and may lack what was written last: the sessions of these users must look into
    /// their logs.
    fn doubted(&self, whose: &dyn Fn(&UserId) -> bool);
    /// Redis has these sessions of a user on this node: those that are not here have ended, and are taken off. Whether any
    /// session of the user is here.
    fn listed(&self, user: &UserId, clients: Vec<ClientId>) -> bool;
}

/// The verbs. Each may be repeated without harm, but for a publish without a key. A call of the first four queues the
/// operation at once, in the order of calls for one user, and it is done whether or not anyone waits for its answer; so
/// is a sign-out. The others may begin when their answer is first polled, and end where it is dropped.
///
/// Whoever calls has validated ids and sizes. What is known of a verb that answers [`Unavailable`] is in its [`Cause`].
pub trait Engine: Send + Sync + 'static {
    /// Registers a session and reads one page of what it has missed, in one step: no event falls between.
    fn connect(&self, connect: Connect) -> Answer<Connected>;
    /// Takes a session off its user, and keeps what it has confirmed. Where Redis is away it is done later.
    fn disconnect(&self, disconnect: Disconnect) -> Answer<()>;
    /// Appends to the user's log and sends hints to every node that holds the user, this one among them.
    fn publish(&self, event: Event) -> Answer<Published>;
    /// Sends a transient event to every session of every live node, and says which nodes.
    fn broadcast(&self, event: EventName, data: Data) -> Answer<Vec<NodeId>>;
    /// Renews leases; answers in the order of `leases`, of which there are at most [`MAX_BEATS`].
    fn heartbeat(&self, leases: Vec<UserLease>) -> Answer<Vec<LeaseState>>;
    /// Puts a client's message where back ends read it, if there is such a place.
    fn uplink(&self, message: Uplink) -> Answer<()>;
    /// A user's sessions, everywhere.
    fn sessions(&self, user: UserId) -> Answer<Vec<(ClientId, NodeId)>>;
    /// Which of these users are online, in their order.
    fn online(&self, users: Vec<UserId>) -> Answer<Vec<UserId>>;
    /// Closes a user's sessions, or one of them, wherever they are.
    fn sign_out(&self, user: UserId, client: Option<ClientId>) -> Answer<()>;
    /// The live nodes.
    fn nodes(&self) -> Answer<Vec<NodeInfo>>;
    /// What is waiting.
    fn lag(&self) -> Answer<Lag>;
    /// Who is followed, and what this node saw of them.
    fn tracer(&self) -> &Tracer;
    /// Follows a user for so long, on all nodes; none: no longer. Answers with the place after which their steps come;
    /// none where too many are followed already.
    fn trace(&self, user: UserId, long: Option<Duration>) -> Answer<Option<EventId>>;
    /// A followed user's steps after a place, oldest first; the first ones where there are many.
    fn traces(&self, user: UserId, after: EventId) -> Answer<Vec<Traced>>;
    /// How everything stands.
    fn status(&self) -> Answer<status::Status>;

    /// Claims this node's id. Whoever held it before, and all its sessions, are cleared up after.
    fn claim(&self) -> Answer<Claim>;
    /// Renews the claim and sends this node a sign of life through its own inbox; false where it was lost. `users`: how many
    /// have a registered session here, at least.
    fn beat(&self, sessions: usize, users: usize) -> Answer<bool>;
    /// Takes times to come back for clients that this leaving node sends away now, from the budget that all leaving
    /// nodes share. In memory, done once what was published so far has been told.
    fn drain(&self, leaving: Leaving) -> Answer<Slots>;
    /// Gives the id back and leaves nothing behind.
    fn release(&self) -> Answer<()>;
    /// Clears up after nodes whose lease has lapsed. True where one has lapsed since this was last asked: hints of what
    /// it published last may be missing.
    fn clear_up(&self) -> Answer<bool>;
    /// How long ago a sign of life last came through this node's inbox.
    fn sign_of_life(&self) -> Option<Duration>;
    /// Whether Redis is there and knows this node, as far as is known.
    fn is_up(&self) -> bool;
    /// How many masters of a Cluster do not answer, as far as is known; 0 elsewhere.
    fn masters_away(&self) -> usize;
    /// What an operator should mend although all works.
    fn warning(&self) -> Option<String>;
    /// Waits until Redis has failed to answer: time to look whether it still knows this node.
    fn suspected(&self) -> BoxFuture<'static, ()>;
    /// Starts what the engine does by itself: reads the inbox and the ingress stream for `node`. Answers with its tasks:
    /// where one of them has panicked, this node is of no more use.
    fn start(&self, node: Arc<dyn Node>) -> Vec<JoinHandle<()>>;
    /// Stops reading the ingress stream, so that another node goes on; the inbox is read until the end.
    fn stop_ingress(&self) -> BoxFuture<'static, ()>;
}

#[cfg(test)]
mod tests;
