//! The faults. Each happens under load, is over when its function returns, and says who may be told of a gap.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

use crate::clients::{Client, Order};
use crate::crew::Crew;
use crate::ledger::{Gaps, Kind};
use crate::proxy::Way;
use crate::stage::{NODE_TTL, SESSION_TTL};
use crate::support::eventually;
use crate::{deaf, evict};

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillReader,
    KillNode,
    KillAll,
    RollingRestart,
    Upgrade,
    Freeze,
    CutShort,
    CutLong,
    Silence,
    SilenceThenReset,
    RedisRestart,
    RedisLosesData,
    Evict,
    DeafClient,
    DeafInbox,
    UnsteadyClients,
    FightingTabs,
}

use Fault::{
    CutLong, CutShort, DeafClient, DeafInbox, Evict, FightingTabs, Freeze, KillAll, KillNode, KillReader,
    RedisLosesData, RedisRestart, RollingRestart, Silence, SilenceThenReset, UnsteadyClients, Upgrade,
};

impl Fault {
    /// Each of them, but for [`Upgrade`], which needs another program.
    pub const ALL: [Self; 16] = [
        KillReader,
        KillNode,
        RollingRestart,
        Freeze,
        CutShort,
        CutLong,
        Silence,
        SilenceThenReset,
        RedisRestart,
        DeafClient,
        UnsteadyClients,
        FightingTabs,
        DeafInbox,
        Evict,
        KillAll,
        RedisLosesData,
    ];

    /// In words, for the table.
    pub fn name(self) -> &'static str {
        match self {
            KillReader => "kill -9 of the ingress reader",
            KillNode => "kill -9 of a node",
            KillAll => "kill -9 of all nodes",
            RollingRestart => "rolling SIGTERM restart",
            Upgrade => "rolling upgrade from another build, and back",
            Freeze => "SIGSTOP past the lease",
            CutShort => "node cut off, 1.5 s",
            CutLong => "node cut off past the lease",
            Silence => "half-open past the lease, held back",
            SilenceThenReset => "half-open past the lease, then reset",
            RedisRestart => "Redis restarts with its data",
            RedisLosesData => "Redis restarts without its data",
            Evict => "Redis evicts keys and a group",
            DeafClient => "clients that do not read",
            DeafInbox => "a node's inbox falls silent",
            UnsteadyClients => "connections break, ghosts stay",
            FightingTabs => "two tabs with one client id",
        }
    }

    /// Whether every socket stays open.
    pub fn keeps_sockets(self) -> bool {
        matches!(
            self,
            CutShort | CutLong | Silence | SilenceThenReset | RedisRestart | RedisLosesData | DeafInbox
        )
    }

    /// It happens, and is over.
    pub async fn happen(self, crew: &mut Crew) -> Gaps {
        match self {
            KillReader => kill_reader(crew).await,
            KillNode => kill_node(crew).await,
            KillAll => kill_all(crew).await,
            RollingRestart => rolling_restart(crew).await,
            Upgrade => upgrade(crew).await,
            Freeze => freeze(crew).await,
            CutShort => cut(crew, Way::Closed, Duration::from_millis(1500), false).await,
            CutLong => cut(crew, Way::Closed, NODE_TTL + Duration::from_secs(2), false).await,
            Silence => cut(crew, Way::Silent, NODE_TTL + Duration::from_secs(2), false).await,
            SilenceThenReset => cut(crew, Way::Silent, NODE_TTL + Duration::from_secs(2), true).await,
            RedisRestart => redis_restart(crew).await,
            RedisLosesData => return redis_loses_data(crew).await,
            Evict => return evict::happen(crew).await,
            DeafClient => return deaf::clients(crew).await,
            DeafInbox => deaf::inbox(crew).await,
            UnsteadyClients => unsteady(crew).await,
            FightingTabs => fight(crew).await,
        }
        Gaps::None
    }
}

fn any_node(crew: &mut Crew) -> usize {
    crew.rng.usize(..crew.stage.size())
}

/// In the middle of a batch, whatever it holds; the same id comes back at once and has to wait for its own lease.
async fn kill_reader(crew: &mut Crew) {
    let at = crew.stage.ingress_reader().await;
    crew.stage.kill(at);
    crew.stage.healed();
    crew.stage.start_node(at).await;
}

/// The survivors clear up before anything lapses; then it comes back.
async fn kill_node(crew: &mut Crew) {
    let at = any_node(crew);
    crew.stage.kill(at);
    crew.stage.healed();
    let mut db = crew.stage.redis.db().await;
    let suffix = format!("@n{}", at + 1);
    eventually(NODE_TTL + Duration::from_secs(5), "no set that names the dead node", async || {
        for user in 0..crew.scale.users {
            let members = db.members(&format!("user:u{user}")).await;
            if members.iter().any(|member| member.ends_with(&suffix)) {
                return Err(format!("user:u{user}: {members:?}"));
            }
        }
        Ok(())
    })
    .await;
    crew.stage.start_node(at).await;
}

