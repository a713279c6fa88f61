//! A Redis Cluster: which master has which slot, and sending each command to its own.
//!
//! A command that was redirected has not been carried out and is sent again, to whom the Cluster names; one whose
//! connection broke may have been, and is never repeated here. A master that fails is refused at once from then on,
//! and alone: what lies on the others goes on. `keep` looks for it, or for its successor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{self, Arc};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, ConnectionInfo, ErrorKind, Pipeline, RedisError, ServerErrorKind};
use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::connection::at;
use super::keys::Keys;
use super::map::{At, Map, NOBODY, Range, name, nobody, view};
use super::server::{Options, Place, Server};
use super::slot::{SLOTS, Slot};
use super::wire::{Outcome, outage};
use crate::lock::lock;

/// How often a command is sent that the Cluster turns away. With the pauses below that bears a slot's move of 2 s.
const ROUNDS: u32 = 10;
/// The longest pause before it is sent again.
const PAUSE: Duration = Duration::from_millis(320);
/// How often a master that does not answer is looked for.
const LOOK: Duration = Duration::from_millis(150);
/// How often the map is drawn anew where nothing is wrong.
const REDRAW: Duration = Duration::from_secs(30);

/// The Cluster.
pub struct Cluster {
    seeds: Vec<ConnectionInfo>,
    options: Options,
    keys: Keys,
    /// Of the node's own keys.
    home: Slot,
    map: sync::Mutex<Arc<Map>>,
    /// Holds why nobody told the map when it was last drawn, where nobody did.
    drawing: Mutex<Option<String>>,
    drawn: AtomicU64,
    look: Notify,
}

impl Cluster {
    /// A Cluster of which `seeds` are known. Connects to nothing yet.
    pub fn new(seeds: Vec<ConnectionInfo>, options: Options, keys: Keys, home: Slot) -> Self {
        let map = Map { servers: Vec::new(), owners: vec![NOBODY; SLOTS], members: Vec::new() };
        Self {
            seeds,
            options,
            keys,
            home,
            map: sync::Mutex::new(Arc::new(map)),
            drawing: Mutex::default(),
            drawn: AtomicU64::new(0),
            look: Notify::new(),
        }
    }

    /// Who has which slot, as far as is known.
    pub fn map(&self) -> Arc<Map> {
        lock(&self.map).clone()
    }

    /// The slot of the node's own keys.
    pub fn home(&self) -> Slot {
        self.home
    }

    /// How many masters there are.
    pub fn masters(&self) -> usize {
        self.map().servers.len()
    }

    /// The names of the masters that were doubted since this was last asked.
    pub fn doubted(&self) -> Vec<String> {
        let map = self.map();
        map.servers.iter().filter(|server| server.was_doubted()).map(|server| server.name.clone()).collect()
    }

    /// The master that has a slot, whether it answers or not.
    ///
    /// # Errors
    /// Where nobody has it.
    pub async fn owner(&self, slot: Slot) -> Result<Arc<Server>, RedisError> {
        if let Some(server) = self.map().owner(slot) {
            return Ok(server.clone());
        }
        let why = self.draw().await;
        self.map().owner(slot).cloned().ok_or_else(|| {
            self.look.notify_one();
            nobody(why)
        })
    }

    async fn up(&self, slot: Slot) -> Result<Arc<Server>, RedisError> {
        let server = self.owner(slot).await?;
        if server.is_up() {
            Ok(server)
        } else {
            Err((ErrorKind::Io, "this part of the Cluster is away", server.trouble()).into())
        }
    }

    /// Marks a master as away; true where that is the one with the node's own keys.
    pub fn suspect(&self, server: &Server) -> bool {
        if !server.suspect() {
            return false;
        }
        debug!(server = %server.name, "a master of the Cluster does not answer");
        self.look.notify_one();
        self.map().is_on(self.home, &server.name)
    }

    /// The map may be out of date.
    pub fn redraw(&self) {
        self.look.notify_one();
    }

