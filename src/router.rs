//! Publish and deliver: from a request to the engine, and from a hint to the sockets of this node.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tracing::debug;

use crate::acked::Acked;
use crate::close::Close;
use crate::engine::{
    Answer, Connect, Connected, Disconnect, Engine, Event, Hint, Mode, Node, Published, Registration,
};
use crate::fault;
use crate::gate::{Gate, Rounds};
use crate::handle::{Handle, Outgoing};
use crate::id::{ClientId, EventId, NodeId, UserId};
use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::protocol::client;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::hello::Identity;
use crate::protocol::publish::{Publish, Receipt, Target};
use crate::registry::Registry;

/// Registrations under way at once: they keep the engine busy (a few calls of 32, more being gathered), and a publish
/// that comes meanwhile waits for no more than these.
const REGISTERING: usize = 256;
/// Registrations that may wait for their turn: a second's worth. One more is refused.
pub const WAITING: usize = 16_384;
/// How long: later, nobody waits for the answer any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clients who are gone whose sessions end at once: a network that fails takes thousands along, and the next event
/// waits for no more than these.
const LEAVING: usize = 32;

/// What came of a publish, later.
pub enum Outcome {
    /// To one user, as most are.
    One(Answer<Published>),
    /// To several, or to everyone.
    Many(BoxFuture<'static, Result<Receipt, Refusal>>),
}

impl Future for Outcome {
    type Output = Result<Receipt, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::One(published) => Pin::new(published).poll(cx).map(|published| {
                let published = published?;
                let ids = published.id.into_iter().collect();
                Ok(Receipt { ids, nodes: published.nodes, many: false })
            }),
            Self::Many(outcome) => outcome.as_mut().poll(cx),
        }
    }
}

/// The node between its engine and its sockets.
pub struct Router {
    node: NodeId,
    engine: Arc<dyn Engine>,
    registry: Registry,
    acked: Acked,
    lease: Lease,
    metrics: Arc<Metrics>,
    /// Registrations under way, and those that wait for their turn.
    pub registering: Gate,
    leaving: Rounds,
    send_queue: usize,
}

impl Router {
    /// A router without sessions. `send_queue` events may wait for a slow socket, `waiting` registrations for their turn.
    pub fn new(
        node: NodeId,
        engine: Arc<dyn Engine>,
        metrics: Arc<Metrics>,
        send_queue: usize,
        waiting: usize,
    ) -> Self {
        let (registry, acked, lease) = (Registry::default(), Acked::default(), Lease::default());
        let (registering, leaving) = (Gate::new(REGISTERING, waiting, PATIENCE), Rounds::new(LEAVING));
        Self { node, engine, registry, acked, lease, metrics, registering, leaving, send_queue }
    }

    /// This node's id.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Everyone's truth.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// This node's sockets.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whose positions are to be saved soon.
    pub fn acked(&self) -> &Acked {
        &self.acked
    }

    /// The right to deliver.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Waits for a turn to end the session of a client who is gone.
    pub async fn turn_to_leave(&self) {
        self.leaving.turn().await;
    }

    /// What this node counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Publishes. The events are queued at once, in the order of calls for each user; the answer comes later.
    pub fn publish(&self, publish: Publish) -> Outcome {
        match &publish.target {
            Target::User(user) => Outcome::One(self.engine.publish(Event::of(&publish, user.clone()))),
            Target::Users(users) => {
                let many = !publish.transient;
                let event = |user: &UserId| Event::of(&publish, user.clone());
                let published = join_all(users.iter().map(|user| self.engine.publish(event(user))));
                Outcome::Many(Box::pin(async move {
                    let (mut ids, mut nodes) = (Vec::new(), Vec::new());
                    for published in published.await {
                        let published = published?;
                        ids.extend(published.id);
                        nodes.extend(published.nodes);
                    }
                    nodes.sort();
                    nodes.dedup();
                    Ok(Receipt { ids, nodes, many })
                }))
            }
            Target::Broadcast => {
                let sent = self.engine.broadcast(publish.event, publish.data);
                Outcome::Many(Box::pin(async move {
                    Ok(Receipt { ids: Vec::new(), nodes: sent.await?, many: false })
                }))
            }
        }
    }

