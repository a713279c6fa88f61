//! Random histories of one user against a simple model: nothing is lost without a gap, nothing comes twice, all in
//! order, and a gap is told only where the log cannot prove the contrary.
//!
//! Each client plays a session: it takes hints that follow on what it has, and looks into the log otherwise. With
//! Redis two nodes share the user, so half the hints come through an inbox.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use switchboard::engine::{Connected, Event, Mode};
use switchboard::id::{EventId, UserId};

use crate::stage::{Kind, Options, Stage, client, event, user};

/// Short, so that a history trims it several times.
const LOG_LENGTH: usize = 5;
const CLIENTS: u8 = 4;
/// Histories of each engine: enough to pass every pair of steps often, in a few seconds.
const HISTORIES: u32 = 150;

#[derive(Debug, Clone)]
enum Step {
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
    Publish(Publish),
}

#[derive(Debug, Clone, Copy)]
enum Since {
    Nothing,
    Zero,
    Last,
}

#[derive(Debug, Clone, Default)]
struct Publish {
    by: usize,
    only: Option<u8>,
    except: Option<u8>,
    collapse: Option<u8>,
    key: Option<u8>,
    transient: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let since = prop_oneof![Just(Since::Nothing), Just(Since::Zero), Just(Since::Last)];
    let maybe = |values: std::ops::Range<u8>| prop::option::weighted(0.3, values);
    let publish = (0..2usize, maybe(0..CLIENTS), maybe(0..CLIENTS), maybe(0..2), maybe(0..6), 0..10u8)
        .prop_map(|(by, only, except, collapse, key, transient)| {
            Step::Publish(Publish { by, only, except, collapse, key, transient: transient == 0 })
        });
    let step = prop_oneof![
        3 => (0..CLIENTS, since).prop_map(|(client, since)| Step::Connect { client, since }),
        2 => (0..CLIENTS, 0..8usize).prop_map(|(client, back)| Step::Look { client, back }),
        2 => (0..CLIENTS, 0..4usize).prop_map(|(client, unconfirmed)| Step::Disconnect { client, unconfirmed }),
        8 => publish.boxed(),
    ];
    prop::collection::vec(step, 1..60)
}

/// An event as the model knows it.
#[derive(Debug, Clone)]
struct Known {
    id: EventId,
    publish: Publish,
    /// Every event older than this one and newer than that id was replaced by a newer one of its collapse key.
    proven_from: EventId,
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
    here: bool,
    /// What it has: the events of this connection, in order, after where that began.
    got: Vec<EventId>,
    last: EventId,
    confirmed: Option<EventId>,
}

struct History<'a> {
    stages: &'a [Stage],
    user: UserId,
    events: Vec<Known>,
    keys: BTreeMap<u8, EventId>,
    clients: BTreeMap<u8, Client>,
    published: u32,
}

impl<'a> History<'a> {
    fn new(stages: &'a [Stage], user: UserId) -> Self {
        for stage in stages {
            stage.node.take();
        }
        Self {
            stages,
            user,
            events: Vec::new(),
            keys: BTreeMap::new(),
            clients: BTreeMap::new(),
            published: 0,
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

    async fn step(&mut self, step: &Step) {
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
                let Some(its) = self.clients.get(client).filter(|its| its.here) else { return };
                let after = its.got.iter().rev().nth(*back).copied().unwrap_or(its.last);
                self.read(*client, Mode::Resume, Some(after)).await;
            }
            Step::Disconnect { client, unconfirmed } => {
                let Some(its) = self.clients.get_mut(client).filter(|its| its.here) else { return };
                let confirmed = its.got.iter().rev().nth(*unconfirmed).copied();
                its.confirmed = its.confirmed.max(confirmed);
                its.here = false;
                self.stage(*client).disconnect(&self.user, &name(*client), confirmed).await;
            }
            Step::Publish(publish) => self.publish(publish).await,
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
            let lost =
                self.events.iter().any(|event| event.trimmed && event.id > from && event.is_for(client));
            assert!(!(page.whole && lost), "it calls itself whole and is not: {page:?}");
            let provable = self.kept().next().is_none_or(|oldest| from >= oldest.proven_from);
            assert!(page.whole || !provable, "a gap that is none: {page:?}");

            let its = self.clients.entry(client).or_default();
            if mode == Mode::New {
                its.here = true;
                if from > EventId::ZERO {
                    its.confirmed = its.confirmed.max(Some(from));
                }
            }
            its.got.retain(|id| *id <= from);
            its.got.extend(events);
            assert!(its.got.is_sorted_by(|a, b| a < b), "twice, or out of order: {:?}", its.got);
            its.last = page.upto;
            if !page.more {
                assert_eq!(page.upto, page.position);
                return;
            }
            (mode, since) = (Mode::Resume, Some(page.upto));
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
        let in_log = known.is_some_and(|known| self.kept().any(|event| event.id == known));
        if known.is_some() && !in_log {
            return; // beyond the log a key promises nothing
        }
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
        self.append(id, prev, publish);
        self.deliver(id, prev).await;
    }

    fn append(&mut self, id: EventId, prev: EventId, publish: &Publish) {
        if let Some(key) = publish.key {
            self.keys.insert(key, id);
        }
        self.events.push(Known {
            id,
            publish: publish.clone(),
            proven_from: prev,
            trimmed: false,
            collapsed: false,
        });
        let mut kept: Vec<_> =
            self.events.iter_mut().filter(|event| !event.trimmed && !event.collapsed).collect();
        let newest = kept.len() - 1;
        let older =
            |event: &&mut Known| publish.collapse.is_some() && event.publish.collapse == publish.collapse;
        if let Some(at) = kept[..newest].iter().position(older) {
            kept[at].collapsed = true;
            if at == 0 {
                kept[1].proven_from = kept[0].proven_from;
            }
            kept.remove(at);
        }
        if kept.len() > LOG_LENGTH {
            kept[0].trimmed = true;
        }
    }

    /// Whoever is here is told, and takes it because it follows on what it has.
    async fn deliver(&mut self, id: EventId, prev: EventId) {
        let here = self.clients.iter().filter(|(_, its)| its.here).map(|(client, _)| *client);
        for client in here.collect::<Vec<_>>() {
            let hinted = self.stage(client).node.hint_of(id).await;
            assert_eq!((hinted.user.as_str(), hinted.place), (self.user.as_str(), Some((id, prev))));
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

fn run(kind: Kind) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = Options { log_length: LOG_LENGTH, ..Options::default() };
    let stages = runtime.block_on(async {
        let mut stages = vec![kind.stage_with(options).await];
        if kind == Kind::Redis {
            stages.push(stages[0].another("node-2").await);
        }
        stages
    });
    let users = Cell::new(0);
    let config = Config { cases: HISTORIES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        // A user of its own for each history: the engines go on.
        users.set(users.get() + 1);
        let mut history = History::new(&stages, user(&users.get().to_string()));
        runtime.block_on(async {
            for step in &steps {
                history.step(step).await;
            }
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn any_history_keeps_its_word_in_memory() {
    run(Kind::Memory);
}

#[test]
fn any_history_keeps_its_word_in_redis() {
    run(Kind::Redis);
}
