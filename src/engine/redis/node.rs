//! The node's own lease, and clearing up after nodes whose lease has lapsed.
//!
//! Whoever clears up after a dead node first claims its id, under its own boot id and with an empty version. So
//! one survivor does it, and a process that starts with that id waits the moment until it is done.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::cmd;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::forget::{Forgotten, forget};
use super::beside::Started;
use super::keys::EVENTS;
use super::{
    Context, beside, eviction, format, inbox, ms, presence, publish, refused, reply, scripts, sessions,
    status, traces,
};
use crate::engine::{Claim, Unavailable};
use crate::id::{NodeId, UserId};
use crate::lock::lock;

/// A consumer of the ingress group with this prefix carries the Unix ms at which the data set was first seen: it
/// goes where the data goes, and needs no key of its own.
const BIRTH: &str = "since-";
/// How fine scripts tell the time.
const MS: Duration = Duration::from_millis(1);

/// What this process knows of its claims on its node id.
#[derive(Default)]
pub struct Claims {
    /// It has had the id before, and served.
    held_before: AtomicBool,
    /// An earlier process has been cleared up after, and the claim has not lapsed since.
    cleared_up: AtomicBool,
    /// When some user could last not be cleared up after, and why.
    failed: Mutex<Option<(Instant, Unavailable)>>,
    /// When it first had the id, by the clock of Redis, Unix ms; 0 before. The lease may be lost, and the keys with it; how
    /// long the process is up does not change by that.
    started: AtomicI64,
}

impl Claims {
    /// Clears up after an earlier process. Where some users could not be done a moment ago, all of them wait: a claim is
    /// tried again many times a second, and a master of a Cluster may be away for long.
    async fn forget(&self, context: &Context, goes_on: bool, users: i64) -> Result<Forgotten, Unavailable> {
        let pause = (context.config.node_ttl / 3).min(Duration::from_secs(1));
        let lately = |(at, _): &(Instant, Unavailable)| goes_on && at.elapsed() < pause;
        if let Some((_, error)) = lock(&self.failed).clone().filter(lately) {
            return Err(error);
        }
        info!(users, "clearing up after an earlier process with this node id");
        let forgotten = forget(context, &context.config.node).await;
        *lock(&self.failed) = forgotten.as_ref().err().map(|error| (Instant::now(), error.clone()));
        forgotten
    }
}

/// How long it is remembered whom nodes served, should all of them go: whoever is back first tells who is offline.
pub fn kept(context: &Context) -> Duration {
    let config = &context.config;
    config.log_ttl.max(config.session_ttl) + config.node_ttl
}

fn node_keys(context: &Context, call: &mut redis::Cmd, node: &NodeId) {
    call.arg(context.keys.node(node.as_str()))
        .arg(context.keys.inbox(node.as_str()))
        .arg(context.keys.users(node));
}

/// What `claim.lua` answers.
struct Taken {
    claim: Claim,
    /// The claim goes on from before.
    goes_on: bool,
    now: i64,
    left: i64,
}

async fn take(context: &Context, node: &NodeId, version: &str) -> Result<Taken, Unavailable> {
    let mut call = scripts::call(&scripts::CLAIM, 3, 9);
    node_keys(context, &mut call, node);
    call.arg(&context.config.boot)
        .arg(ms(context.config.node_ttl))
        .arg(ms(context.config.session_ttl))
        .arg(version)
        .arg(&context.config.client_url)
        .arg(&context.config.worker_url)
        .arg(ms(kept(context)))
        .arg(format::FORMAT)
        .arg(context.claims.started.load(Ordering::Acquire));
    let asked = Instant::now();
    let answer = reply::array(context.link.probe_one(call).await?)?;
    let [held, now_or_ttl, left_or_version] = answer.as_slice() else {
        return Err(Unavailable::new("claim.lua answered with another shape"));
    };
    let number = reply::integer(now_or_ttl)?;
    let held = reply::integer(held)?;
    if held > 0 {
        context.metrics.clock.told(asked, number.saturating_mul(1000), MS);
        let left = reply::integer(left_or_version)?;
        return Ok(Taken { claim: Claim::Held, goes_on: held > 1, now: number, left });
    }
    let ttl = Duration::from_millis(u64::try_from(number).unwrap_or_default());
    let claim = if reply::text(left_or_version)?.is_empty() { Claim::ClearingUp } else { Claim::Taken(ttl) };
    Ok(Taken { claim, goes_on: false, now: 0, left: 0 })
}