    /// Registers a new connection. It takes the place of an older one of the same client.
    ///
    /// # Errors
    /// `too_many_sessions` or `unavailable`; an older connection then stays.
    pub async fn open(
        self: &Arc<Self>,
        identity: Identity,
    ) -> Result<(Registered, Box<Registration>), Refusal> {
        let _turn = self.registering.enter_as(&identity.user).await.ok_or_else(|| {
            Refusal::new(Code::Unavailable, "too many clients are connecting to this node now; try again")
        })?;
        if !self.lease.is_held() {
            return Err(Refusal::unavailable());
        }
        let Identity { user, client, since } = identity;
        // From here on whoever drops this takes the session out again, finished or not.
        let mut registered = self.take_place(Handle::new(user.clone(), client.clone()));
        let confirmed = registered.handle.confirmed();
        let connect = Connect { user, client, mode: Mode::New, since, confirmed };
        match self.engine.connect(connect).await {
            Ok(Connected::Registered(registration)) => {
                if let Some(former) = registered.former.take() {
                    former.close(Close::Replaced);
                }
                registered.handle.set_order(registration.order);
                self.note_lease(&registered.handle, &registration);
                registered.handle.begin(registration.from.min(registration.position));
                Ok((registered, Box::new(registration)))
            }
            Ok(_) => Err(Refusal::new(
                Code::TooManySessions,
                "this user has as many sessions as allowed (--max-sessions-per-user)",
            )),
            Err(unavailable) => Err(unavailable.into()),
        }
    }

    /// Puts a session in, which is not registered yet. The engine has not been told all that an older connection of the
    /// client has confirmed, and will not be by its end, which finds its place taken: the new one answers for that.
    fn take_place(self: &Arc<Self>, handle: Handle) -> Registered {
        let handle = Arc::new(handle);
        let former = self.registry.insert(handle.clone());
        if let Some(former) = &former {
            handle.confirm_as(former);
        }
        Registered { router: self.clone(), handle, former }
    }

    /// Where a lease on the user began with this session, their others here had lost theirs: they register anew.
    pub fn note_lease(&self, handle: &Arc<Handle>, registration: &Registration) {
        if registration.anew {
            self.registry.each_of(handle.user.as_str(), |session| {
                if !Arc::ptr_eq(session, handle) && session.order() != 0 {
                    session.look();
                }
            });
        }
    }

    /// Reads what a session has missed since `last`, and registers it anew by that.
    pub fn resume(&self, handle: &Handle, last: EventId) -> Answer<Connected> {
        self.engine.connect(Connect {
            user: handle.user.clone(),
            client: handle.client.clone(),
            mode: Mode::Resume { order: handle.order(), told: handle.told(last) },
            since: Some(last),
            confirmed: handle.confirmed(),
        })
    }

    /// Takes a session off its user, once, if its place is still its own.
    fn end(&self, handle: &Arc<Handle>) -> Option<Answer<()>> {
        let end = || {
            self.engine.disconnect(Disconnect {
                user: handle.user.clone(),
                client: handle.client.clone(),
                confirmed: handle.confirmed(),
            })
        };
        // The end is queued before a newer connection of this client can queue its beginning.
        if handle.end() { self.registry.remove(handle, end) } else { None }
    }

    /// Every session looks into its log.
    pub fn look_all(&self) {
        self.registry.each(|session| session.look());
    }

    fn deliver(&self, hint: Hint<'_>) {
        let id = hint.logged.map(|logged| logged.id);
        if let Some(id) = id {
            debug!(user = hint.user, %id, "hinted");
        }
        // Built once, by the first session that wants it, and shared.
        let mut frame: Option<Utf8Bytes> = None;
        self.registry.each_of(hint.user, |session| {
            let wanted = !fault::drops_hint()
                && hint.client.is_none_or(|client| client == session.client.as_str())
                && hint.except != Some(session.client.as_str());
            let built =
                wanted.then(|| frame.get_or_insert_with(|| client::event(id, hint.event, hint.data)).clone());
            session.push(&Outgoing { logged: hint.logged, frame: built }, self.send_queue);
        });
    }
}