/// Nobody is left to say goodbye for them: the keys lapse, and the edges are told when somebody is back.
async fn kill_all(crew: &mut Crew) {
    for at in 0..crew.stage.size() {
        crew.stage.kill(at);
    }
    let mut db = crew.stage.redis.db().await;
    let mut there = redis::cmd("EXISTS");
    there.arg((0..crew.scale.users).map(|user| format!("user:u{user}")).collect::<Vec<_>>());
    eventually(SESSION_TTL + Duration::from_secs(5), "every user's set to lapse", async || {
        let there: usize = db.run(&there).await;
        if there == 0 { Ok(()) } else { Err(format!("{there} are there")) }
    })
    .await;
    crew.offline = (0..crew.scale.users).collect();
    for at in 0..crew.stage.size() {
        crew.stage.start_node(at).await;
    }
    crew.stage.healed();
}

async fn rolling_restart(crew: &mut Crew) {
    for at in 0..crew.stage.size() {
        crew.stage.terminate(at).await;
        crew.stage.start_node(at).await;
        crew.stage.ready().await;
    }
    crew.stage.healed();
}

/// From this program to the other and back again: every mixture of both, in both directions. One node of each round does
/// not say goodbye, so that each program clears up after the other.
async fn upgrade(crew: &mut Crew) {
    let other = crew.scale.old_program.clone().expect("CHAOS_OLD_BINARY");
    for program in [Some(other), None] {
        for at in 0..crew.stage.size() {
            if at == 1 {
                crew.stage.kill(at);
            } else {
                crew.stage.terminate(at).await;
            }
            match &program {
                Some(other) => crew.stage.start_other(at, other).await,
                None => crew.stage.start_node(at).await,
            }
            crew.stage.ready().await;
            sleep(Duration::from_secs(1)).await;
        }
    }
    crew.stage.healed();
}

/// Half of the time the one that reads the ingress stream.
async fn freeze(crew: &mut Crew) {
    let at = if crew.rng.bool() { crew.stage.ingress_reader().await } else { any_node(crew) };
    crew.stage.node(at).signal(Signal::STOP);
    sleep(NODE_TTL + Duration::from_secs(2)).await;
    crew.stage.node(at).signal(Signal::CONT);
    crew.stage.healed();
}

async fn cut(crew: &mut Crew, way: Way, length: Duration, reset: bool) {
    let at = if crew.rng.bool() { crew.stage.ingress_reader().await } else { any_node(crew) };
    crew.stage.proxies[at].set(way);
    sleep(length).await;
    if reset {
        crew.stage.proxies[at].set(Way::Closed);
        sleep(Duration::from_millis(100)).await;
    }
    crew.stage.proxies[at].set(Way::Open);
    crew.stage.healed();
}

/// Half of the time for longer than the nodes' leases, sometimes longer than all that is kept of users.
async fn redis_restart(crew: &mut Crew) {
    crew.stage.redis.kill();
    sleep(Duration::from_millis(500 + crew.rng.u64(..9_000))).await;
    crew.stage.redis.start_again().await;
    crew.stage.healed();
}

async fn redis_loses_data(crew: &mut Crew) -> Gaps {
    crew.stage.redis.lose_data();
    sleep(Duration::from_millis(crew.rng.u64(..2_000))).await;
    crew.stage.redis.start_again().await;
    crew.stage.healed();
    Gaps::All
}

/// Networks that come and go, with old connections that nobody notices. One user goes away with all sessions.
async fn unsteady(crew: &mut Crew) {
    let gone = crew.rng.usize(..crew.scale.users);
    let sessions = crew.clients.iter().filter(|client| client.session.0 == gone);
    sessions.for_each(|client| client.order(Order::Away(Duration::from_secs(4))));
    let mut db = crew.stage.redis.db().await;
    for _ in 0..200 {
        let client = crew.rng.usize(..crew.clients.len());
        if crew.clients[client].session.0 == gone {
            continue;
        }
        let order = match crew.rng.u32(..4) {
            0 => Order::Break,
            // Longer than ping and pong take, and shorter.
            1 => Order::Ghost(Duration::from_millis(crew.rng.u64(..12_000))),
            2 => Order::Deaf(Duration::from_millis(crew.rng.u64(..2_000))),
            _ => Order::Away(Duration::from_millis(crew.rng.u64(..3_000))),
        };
        crew.clients[client].order(order);
        sleep(Duration::from_millis(20)).await;
        if crew.offline.is_empty() && !db.exists(&format!("user:u{gone}")).await {
            crew.offline.push(gone);
        }
    }
    sleep(Duration::from_secs(3)).await;
    crew.stage.healed();
}

/// Each thinks that it is the one; between them they see everything.
async fn fight(crew: &mut Crew) {
    for _ in 0..5 {
        let at = crew.rng.usize(..crew.clients.len());
        if crew.clients[at].kind == Kind::Stable {
            let session = crew.clients[at].session;
            let seed = crew.rng.u64(..);
            crew.intruders.push(Client::start(session, Kind::Stable, crew.stage.addresses.clone(), seed));
        }
    }
    sleep(Duration::from_secs(3)).await;
    // One of each pair gives in; what it saw counts.
    crew.intruders.iter().for_each(Client::stop);
    crew.stage.healed();
}