/// Claims this node's id, and clears up after whoever had it before.
///
/// # Errors
/// Where Redis is away.
pub async fn claim(context: &Arc<Context>) -> Result<Claim, Unavailable> {
    let node = &context.config.node;
    let claims = &context.claims;
    context.refused.take(); // what was refused by then is told as what keeps the lease away
    if !claims.held_before.load(Ordering::Acquire)
        && let Some(stranger) = format::stranger(context).await?
    {
        return Ok(Claim::OtherFormat(stranger));
    }
    let asked = Instant::now();
    let Taken { claim, goes_on, now, left } = take(context, node, env!("CARGO_PKG_VERSION")).await?;
    if claim != Claim::Held {
        // Nothing may be done in this id's name until it is ours again.
        context.link.distrust();
        return Ok(claim);
    }
    let _ = claims.started.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    if !context.link.is_cluster() {
        context.link.set_whole_since(data_set_birth(context, now).await?);
    }
    // Where this process had the id before, the sessions are its own, and register anew.
    let cleared_up = goes_on && claims.cleared_up.load(Ordering::Acquire);
    if !claims.held_before.load(Ordering::Acquire) && !cleared_up && left > 0 {
        claims.cleared_up.store(false, Ordering::Release);
        // Of whom only `presence` does not know yet, their sets are right, and it is told of them while this node serves.
        if let Forgotten::Anothers = claims.forget(context, goes_on, left).await? {
            return Ok(Claim::ClearingUp);
        }
        claims.cleared_up.store(true, Ordering::Release);
        // The lease was renewed meanwhile, but counts from when it was asked for: claimed once more, it lasts.
        if asked.elapsed() >= context.config.node_ttl / 3 {
            return Ok(Claim::ClearingUp);
        }
    }
    // Only now: what has failed is left to the next claim, and nobody registers before that.
    claims.held_before.store(true, Ordering::Release);
    show_life(context).await?;
    context.link.trust(asked + context.config.node_ttl);
    context.refused.renewed(true);
    let on = context.clone();
    let looked = beside::start(&context.beside.eviction, async move { eviction::look(&on).await });
    beside::wait(context, announce(context, now).into_iter().chain([looked])).await;
    Ok(claim)
}

/// Renews the claim.
///
/// # Errors
/// Where Redis is away.
pub async fn beat(context: &Arc<Context>, sessions: usize, users: usize) -> Result<bool, Unavailable> {
    let (asked, mut refused) = (Instant::now(), context.refused.take());
    let renewed = match renew(context, &context.config.node, sessions).await {
        Ok(Some(renewed)) => show_life(context).await.map(|()| Some(renewed)),
        other => other,
    };
    let as_before = context.refused.renewed(renewed.is_ok());
    if !as_before {
        refused.clear(); // what lasts comes again
    }
    let Some((now, served)) = renewed? else {
        context.link.distrust(); // as where a claim finds it taken
        return Ok(false);
    };
    context.metrics.clock.told(asked, now.saturating_mul(1000), MS);
    let suspicion = context.link.trust(asked + context.config.node_ttl);
    context.refused.tell_short(suspicion.filter(|_| as_before));
    sessions::look_at_served(context, users, served);
    presence::look(context);
    let on = context.clone();
    let told = beside::start(&context.beside.refused, async move { refused::tell(&on, refused).await });
    let on = context.clone();
    let mended = beside::start(&context.beside.owed, async move { mend(&on).await });
    beside::wait(context, announce(context, now).into_iter().chain([mended, told])).await;
    Ok(true)
}