impl Node for Router {
    fn hint(&self, hint: Hint<'_>) {
        let deliver = self.lease.allows_delivery();
        self.engine.tracer().note(hint.user, "taken", || {
            let mut fields = vec![("event", hint.event.to_owned())];
            fields.extend(hint.logged.map(|logged| ("id", logged.id.to_string())));
            fields.extend((!deliver).then(|| ("dropped", "the lease is lost".to_owned())));
            fields
        });
        if deliver {
            self.deliver(hint);
        }
    }

    fn look(&self, user: &str, newest: Option<EventId>) {
        self.registry.each_of(user, |session| match newest {
            Some(newest) => session.look_for(newest),
            None => session.look(),
        });
    }

    fn broadcast(&self, event: &str, data: &str) {
        if self.lease.allows_delivery() {
            let outgoing = Outgoing { logged: None, frame: Some(client::event(None, event, data)) };
            self.registry.each(|session| session.push(&outgoing, self.send_queue));
        }
    }

    fn crowded(&self, user: Option<&UserId>, bytes: usize) -> usize {
        let (mut crowded, most) = (0, self.send_queue);
        let count = |session: &Arc<Handle>| crowded += usize::from(session.is_crowded(bytes, most));
        match user {
            Some(user) => self.registry.each_of(user.as_str(), count),
            None => self.registry.each(count),
        }
        crowded
    }

    fn replaced(&self, user: &str, client: &str, order: u64) {
        self.registry.each_of(user, |session| {
            if session.client.as_str() == client {
                session.replaced(order);
                session.look(); // the clock may have gone back between the two: Redis knows which one is newer
            }
        });
    }

    fn sign_out(&self, user: &str, client: Option<&str>) {
        self.registry.each_of(user, |session| {
            if client.is_none_or(|client| client == session.client.as_str()) {
                session.close(Close::SignedOut);
            }
        });
    }

    fn inbox_lost(&self) {
        self.lease.claim_again();
    }

    fn doubted(&self, whose: &dyn Fn(&UserId) -> bool) {
        self.registry.each(|session| {
            if whose(&session.user) {
                session.look();
            }
        });
    }

    fn listed(&self, user: &UserId, clients: Vec<ClientId>) -> bool {
        for client in clients {
            let end = Disconnect { user: user.clone(), client: client.clone(), confirmed: None };
            // Queued before a connection of this client can queue its beginning.
            drop(self.registry.unless_there(user.as_str(), &client, || self.engine.disconnect(end)));
        }
        self.registry.has(user.as_str())
    }
}

/// A session that is registered; dropping it takes it off its user.
pub struct Registered {
    router: Arc<Router>,
    handle: Arc<Handle>,
    /// The session whose place this one takes, until it is sure that it does.
    former: Option<Arc<Handle>>,
}

impl Registered {
    /// The session's shared part.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// The client's id.
    pub fn client(&self) -> &ClientId {
        &self.handle.client
    }

    /// The user's id.
    pub fn user(&self) -> &UserId {
        &self.handle.user
    }

    /// The node's router.
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// Takes the session off its user now; resolves when everyone can see that.
    pub async fn end(&self) {
        if let Some(ended) = self.router.end(&self.handle)
            && let Err(error) = ended.await
        {
            debug!(user = %self.handle.user, client = %self.handle.client, %error, "will be taken off its user later");
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let former = self.former.take();
        if let Some(former) = &former
            && self.router.registry.restore(&self.handle, former.clone())
        {
            // The newcomer was not let in, or nothing is known of it: the older connection registers anew.
            self.handle.end();
            former.look();
            return;
        }
        // A third connection has the place: nobody knows the older one any more, so it must go as well. Or it has gone.
        if let Some(former) = former {
            self.handle.confirm_as(&former);
            former.close(Close::Overloaded);
        }
        // Queued at once; nobody need wait for the answer.
        drop(self.router.end(&self.handle));
    }
}

#[cfg(test)]
pub mod tests;
