//! Connections of one user whose beginnings and ends overlap: what was confirmed is not forgotten, and who stays is known.

use std::task::Waker;

use tokio::time::Instant;

use super::*;
use crate::engine::memory::{Config, MemoryEngine};
use crate::handle::Signal;

/// A router in memory that may deliver for an hour.
pub fn router() -> Arc<Router> {
    let metrics = Arc::new(Metrics::new("n", &[]).unwrap());
    let engine = Arc::new(MemoryEngine::new(Config::of_tests()));
    let router = Arc::new(Router::new("n".parse().unwrap(), engine, metrics, 1, WAITING));
    router.lease().claimed(Instant::now(), Duration::from_secs(3600));
    router
}

struct Stage {
    router: Arc<Router>,
    identity: Identity,
    /// The ids of what was published after the first connection began.
    ids: Vec<EventId>,
}

/// A first connection, and three events that it may confirm.
async fn stage() -> (Stage, Registered) {
    let router = router();
    let identity = Identity { user: "u".parse().unwrap(), client: "c".parse().unwrap(), since: None };
    let mut stage = Stage { router, identity, ids: Vec::new() };
    let first = stage.open().await.0;
    for _ in 0..3 {
        let event = Event::of_tests(stage.identity.user.as_str(), "1");
        stage.ids.push(stage.router.engine().publish(event).await.unwrap().id.unwrap());
    }
    (stage, first)
}

impl Stage {
    async fn open(&self) -> (Registered, Box<Registration>) {
        self.router.open(self.identity.clone()).await.unwrap_or_else(|_| panic!("refused"))
    }

    /// A connection as it is while it waits for the engine. Dropped, it was not let in.
    fn waiting(&self) -> Registered {
        let Identity { user, client, .. } = self.identity.clone();
        self.router.take_place(Handle::new(user, client))
    }
}

#[tokio::test]
async fn what_a_replaced_connection_confirmed_is_not_sent_again() {
    let (stage, first) = stage().await;
    first.handle().confirm(stage.ids[1]);
    let (second, welcome) = stage.open().await;
    assert_eq!((welcome.from, welcome.replayed), (stage.ids[1], 1));
    assert_eq!(second.handle().unsaved(), None, "the engine has it");
    // What the older one is told until its end counts too: the next heartbeat saves it.
    first.handle().confirm(stage.ids[2]);
    drop(first);
    assert_eq!(second.handle().unsaved(), Some(stage.ids[2]));
    drop(second);
    assert_eq!(stage.open().await.1.from, stage.ids[2]);
}

#[tokio::test]
async fn an_older_since_forgets_nothing() {
    let (mut stage, first) = stage().await;
    first.handle().confirm(stage.ids[2]);
    stage.identity.since = Some(stage.ids[0]);
    let (second, welcome) = stage.open().await;
    assert_eq!((welcome.from, welcome.replayed), (stage.ids[0], 2));
    stage.identity.since = None;
    drop((first, second));
    assert_eq!(stage.open().await.1.from, stage.ids[2]);
}

#[tokio::test]
async fn who_is_not_let_in_forgets_nothing() {
    // The older one ends while the newer one waits, or as it is refused, or not at all.
    for (ends_before, ends_after) in [(true, false), (false, true), (false, false)] {
        let (stage, first) = stage().await;
        first.handle().confirm(stage.ids[0]);
        let second = stage.waiting();
        first.handle().confirm(stage.ids[1]);
        let handle = first.handle().clone();
        if ends_before {
            drop(first);
            drop(second);
        } else if ends_after {
            assert!(handle.end(), "it has not looked for its place yet");
            drop(second);
            assert!(stage.router.registry().remove(&handle, || ()).is_none());
        } else {
            drop(second);
            drop(first);
        }
        assert!(stage.router.registry().is_empty(), "nobody is left whom nobody takes out");
        assert_eq!(stage.open().await.1.from, stage.ids[1]);
    }
}

#[tokio::test]
async fn a_third_connection_knows_what_the_first_one_confirmed() {
    let (stage, first) = stage().await;
    first.handle().confirm(stage.ids[1]);
    let second = stage.waiting();
    let (third, welcome) = stage.open().await;
    assert_eq!(welcome.from, stage.ids[1]);
    first.handle().confirm(stage.ids[2]);
    drop(second);
    assert_eq!(third.handle().confirmed(), Some(stage.ids[2]));
    drop((first, third));
    assert_eq!(stage.open().await.1.from, stage.ids[2]);
}

/// What the session would do next.
fn next(handle: &Handle) -> Poll<Signal> {
    handle.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn who_seems_newer_than_what_takes_its_place_asks_redis() {
    let (stage, first) = stage().await;
    let handle = first.handle();
    assert!(handle.caught_up(stage.ids[2]) && next(handle).is_pending());
    // The clock has gone back since it came.
    stage.router.replaced(handle.user.as_str(), handle.client.as_str(), 1);
    assert_eq!(next(handle), Poll::Ready(Signal::CatchUp));
}

#[tokio::test]
async fn a_lease_that_begins_anew_has_others_register_anew() {
    let (stage, _first) = stage().await;
    let (session, mut registration) = stage.open().await;
    let (handle, identity) = (session.handle(), &stage.identity);
    assert!(handle.caught_up(stage.ids[2]));
    let other = Arc::new(Handle::new(identity.user.clone(), "other".parse().unwrap()));
    stage.router.note_lease(&other, &registration);
    registration.anew = true;
    stage.router.note_lease(handle, &registration);
    assert!(next(handle).is_pending(), "there was a lease, or it began with this very session");
    stage.router.note_lease(&other, &registration);
    assert_eq!(next(handle), Poll::Ready(Signal::CatchUp));
}
