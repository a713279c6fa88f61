//! The lane of events: they are appended and told one after the other, in the order of calls.
//!
//! Between them the sockets' tasks have their turns, and the time to write where a socket is crowded: a request of a
//! thousand events would fill its user's outboxes before one of those tasks runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::context::Context;
use crate::engine::turn::Turn;
use crate::engine::{Event, Node, Published, Reply};
use crate::id::{EventName, NodeId, UserId};
use crate::protocol::publish::Data;

/// A crowded socket's task writes within this.
const PAUSE: Duration = Duration::from_millis(1);
/// Pauses in a row in which no session becomes less crowded: then their peers do not read. With one such wait a turn, a
/// socket that takes nothing costs the others four waits until it is behind, some 40 ms.
const IN_VAIN: usize = 5;
/// Pauses for one event, where thousands of sockets are written to in the meantime.
const MOST_PAUSES: usize = 100;

/// An operation, and where its answer goes.
pub(super) enum Op {
    /// [`crate::engine::Engine::publish`]
    Publish(Event, Reply<Published>),
    /// [`crate::engine::Engine::broadcast`]
    Broadcast(EventName, Data, Reply<Vec<NodeId>>),
    /// Tells that all before it is done.
    Done(oneshot::Sender<()>),
}

/// The lane.
pub(super) struct Lane {
    context: Arc<Context>,
    node: Arc<dyn Node>,
    turn: Turn,
    /// In this turn sockets were waited for in vain.
    in_vain: bool,
}

impl Lane {
    pub(super) fn new(context: Arc<Context>, node: Arc<dyn Node>) -> Self {
        Self { context, node, turn: Turn::default(), in_vain: false }
    }

    /// Works until the engine is dropped.
    pub(super) async fn run(mut self, mut ops: mpsc::Receiver<Op>) {
        while let Some(op) = ops.recv().await {
            // An answer that nobody waits for any more: the caller's connection has ended.
            match op {
                Op::Publish(event, reply) => {
                    self.make_room(Some(&event.user), event.data.as_bytes().len()).await;
                    let _ = reply.send(Ok(self.context.append(event)));
                }
                Op::Broadcast(event, data, reply) => {
                    self.make_room(None, data.as_bytes().len()).await;
                    self.node.broadcast(event.as_str(), data.as_str());
                    let _ = reply.send(Ok(vec![self.context.config.node.clone()]));
                }
                Op::Done(reply) => _ = reply.send(()),
            }
        }
    }

    /// Lets the sockets of a user, or all, take what waits for them before one more event of so many bytes.
    async fn make_room(&mut self, user: Option<&UserId>, bytes: usize) {
        self.in_vain &= !self.turn.next(bytes).await;
        if self.in_vain {
            // Who reads beside those who do not still has its turn.
            return yield_now().await;
        }
        let mut crowded = self.node.crowded(user, bytes);
        let (mut pauses, mut in_vain) = (0, 0);
        while crowded > 0 && in_vain < IN_VAIN && pauses < MOST_PAUSES {
            sleep(PAUSE).await;
            let still = self.node.crowded(user, bytes);
            in_vain = if still < crowded { 0 } else { in_vain + 1 };
            (crowded, pauses) = (still, pauses + 1);
        }
        self.in_vain = crowded > 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use tokio::task::unconstrained;
    use tokio::time::Instant;

    use super::super::{Config, MemoryEngine};
    use super::*;
    use crate::engine::turn::TURN;
    use crate::engine::{Answer, Cause, Connect, Engine, Hint, Leaving, MOST_EVENTS, Mode};
    use crate::id::{ClientId, EventId};

    /// Sockets that take an event in each millisecond, or none.
    #[derive(Default)]
    struct Sockets {
        waiting: AtomicUsize,
        most: AtomicUsize,
        told: Mutex<Vec<String>>,
    }

    impl Sockets {
        fn push(&self, data: &str) {
            let waiting = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(waiting, Ordering::Relaxed);
            self.told.lock().unwrap().push(data.to_owned());
        }
    }

    impl Node for Sockets {
        fn hint(&self, hint: Hint<'_>) {
            self.push(hint.data);
        }
        fn look(&self, _: &str, _: Option<EventId>) {}
        fn broadcast(&self, _: &str, data: &str) {
            self.push(data);
        }
        fn crowded(&self, _: Option<&UserId>, _: usize) -> usize {
            self.waiting.load(Ordering::Relaxed).saturating_sub(7)
        }
        fn replaced(&self, _: &str, _: &str, _: u64) {}
        fn sign_out(&self, _: &str, _: Option<&str>) {}
        fn inbox_lost(&self) {}
        fn doubted(&self, _: &dyn Fn(&UserId) -> bool) {}
        fn listed(&self, _: &UserId, _: Vec<ClientId>) -> bool {
            false
        }
    }

    async fn engine(deaf: bool) -> (MemoryEngine, Arc<Sockets>) {
        let engine = MemoryEngine::new(Config::of_tests());
        let sockets = Arc::new(Sockets::default());
        engine.start(sockets.clone());
        if !deaf {
            let reading = sockets.clone();
            tokio::spawn(async move {
                loop {
                    sleep(PAUSE).await;
                    let _ = reading
                        .waiting
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| waiting.checked_sub(1));
                }
            });
        }
        let (user, client) = ("u".parse().unwrap(), "c".parse().unwrap());
        let connect = Connect { user, client, mode: Mode::New, since: None, confirmed: None };
        engine.connect(connect).await.unwrap();
        (engine, sockets)
    }

    fn publish(engine: &MemoryEngine, number: usize) -> Answer<Published> {
        engine.publish(Event::of_tests("u", number.to_string()))
    }

    #[tokio::test(start_paused = true)]
    async fn events_keep_their_order_and_wait_for_sockets_that_take_them() {
        let (engine, sockets) = engine(false).await;
        let published: Vec<_> = (0..100).map(|number| publish(&engine, number)).collect();
        let sent = engine.broadcast("e".parse().unwrap(), Data::from_json_text("100".to_owned()));
        let ids: Vec<_> =
            join_all(published).await.into_iter().map(|published| published.unwrap().id).collect();
        sent.await.unwrap();
        assert!(ids.is_sorted() && ids.iter().all(Option::is_some));
        assert_eq!(*sockets.told.lock().unwrap(), (0..=100).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(sockets.most.load(Ordering::Relaxed), 8, "no more than may wait");
    }

    #[tokio::test(start_paused = true)]
    async fn sockets_that_take_nothing_are_waited_for_once_a_turn() {
        let (engine, _) = engine(true).await;
        let started = Instant::now();
        join_all((0..4 * TURN).map(|number| publish(&engine, number))).await;
        let waited = started.elapsed();
        assert!(waited >= 4 * 5 * PAUSE && waited < 4 * 12 * PAUSE, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_queued_is_done_before_clients_or_the_node_leave_and_one_too_many_is_refused() {
        for release in [false, true] {
            let (engine, _) = engine(true).await;
            let mut published: Vec<_> = (0..=MOST_EVENTS).map(|number| publish(&engine, number)).collect();
            let refused = published.pop().unwrap().now_or_never();
            let refused = refused.and_then(Result::err).map(|error| error.cause);
            assert_eq!(refused, Some(Cause::Full));
            assert!((&mut published[0]).now_or_never().is_none(), "it was queued");
            match release {
                false => _ = engine.drain(Leaving::default()).await.unwrap(),
                true => engine.release().await.unwrap(),
            }
            for answer in published {
                assert!(matches!(unconstrained(answer).now_or_never(), Some(Ok(_))));
            }
        }
    }
}