/// Renews the claim on an id: this node's own, or that of one it clears up after. Redis' clock in Unix ms, and how many
/// users are on its list, or why that is no list; none where the claim was lost.
async fn renew(
    context: &Context,
    node: &NodeId,
    sessions: usize,
) -> Result<Option<(i64, Result<i64, Unavailable>)>, Unavailable> {
    let mut call = scripts::call(&scripts::BEAT, 3, 5);
    node_keys(context, &mut call, node);
    call.arg(&context.config.boot)
        .arg(ms(context.config.node_ttl))
        .arg(ms(context.config.session_ttl))
        .arg(sessions)
        .arg(ms(kept(context)));
    match reply::array(context.link.probe_one(call).await?)?.as_slice() {
        [] => Ok(None),
        [now, served] => Ok(Some((reply::integer(now)?, reply::count(served)))),
        _ => Err(Unavailable::new("beat.lua answered with another shape")),
    }
}

/// Puts a sign of life into the node's inbox.
async fn show_life(context: &Context) -> Result<(), Unavailable> {
    let asked = Instant::now();
    context.link.probe_one(inbox::life(context)).await?;
    context.pulse.sent(asked);
    Ok(())
}

/// Tells the others, and asks what concerns all of them, beside the lease: on a Cluster the masters that have those keys
/// may be away while the node's own is not.
fn announce(context: &Arc<Context>, now: i64) -> [Option<Started>; 2] {
    let (for_list, for_traced) = (context.clone(), context.clone());
    let listed = async move { list_itself(&for_list, now).await };
    let followed = async move {
        if let Err(error) = traces::refresh(&for_traced, now).await {
            debug!(%error, "who is followed cannot be looked up");
        }
    };
    [beside::start(&context.beside.list, listed), beside::start(&context.beside.traced, followed)]
}

/// Puts the node on the list of live ones. Whoever takes it for dead where that fails finds its lease.
async fn list_itself(context: &Context, now: i64) {
    let config = &context.config;
    let lease_end = now.saturating_add(i64::try_from(ms(config.node_ttl)).unwrap_or(i64::MAX));
    let mut commands = redis::pipe();
    commands.cmd("ZADD").arg(context.keys.nodes()).arg(lease_end).arg(config.node.as_str());
    commands.cmd("PEXPIRE").arg(context.keys.nodes()).arg(ms(kept(context)));
    for listed in context.link.probe_each(&commands).await {
        if let Err(error) = context.refused.hear("to list this node", listed) {
            debug!(%error, "the list of nodes was not renewed");
        }
    }
}

async fn mend(context: &Context) {
    if let Err(error) = publish::mend(context).await {
        debug!(%error, "nodes that were not told of events have still not been; the next beat tries again");
    }
}

/// Gives the id back.
///
/// # Errors
/// Where Redis is away: then the keys lapse by themselves.
pub async fn release(context: &Context) -> Result<(), Unavailable> {
    // Whom Redis did not hear leave.
    if let Forgotten::Untold = forget(context, &context.config.node).await? {
        return Err(Unavailable::new(
            "`presence` has not been told of all who left: that is left to another node",
        ));
    }
    // A beat that still puts the node on the list must not do that after it was taken off.
    let _listed = context.beside.list.lock().await;
    let_go(context, &context.config.node).await
}

async fn let_go(context: &Context, node: &NodeId) -> Result<(), Unavailable> {
    // In this order: once the id is given back, who claims it puts it on the list again. Who has claimed it stays there.
    if renew(context, node, 0).await?.is_none() {
        return Ok(());
    }
    let mut list = cmd("ZREM");
    list.arg(context.keys.nodes()).arg(node.as_str());
    context.link.probe_one(list).await?;
    let mut call = scripts::call(&scripts::RELEASE, 3, 1);
    node_keys(context, &mut call, node);
    call.arg(&context.config.boot);
    context.link.probe_one(call).await.map(drop)
}

