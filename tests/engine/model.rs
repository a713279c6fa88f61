//! A simple model of one user's history: nothing is lost without a gap, nothing comes twice, all in order, and a gap is
//! told only where the log cannot prove the contrary. `histories` makes the histories.
//!
//! Each client plays a session: it takes hints that follow on what it has, and looks into the log otherwise. With
//! Redis two nodes share the user, so half the hints come through an inbox.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use switchboard::engine::{Connected, Event, LeaseState, Mode};
use switchboard::id::{EventId, Logged, UserId};

use crate::stage::{Kind, Options, RESUME, Stage, client, event};

/// How much longer than a lease is waited until it has lapsed for certain.
const BEYOND: f64 = 1.1;

#[derive(Debug, Clone)]
pub enum Step {
    /// A client connects, or connects once more; with the last id it has, with 0, or with none.
    Connect {
        client: u8,
        since: Since,
    },
    /// A client that is there looks into the log after the `back`-th last id it has.
    Look {
        client: u8,
        back: usize,
    },
    /// A client goes; it has confirmed all but the last `unconfirmed` events it has got.
    Disconnect {
        client: u8,
        unconfirmed: usize,
    },
    /// A client that is there has confirmed all but the last `unconfirmed` events it has got: a heartbeat says so.
    Confirm {
        client: u8,
        unconfirmed: usize,
    },
    Publish(Publish),
    /// No heartbeat comes for so long that the leases on sessions lapse, but for those in memory, which have none. Then
    /// comes an event: nobody is told.
    Expire,
    /// Nothing happens for so long that the log lapses with everything else, unless somebody is there in memory.
    Lapse,
}

#[derive(Debug, Clone, Copy)]
pub enum Since {
    Nothing,
    Zero,
    Last,
}

#[derive(Debug, Clone, Default)]
pub struct Publish {
    pub by: usize,
    pub only: Option<u8>,
    pub except: Option<u8>,
    pub collapse: Option<u8>,
    pub key: Option<u8>,
    pub transient: bool,
}

/// An event as the model knows it.
#[derive(Debug, Clone)]
struct Known {
    id: EventId,
    publish: Publish,
    /// It has left the log for its age, not for a newer one of its key.
    trimmed: bool,
    collapsed: bool,
}

impl Known {
    fn is_for(&self, client: u8) -> bool {
        self.publish.only.is_none_or(|only| only == client) && self.publish.except != Some(client)
    }
}

#[derive(Debug, Default)]
struct Client {
    /// Its socket is open.
    open: bool,
    /// It is registered: its socket is open, and the lease has not lapsed.
    here: bool,
    /// What it has: the events of this connection, in order, after where that began.
    got: Vec<EventId>,
    last: EventId,
    confirmed: Option<EventId>,
}

/// One user's history so far.
pub struct History<'a> {
    stages: &'a [Stage],
    options: Options,
    user: UserId,
    events: Vec<Known>,
    keys: BTreeMap<u8, EventId>,
    clients: BTreeMap<u8, Client>,
    published: u32,
    /// The newest id that there was when all lapsed: of nothing up to there it can be proven that it is whole.
    floor: Option<EventId>,
    /// No event has been published since.
    lapsed: bool,
    /// When all leases were renewed last, or later.
    renewed: Instant,
}

impl<'a> History<'a> {
    /// A user without history.
    pub fn new(stages: &'a [Stage], options: Options, user: UserId) -> Self {
        for stage in stages {
            stage.node.take();
        }
        Self {
            stages,
            options,
            user,
            events: Vec::new(),
            keys: BTreeMap::new(),
            clients: BTreeMap::new(),
            published: 0,
            floor: None,
            lapsed: false,
            renewed: Instant::now(),
        }
    }

    fn stage(&self, client: u8) -> &Stage {
        &self.stages[usize::from(client) % self.stages.len()]
    }

    fn kept(&self) -> impl Iterator<Item = &Known> {
        self.events.iter().filter(|event| !event.trimmed && !event.collapsed)
    }

    fn newest(&self) -> Option<EventId> {
        self.kept().last().map(|event| event.id)
    }

    /// The machine has stood still for so long that leases may have lapsed which should not: what follows says nothing.
    pub fn has_stalled(&self) -> bool {
        self.in_redis() && self.renewed.elapsed() > self.options.session_ttl.mul_f64(0.8)
    }

    fn in_redis(&self) -> bool {
        self.stages[0].kind == Kind::Redis
    }

