//! A node that writes down what its engine tells it.

use std::sync::Mutex;
use std::time::Duration;

use switchboard::engine::{Hint, Node};
use switchboard::id::{ClientId, EventId, Logged, UserId};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::redis_server::BOUND;

/// A hint that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hinted {
    pub user: String,
    pub logged: Option<Logged>,
    pub client: Option<String>,
    pub except: Option<String>,
    pub event: String,
    pub data: String,
}

impl Hinted {
    /// The event's id, where it has one.
    pub fn id(&self) -> Option<EventId> {
        self.logged.map(|logged| logged.id)
    }
}

/// Something that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Hint(Hinted),
    Look(String, Option<EventId>),
    Broadcast { event: String, data: String },
    Replaced { user: String, client: String, order: u64 },
    SignOut { user: String, client: Option<String> },
    InboxLost,
    Doubted,
    Listed { user: String, clients: Vec<String> },
}

/// The node.
#[derive(Default)]
pub struct Recorder {
    told: Mutex<Vec<Told>>,
    /// Users who have a session here, as far as the engine asks.
    pub here: Mutex<Vec<String>>,
    more: Notify,
}

impl Recorder {
    fn note(&self, told: Told) {
        self.told.lock().unwrap().push(told);
        self.more.notify_waiters();
    }

    /// Everything that came so far.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    /// The hints that came so far.
    pub fn hints(&self) -> Vec<Hinted> {
        let hint = |told| if let Told::Hint(hinted) = told { Some(hinted) } else { None };
        self.told().into_iter().filter_map(hint).collect()
    }

    /// Forgets what came, and hands it out.
    pub fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.told.lock().unwrap())
    }

    /// Waits for something that `wanted` takes.
    pub async fn wait_for<T>(&self, what: &str, wanted: impl Fn(&Told) -> Option<T>) -> T {
        let wait = async {
            loop {
                let more = self.more.notified();
                tokio::pin!(more);
                // Before the look, so that nothing that comes between the two is missed.
                more.as_mut().enable();
                if let Some(found) = self.told.lock().unwrap().iter().find_map(&wanted) {
                    return found;
                }
                more.await;
            }
        };
        match timeout(BOUND, wait).await {
            Ok(found) => found,
            Err(_) => panic!("{what} never came; what came: {:?}", self.told()),
        }
    }

    /// Waits for the hint of event `id`.
    pub async fn hint_of(&self, id: EventId) -> Hinted {
        self.wait_for(&format!("the hint of {id}"), |told| match told {
            Told::Hint(hinted) if hinted.id() == Some(id) => Some(hinted.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until `condition` holds, with a bound.
    pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(BOUND, wait).await.is_ok(), "{what}: never");
    }
}

impl Node for Recorder {
    fn hint(&self, hint: Hint<'_>) {
        self.note(Told::Hint(Hinted {
            user: hint.user.to_owned(),
            logged: hint.logged,
            client: hint.client.map(str::to_owned),
            except: hint.except.map(str::to_owned),
            event: hint.event.to_owned(),
            data: hint.data.to_owned(),
        }));
    }

    fn look(&self, user: &str, newest: Option<EventId>) {
        self.note(Told::Look(user.to_owned(), newest));
    }

    fn broadcast(&self, event: &str, data: &str) {
        self.note(Told::Broadcast { event: event.to_owned(), data: data.to_owned() });
    }

    fn crowded(&self, _user: Option<&UserId>, _bytes: usize) -> usize {
        0
    }

    fn replaced(&self, user: &str, client: &str, order: u64) {
        self.note(Told::Replaced { user: user.to_owned(), client: client.to_owned(), order });
    }

    fn sign_out(&self, user: &str, client: Option<&str>) {
        self.note(Told::SignOut { user: user.to_owned(), client: client.map(str::to_owned) });
    }

    fn inbox_lost(&self) {
        self.note(Told::InboxLost);
    }

    fn doubted(&self, _whose: &dyn Fn(&UserId) -> bool) {
        self.note(Told::Doubted);
    }

    fn listed(&self, user: &UserId, clients: Vec<ClientId>) -> bool {
        let clients = clients.iter().map(ToString::to_string).collect();
        self.note(Told::Listed { user: user.to_string(), clients });
        self.here.lock().unwrap().iter().any(|here| here == user.as_str())
    }
}