    /// Sends each command to the master that has its slot; those for one master keep their order. Also why
    /// the master with the node's own keys failed, if it did.
    pub async fn send(&self, pipeline: &Pipeline, durable: bool) -> (Vec<Outcome>, Option<RedisError>) {
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(commands.len());
        outcomes.resize_with(commands.len(), || Err((ErrorKind::Io, "Redis gave no answer").into()));
        let mut pending: Vec<usize> = (0..commands.len()).collect();
        let mut home_failed = None;
        for round in 0..ROUNDS {
            let mut parts: Vec<(Arc<Server>, Vec<usize>, Pipeline)> = Vec::new();
            for place in pending.drain(..) {
                let slot = Slot::of_command(commands[place]).unwrap_or(self.home);
                match self.up(slot).await {
                    Ok(server) => {
                        let known = parts.iter().position(|(known, ..)| known.name == server.name);
                        let at = known.unwrap_or_else(|| {
                            parts.push((server, Vec::new(), redis::pipe()));
                            parts.len() - 1
                        });
                        parts[at].1.push(place);
                        parts[at].2.add_command(commands[place].clone());
                    }
                    Err(error) => outcomes[place] = Err(error),
                }
            }
            let answers = join_all(parts.iter().map(|(server, _, part)| server.send(part, durable))).await;
            let mut moved = false;
            for ((server, places, _), answers) in parts.iter().zip(answers) {
                if let Some(error) = outage(&answers)
                    && self.suspect(server)
                {
                    home_failed = Some(error.clone());
                }
                for (place, mut answer) in places.iter().zip(answers) {
                    if let Some(target) = turned(&answer, ServerErrorKind::Ask) {
                        answer = self.ask(&target, &server.name, commands[*place], durable).await;
                    }
                    if turned(&answer, ServerErrorKind::Moved).is_some() {
                        moved = true;
                        pending.push(*place);
                    } else if turned(&answer, ServerErrorKind::TryAgain).is_some() {
                        pending.push(*place);
                    }
                    outcomes[*place] = answer;
                }
            }
            if pending.is_empty() {
                break;
            }
            pending.sort_unstable();
            if moved {
                self.draw().await;
            }
            if round > 0 || !moved {
                sleep((Duration::from_millis(10) * 2u32.pow(round)).min(PAUSE)).await;
            }
        }
        (outcomes, home_failed)
    }

    /// A slot on its way to another master: that one is asked for this command alone.
    async fn ask(&self, target: &str, from: &str, command: &Cmd, durable: bool) -> Outcome {
        let Some((host, port)) = place(target, from) else {
            return Err((ErrorKind::Io, "a redirection without an address").into());
        };
        let map = self.map();
        let name = name(&host, port);
        let server = match map.servers.iter().find(|server| server.name == name) {
            Some(server) => server.clone(),
            None => Arc::new(self.server(&(host, port))?),
        };
        server.ask(command, durable).await
    }

    fn server(&self, (host, port): &At) -> Result<Server, RedisError> {
        let seed = self.seeds.first().ok_or((ErrorKind::InvalidClientConfig, "a Cluster without seeds"))?;
        let place = Place::Fixed(at(seed, host, *port));
        Ok(Server::new(&name(host, *port), place, self.options.clone()))
    }

    /// Looks for masters that do not answer and for those that take their place; never ends.
    pub async fn keep(&self) {
        loop {
            let map = self.map();
            let well = !map.servers.is_empty() && map.servers.iter().all(|server| server.is_up());
            let pause = if well { REDRAW } else { LOOK.mul_f64(0.5 + fastrand::f64()) };
            if !well {
                sleep(pause).await;
            } else if timeout(pause, self.look.notified()).await.is_err() {
                debug!("looking at the Cluster's map");
            }
            self.draw().await;
            let map = self.map();
            // Where all is well they are looked at as well, every now and then: one may have lost its data.
            let asked = map.servers.iter().filter(|server| well || !server.is_up());
            join_all(asked.map(|server| self.look_at(&map, server))).await;
        }
    }

    /// Asks a master whether it is there, and tells it where that is news.
    async fn look_at(&self, map: &Map, server: &Server) {
        let was_up = server.is_up();
        let name = &server.name;
        match server.probe().await {
            Ok(()) if lock(&server.away).end() => {
                info!(server = %name, "a master of the Cluster answers again")
            }
            Ok(()) if was_up => {}
            Ok(()) => debug!(server = %name, "a master of the Cluster answers again"),
            // One connection may be broken, or its replica about to take over: it is away where a command has met it as well.
            Err(error) if was_up || server.is_up() => {
                debug!(server = %name, %error, "a master of the Cluster could not be looked at");
            }
            Err(error) => {
                match self.is_news(map, server, &error).then(|| lock(&server.away).again()).flatten() {
                    Some(times) => warn!(
                        server = %name, %error, times,
                        "a master of the Cluster is away: publishing is refused for its users, retrying"
                    ),
                    None => debug!(server = %name, %error, "a master of the Cluster is away"),
                }
            }
        }
    }

    /// Whether nobody else tells why this master cannot be used: of the one with the node's own keys it is told that Redis
    /// cannot be used. And one that answers that the Cluster is down may well say that because another one is away.
    fn is_news(&self, map: &Map, server: &Server, error: &RedisError) -> bool {
        let home = map.owner(self.home);
        if home.is_some_and(|home| home.name == server.name) {
            return false;
        }
        let mut others = map.servers.iter().filter(|other| other.name != server.name);
        let is_told =
            home.is_some_and(|home| !home.is_up()) || others.any(|other| lock(&other.away).is_told());
        let is_down = error.kind() == ErrorKind::Server(ServerErrorKind::ClusterDown);
        !(is_down && is_told)
    }