    /// As a node does every third of a lease.
    async fn renew(&mut self) {
        let now = Instant::now();
        for stage in self.stages {
            let here = |(client, its): (&u8, &Client)| its.here && self.stage(*client).id == stage.id;
            if self.clients.iter().any(here) {
                let newest = self.newest().filter(|_| self.in_redis());
                let state = stage.heartbeat(&self.user, &[]).await;
                assert!(
                    matches!(state, LeaseState::Renewed { newest: id, .. } if newest.is_none_or(|newest| id == newest)),
                    "{state:?}"
                );
            }
        }
        self.renewed = now;
    }

    /// One step, and what came of it held against what should.
    pub async fn step(&mut self, step: &Step) {
        if self.renewed.elapsed() > self.options.session_ttl / 4 {
            self.renew().await;
        }
        match step {
            Step::Connect { client, since } => {
                let its = self.clients.entry(*client).or_default();
                let since = match since {
                    Since::Last if its.last > EventId::ZERO => Some(its.last),
                    // From 0 only once it has a position; of the first time `position` has its own case.
                    Since::Zero if its.confirmed.is_some() => Some(EventId::ZERO),
                    _ => None,
                };
                self.read(*client, Mode::New, since).await;
            }
            Step::Look { client, back } => {
                let Some(its) = self.clients.get(client).filter(|its| its.open) else { return };
                let after = its.got.iter().rev().nth(*back).copied().unwrap_or(its.last);
                self.read(*client, RESUME, Some(after)).await;
            }
            Step::Disconnect { client, unconfirmed } => {
                let Some(its) = self.clients.get_mut(client).filter(|its| its.open) else { return };
                let confirmed = its.got.iter().rev().nth(*unconfirmed).copied();
                its.confirmed = its.confirmed.max(confirmed);
                (its.open, its.here) = (false, false);
                self.stage(*client).disconnect(&self.user, &name(*client), confirmed).await;
            }
            Step::Confirm { client, unconfirmed } => {
                let Some(its) = self.clients.get_mut(client).filter(|its| its.open) else { return };
                let confirmed = its.got.iter().rev().nth(*unconfirmed).copied();
                let Some(confirmed) = confirmed else { return };
                let others = self.others_here(*client);
                let state = self.stage(*client).heartbeat(&self.user, &[(&name(*client), confirmed)]).await;
                let its = self.clients.entry(*client).or_default();
                // The lease is the node's: another client there may have registered anew.
                assert_eq!(state != LeaseState::Lost, its.here || others, "{state:?}");
                if state != LeaseState::Lost {
                    its.confirmed = its.confirmed.max(Some(confirmed));
                }
            }
            Step::Publish(publish) => self.publish(publish).await,
            Step::Expire => {
                self.wait(self.options.session_ttl).await;
                if self.in_redis() {
                    self.clients.values_mut().for_each(|its| its.here = false);
                }
                self.publish(&Publish::default()).await;
            }
            Step::Lapse => {
                self.wait(self.options.log_ttl).await;
                if self.in_redis() || self.clients.values().all(|its| !its.open) {
                    self.lapse();
                }
            }
        }
    }

    fn others_here(&self, client: u8) -> bool {
        let same_node = |other: u8| self.stage(other).id == self.stage(client).id;
        self.clients.iter().any(|(other, its)| *other != client && its.here && same_node(*other))
    }

    async fn wait(&mut self, span: Duration) {
        // All that lapses has been renewed before this.
        self.stages[0].time_passes(span.mul_f64(BEYOND)).await;
        self.renewed = Instant::now();
    }

    fn lapse(&mut self) {
        for event in self.events.iter_mut().filter(|event| !event.collapsed) {
            event.trimmed = true;
        }
        let known = self.clients.values().flat_map(|its| [Some(its.last), its.confirmed]).flatten();
        self.floor = known.chain(self.events.last().map(|event| event.id)).chain(self.floor).max();
        self.lapsed = true;
        for its in self.clients.values_mut() {
            (its.here, its.confirmed) = (false, None);
        }
    }