/// Clears up after every node whose lease has lapsed. Says whether any has lapsed since this was last asked, whoever
/// clears up after it.
///
/// # Errors
/// Where Redis is away, or does not know who is live.
pub async fn clear_up(context: &Context) -> Result<bool, Unavailable> {
    let list = context.keys.nodes();
    let asked = Instant::now();
    let now_us = context.link.clock(&list).await?;
    if !context.link.is_cluster() {
        context.metrics.clock.told(asked, now_us, Duration::from_micros(1));
    }
    if context.deaths.rests() {
        return Ok(false);
    }
    let now = now_us / 1000;
    let leases = status::leases(context).await?;
    for (dead, _) in leases.iter().filter(|(_, end)| **end <= now) {
        let Ok(dead) = dead.parse::<NodeId>() else { continue };
        if dead == context.config.node {
            continue;
        }
        // One that cannot be cleared up after, because of the master that its keys are on, holds up no other.
        if let Err(error) = clear_up_after(context, &dead).await
            && let Some(times) = context.deaths.failed(dead.as_str())
        {
            warn!(%dead, %error, times, "a dead node was not cleared up after: a later round, or another node, goes on");
        }
    }
    Ok(context.deaths.look(leases, now, ms(context.config.node_ttl)))
}

async fn clear_up_after(context: &Context, dead: &NodeId) -> Result<(), Unavailable> {
    if take(context, dead, "").await?.claim != Claim::Held {
        return Ok(());
    }
    if context.deaths.begins(dead.as_str()) {
        warn!(%dead, "a node's lease has lapsed: clearing up after it");
    }
    if let Forgotten::All = forget(context, dead).await? {
        let_go(context, dead).await?;
    }
    context.deaths.finished(dead.as_str());
    Ok(())
}

/// Whom a node serves, by its list.
///
/// # Errors
/// Where Redis is away.
pub async fn users_of(context: &Context, node: &NodeId) -> Result<Vec<UserId>, Unavailable> {
    let mut served = cmd("SMEMBERS");
    served.arg(context.keys.users(node));
    let mut users = Vec::new();
    for user in reply::array(context.link.probe_one(served).await?)? {
        users.extend(reply::text(&user)?.parse::<UserId>());
    }
    Ok(users)
}

/// Since when this data set is known to be whole: as long as the ingress group is there, or from now on.
async fn data_set_birth(context: &Context, now: i64) -> Result<u64, Unavailable> {
    let mut group = cmd("XGROUP");
    group.arg("CREATE").arg(ingress(context)).arg("switchboard").arg("0").arg("MKSTREAM");
    match context.link.probe_one(group).await {
        // Whoever is to read the stream tells of it, and all else goes on.
        Err(error) if refused::is_wrong_type(&error) => return Ok(u64::try_from(now).unwrap_or_default()),
        Err(error) if !error.reason.contains("BUSYGROUP") => return Err(error),
        _ => {} // BUSYGROUP: it is there already
    }
    let mut consumers = cmd("XINFO");
    consumers.arg("CONSUMERS").arg(ingress(context)).arg("switchboard");
    let mut born = None;
    for consumer in reply::items(context.link.probe_one(consumers).await?)? {
        let name = reply::field(&consumer, "name").map(reply::text).transpose()?.unwrap_or_default();
        // The latest counts, where two nodes saw the new data set at once.
        born = born.max(name.strip_prefix(BIRTH).and_then(|ms| ms.parse::<u64>().ok()));
    }
    if let Some(born) = born {
        return Ok(born);
    }
    let mut consumer = cmd("XGROUP");
    consumer.arg("CREATECONSUMER").arg(ingress(context)).arg("switchboard").arg(format!("{BIRTH}{now}"));
    context.link.probe_one(consumer).await?;
    Ok(u64::try_from(now).unwrap_or_default())
}

/// The stream whose group carries the birth of the data set: the first of them.
fn ingress(context: &Context) -> String {
    let first = context.config.ingress.first().map_or(EVENTS, String::as_str);
    context.keys.ingress(first)
}

mod forget;

#[cfg(test)]
mod tests;