    /// Asks every known member who has which slot, and believes what most of them say. Where none says, one's reason.
    async fn draw(&self) -> Option<String> {
        let seen = self.drawn.load(Ordering::Acquire);
        let mut trouble = self.drawing.lock().await;
        if self.drawn.load(Ordering::Acquire) != seen {
            return trouble.clone(); // somebody else has just done it
        }
        let old = self.map();
        let mut asked: Vec<ConnectionInfo> = self.seeds.clone();
        if let Some(seed) = self.seeds.first() {
            asked.extend(old.members.iter().map(|(host, port)| at(seed, host, *port)));
        }
        asked.sort_by_key(|info| info.addr().to_string());
        asked.dedup_by_key(|info| info.addr().to_string());
        let mut views: BTreeMap<Vec<Range>, (usize, Vec<At>)> = BTreeMap::new();
        let mut failed = None;
        let asking = asked.iter().map(|info| view(self.options.login.server(info.clone())));
        let seen = join_all(asking).await;
        for (info, view) in asked.iter().zip(seen) {
            match view {
                Ok((ranges, members)) => views.entry(ranges).or_insert((0, members)).0 += 1,
                Err(error) => failed = Some(format!("{}: {error}", info.addr())),
            }
        }
        *trouble = failed.filter(|_| views.is_empty());
        if let Some((ranges, (_, members))) = views.into_iter().max_by_key(|(_, (votes, _))| *votes)
            && let Ok(map) = self.chart(&old, &ranges, members)
        {
            let fresh = map.servers.iter().filter(|server| !server.is_up() && server.whole_since().is_none());
            join_all(fresh.map(|server| self.look_at(&map, server))).await;
            *lock(&self.map) = Arc::new(map);
            // Whoever waits for doubts may have looked for the server's in the map before.
            self.options.doubts.notify_one();
        }
        // Nothing is sent to a master that has not answered here, so that nobody else would find it away, and look for it.
        if self.map().servers.iter().any(|server| !server.is_up()) {
            self.look.notify_one();
        }
        self.drawn.fetch_add(1, Ordering::AcqRel);
        trouble.clone()
    }

    fn chart(&self, old: &Map, ranges: &[Range], members: Vec<At>) -> Result<Map, RedisError> {
        let mut map = Map { servers: Vec::new(), owners: vec![NOBODY; SLOTS], members };
        for (first, last, master) in ranges {
            let name = name(&master.0, master.1);
            let known = map.servers.iter().position(|server| server.name == name);
            let owner = match known {
                Some(at) => at,
                None => {
                    let server = match old.servers.iter().find(|server| server.name == name) {
                        Some(server) => server.clone(),
                        None => {
                            info!(server = %name, "a master of the Cluster");
                            let server = Arc::new(self.server(master)?);
                            server.doubt();
                            server
                        }
                    };
                    map.servers.push(server);
                    map.servers.len() - 1
                }
            };
            let owner = u16::try_from(owner).unwrap_or(NOBODY);
            for slot in map.owners.iter_mut().take(usize::from(*last) + 1).skip(usize::from(*first)) {
                *slot = owner;
            }
        }
        for (at, server) in map.servers.iter().enumerate() {
            // The same mark for every node that has the same map.
            let marks = (0..).map(|number| self.keys.mark(number));
            let mine =
                |mark: &String| usize::from(map.owners[usize::from(Slot::of(mark.as_bytes()).0)]) == at;
            if let Some(mark) = marks.take(1 << 20).find(mine)
                && server.set_mark(mark)
            {
                server.suspect(); // its data are looked at before anything is believed
            }
        }
        Ok(map)
    }
}

/// Host and port of a redirection; without a host it is the one that redirects.
fn place(target: &str, from: &str) -> Option<At> {
    let (host, port) = target.rsplit_once(':')?;
    let host = if host.is_empty() { from.rsplit_once(':')?.0 } else { host };
    Some((host.to_owned(), port.parse().ok()?))
}

/// Where a command was turned away in this manner: the address that goes with it.
fn turned(outcome: &Outcome, manner: ServerErrorKind) -> Option<String> {
    let error = outcome.as_ref().err()?;
    let target = error.redirect_node().map(|(address, _)| address.to_owned()).unwrap_or_default();
    (error.kind() == ErrorKind::Server(manner)).then_some(target)
}

#[cfg(test)]
mod tests;