    /// Connects or looks, and checks every page against the model.
    async fn read(&mut self, client: u8, mode: Mode, since: Option<EventId>) {
        let (mut mode, mut since) = (mode, since);
        let before = self.clients.get(&client).and_then(|its| its.confirmed);
        loop {
            let connected = self.stage(client).try_connect(&self.user, &name(client), mode, since).await;
            let Connected::Registered(page) = connected else { panic!("not registered: {connected:?}") };
            let from = since.or(before).unwrap_or(page.position);
            assert_eq!(page.from, from, "it reads from where it should");
            assert!(self.newest().is_none_or(|newest| page.position == newest), "its position is the newest");

            let expected = self.kept().filter(|event| event.id > from && event.is_for(client));
            let expected: Vec<_> = expected.map(|event| event.id).collect();
            assert_eq!(page.replayed, expected.len() as u64);
            let events: Vec<_> = page.events.iter().map(|event| event.id).collect();
            assert_eq!(events, expected[..events.len()], "the log's events, in order, each once");
            assert!(page.more || events.len() == expected.len(), "the last page is the rest");
            // From 0: all that is kept, since the log began.
            let begin = if from == EventId::ZERO { self.floor.unwrap_or_default() } else { from };
            let lost =
                self.events.iter().any(|event| event.trimmed && event.id > begin && event.is_for(client));
            assert!(!(page.whole && lost), "it calls itself whole and is not: {page:?}");
            let provable = self.floor.is_none_or(|floor| from > floor)
                && !self.events.iter().any(|event| event.trimmed && event.id > from);
            assert!(page.whole || !provable, "a gap that is none: {page:?}");

            let its = self.clients.entry(client).or_default();
            (its.open, its.here) = (true, true);
            if mode == Mode::New && from > EventId::ZERO {
                its.confirmed = its.confirmed.max(Some(from));
            }
            its.got.retain(|id| *id <= from);
            its.got.extend(events);
            assert!(its.got.is_sorted_by(|a, b| a < b), "twice, or out of order: {:?}", its.got);
            its.last = page.upto;
            if !page.more {
                assert_eq!(page.upto, page.position);
                return;
            }
            (mode, since) = (RESUME, Some(page.upto));
        }
    }

    async fn publish(&mut self, publish: &Publish) {
        self.published += 1;
        let event = Event {
            client: publish.only.map(|only| client(&name(only))),
            except: publish.except.map(|except| client(&name(except))),
            collapse: publish.collapse.map(|key| format!("c{key}").parse().unwrap()),
            key: publish.key.map(|key| format!("k{key}").parse().unwrap()),
            transient: publish.transient,
            ..event(&self.user, &self.published.to_string())
        };
        let known = publish.key.filter(|_| !publish.transient).and_then(|key| self.keys.get(&key)).copied();
        // It holds while nothing as new has been cut off, also where its event was replaced.
        let known =
            known.filter(|known| !self.events.iter().any(|event| event.trimmed && event.id >= *known));
        let published = self.stages[publish.by % self.stages.len()].publish(event).await;
        assert_eq!(published.id.is_none(), publish.transient);
        let here = |stage: &Stage| {
            let mut clients = self.clients.iter().filter(|(_, its)| its.here);
            clients.any(|(client, _)| self.stage(*client).id == stage.id)
        };
        for stage in self.stages {
            assert_eq!(published.nodes.contains(&stage.id), here(stage), "the nodes that hold the user");
        }
        let Some(id) = published.id else { return };
        if known.is_some() {
            assert_eq!(Some(id), known, "a key is answered with the first id");
            return;
        }
        let prev = self.events.last().map_or(EventId::ZERO, |event| event.id);
        assert!(id > prev, "{id} after {prev}");
        self.append(id, publish);
        self.deliver(id, prev).await;
        self.lapsed = false;
    }

    fn append(&mut self, id: EventId, publish: &Publish) {
        if let Some(key) = publish.key {
            self.keys.insert(key, id);
        }
        self.events.push(Known { id, publish: publish.clone(), trimmed: false, collapsed: false });
        let mut kept: Vec<_> =
            self.events.iter_mut().filter(|event| !event.trimmed && !event.collapsed).collect();
        let newest = kept.len() - 1;
        let place = |publish: &Publish| (publish.collapse, publish.only, publish.except);
        let older =
            |event: &&mut Known| publish.collapse.is_some() && place(&event.publish) == place(publish);
        if let Some(at) = kept[..newest].iter().position(older) {
            kept[at].collapsed = true;
            kept.remove(at);
        }
        if kept.len() > self.options.log_length {
            kept[0].trimmed = true;
        }
    }

    /// Whoever is here is told, and takes it because it follows on what it has.
    async fn deliver(&mut self, id: EventId, prev: EventId) {
        let here = self.clients.iter().filter(|(_, its)| its.here).map(|(client, _)| *client);
        for client in here.collect::<Vec<_>>() {
            let hinted = self.stage(client).node.hint_of(id).await;
            assert_eq!(hinted.user, self.user.as_str());
            // Where all has lapsed nobody may know what was before.
            let begins = self.lapsed && hinted.logged == Some(Logged { id, prev: EventId::ZERO });
            assert!(begins || hinted.logged == Some(Logged { id, prev }), "{hinted:?} after {prev}");
            let mine = self.events.last().is_some_and(|event| event.is_for(client));
            let its = self.clients.get_mut(&client).unwrap();
            assert!(its.last >= prev, "what came before {id} was never told");
            its.last = id;
            if mine {
                its.got.push(id);
            }
        }
    }
}

fn name(client: u8) -> String {
    format!("client-{client}")
}
