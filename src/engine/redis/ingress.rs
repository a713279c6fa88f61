//! The ingress streams: whoever can `XADD` can publish.
//!
//! One process at a time reads each (a lease in Redis says which), so entries of one user keep their order,
//! whichever nodes come and go. It does one batch after the other and goes on only when a batch is in the logs:
//! what its predecessor left pending comes first. Each event carries its entry's id into the user's log state, so
//! that an entry that is read twice is published once.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, cmd};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::entry::{parse, per_user};
use super::publish::{self, Entry};
use super::reads::Read;
use super::turns::Turn;
use super::wire::send;
use super::{Context, inbox, ms, reply, scripts, sessions};
use crate::engine::{Event, Unavailable};
use crate::metrics::Via;

/// Reads one ingress stream whenever it is this process's turn, until `wanted` turns false.
pub async fn read(context: Arc<Context>, stream: String, mut wanted: watch::Receiver<bool>) {
    let ttl = context.config.node_ttl;
    let mut turn = Turn::default();
    while *wanted.borrow_and_update() {
        if context.link.is_up() && context.turns.may_take(&context, &mut turn).await {
            match lead(&context, &stream, ttl).await {
                Ok(true) => {
                    context.turns.taken(&mut turn, ttl);
                    info!(node = %context.config.node, stream, "reading the ingress stream");
                    match Reader::serve(&context, &stream, &mut turn, &wanted).await {
                        Err(Stopped::GivenAway) => {
                            debug!(stream, "another node may read this ingress stream")
                        }
                        Err(error) => {
                            context.turns.ended();
                            debug!(%error, "the ingress stream cannot be read now");
                        }
                        Ok(()) => context.turns.ended(),
                    }
                    if let Err(error) = lead(&context, &stream, Duration::ZERO).await {
                        debug!(%error, "the ingress lease was not given back and will lapse");
                    }
                }
                Ok(false) => context.turns.missed(&mut turn),
                Err(error) => debug!(%error, "the ingress lease cannot be had now"),
            }
        }
        // A standby looks every third of the lease, with jitter, so that not all ask at once.
        let pause = (ttl / 3).min(Duration::from_secs(1)).mul_f64(0.5 + fastrand::f64() / 2.0);
        let _ = timeout(pause, wanted.changed()).await;
    }
}

async fn lead(context: &Context, stream: &str, ttl: Duration) -> Result<bool, Unavailable> {
    let mut call = scripts::call(&scripts::LEAD, 1, 3);
    call.arg(context.keys.ingress(stream))
        .arg(context.config.node.as_str())
        .arg(&context.config.boot)
        .arg(ms(ttl));
    Ok(reply::integer(&context.link.run_one(call).await?)? == 1)
}

struct Reader<'a> {
    context: &'a Context,
    connection: MultiplexedConnection,
    /// As `--ingress` names it.
    name: &'a str,
    /// Its key.
    stream: String,
    /// Entries of the next read.
    read: Read,
    /// Until when this process may publish what it has read.
    lease_end: Instant,
    turn: &'a mut Turn,
}

/// An entry that cannot be routed, by its id, and why.
type Bad<'a> = (&'a str, String);

#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("the ingress lease went to another process")]
    LeaseLost,
    #[error("another node has fewer streams to read")]
    GivenAway,
}

impl<'a> Reader<'a> {
    async fn serve(
        context: &'a Context,
        name: &'a str,
        turn: &'a mut Turn,
        wanted: &watch::Receiver<bool>,
    ) -> Result<(), Stopped> {
        let stream = context.keys.ingress(name);
        let mut reader = Reader {
            context,
            connection: context.link.dedicated(&stream).await?,
            name,
            stream,
            read: Read::default(),
            lease_end: Instant::now() + context.config.node_ttl,
            turn,
        };
        loop {
            let outcome = reader.run(wanted).await;
            match outcome {
                // Deleted, flushed or evicted: it is made again from the start, and entries are known by their ids.
                Err(Stopped::Redis(error)) if inbox::is_lost(&error) => {
                    warn!("the ingress stream or its group was gone and is made anew");
                    sleep(Duration::from_millis(50)).await;
                    reader.renew().await?;
                }
                Err(Stopped::Redis(error)) => {
                    context.link.broke(&reader.stream, &error);
                    return Err(error.into());
                }
                other => return other,
            }
        }
    }

    async fn run(&mut self, wanted: &watch::Receiver<bool>) -> Result<(), Stopped> {
        self.take_over().await?;
        // Short enough that the lease is renewed in time and that a drain need not wait.
        let block = (self.context.config.node_ttl / 6).min(Duration::from_millis(500));
        // What has been handled is gone from the stream.
        let mut handled = "0-0".to_owned();
        while *wanted.borrow() {
            if self.renew_in_time().await? && self.context.turns.give_away(self.context, self.turn).await {
                return Err(Stopped::GivenAway);
            }
            let entries = self.take().await?;
            if entries.is_empty() {
                self.wait(&mut handled, block).await?;
            } else if let Some((last, _)) = entries.last() {
                handled.clone_from(last);
                self.route(entries).await?;
            }
        }
        Ok(())
    }

    /// The entries that come next.
    async fn take(&self) -> Result<Vec<reply::Entry>, Stopped> {
        let mut call = scripts::call(&scripts::TAKE, 1, 3);
        call.arg(&self.stream)
            .arg(self.context.config.node.as_str())
            .arg(&self.context.config.boot)
            .arg(self.read.most());
        match self.context.link.run_one(call).await? {
            redis::Value::Nil => Err(Stopped::LeaseLost),
            entries => Ok(reply::entries(entries)?),
        }
    }

    /// Waits for an entry after `handled`, without taking it.
    async fn wait(&mut self, handled: &mut String, block: Duration) -> Result<(), Stopped> {
        let mut look = cmd("XREAD");
        look.arg("COUNT").arg(1).arg("BLOCK").arg(ms(block)).arg("STREAMS").arg(&self.stream).arg(&*handled);
        if let Some((seen, _)) = reply::read(self.ask(look, block).await?)?.pop() {
            *handled = seen;
        }
        Ok(())
    }

    /// Runs one command that may wait for `block`; a connection that is half dead counts as broken.
    async fn ask(&mut self, command: redis::Cmd, block: Duration) -> Result<redis::Value, Stopped> {
        let mut pipeline = redis::pipe();
        pipeline.add_command(command);
        self.ask_all(pipeline, block)
            .await?
            .pop()
            .ok_or_else(|| Unavailable::new("Redis gave no answer").into())
    }

    async fn ask_all(
        &mut self,
        pipeline: redis::Pipeline,
        block: Duration,
    ) -> Result<Vec<redis::Value>, Stopped> {
        match timeout(block + Duration::from_secs(2), send(&mut self.connection, &pipeline)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(RedisError::from((redis::ErrorKind::Io, "no answer in time")).into()),
        }
    }

    /// What the last reader took and did not finish comes first, in order.
    async fn take_over(&mut self) -> Result<(), Stopped> {
        let mut from = "0-0".to_owned();
        loop {
            self.renew_in_time().await?;
            let mut claim = cmd("XAUTOCLAIM");
            claim.arg(&self.stream).arg("switchboard").arg(self.context.config.node.as_str());
            claim.arg(0).arg(&from).arg("COUNT").arg(self.read.most());
            let mut parts = reply::array(self.ask(claim, Duration::ZERO).await?)?.into_iter();
            let (Some(next), Some(entries)) = (parts.next(), parts.next()) else { return Ok(()) };
            self.route(reply::entries(entries)?).await?;
            from = reply::text(&next)?.to_owned();
            if from == "0-0" {
                return Ok(());
            }
        }
    }

    /// True where it was time.
    async fn renew_in_time(&mut self) -> Result<bool, Stopped> {
        let ttl = self.context.config.node_ttl;
        let due = self.lease_end.saturating_duration_since(Instant::now()) < ttl * 2 / 3;
        if due {
            self.renew().await?;
        }
        Ok(due)
    }

    async fn renew(&mut self) -> Result<(), Stopped> {
        let ttl = self.context.config.node_ttl;
        let asked = Instant::now();
        if !lead(self.context, self.name, ttl).await? {
            return Err(Stopped::LeaseLost);
        }
        self.lease_end = asked + ttl;
        Ok(())
    }

    /// Publishes entries in order, puts bad ones aside, and then lets go of them all.
    async fn route(&mut self, entries: Vec<reply::Entry>) -> Result<(), Stopped> {
        self.read.came(&entries);
        let Some((last, _)) = entries.last() else { return Ok(()) };
        // On a Cluster what goes to several masters at once may be as much more.
        let most = publish::MAX_EVENTS * self.context.link.masters();
        let (mut bad, mut batch): (Vec<Bad<'_>>, Vec<(Event, &str)>) = (Vec::new(), Vec::new());
        for (id, fields) in &entries {
            match parse(fields, self.context.config.max_event) {
                Ok(publish) => match per_user(publish) {
                    Ok(events) => {
                        for event in events {
                            batch.push((event, id));
                            if batch.len() == most {
                                bad.extend(self.publish(std::mem::take(&mut batch)).await?);
                            }
                        }
                    }
                    Err((event, data)) => {
                        bad.extend(self.publish(std::mem::take(&mut batch)).await?);
                        publish::broadcast(self.context, &event, &data).await?;
                        self.context.metrics.accepted(Via::Ingress, 1);
                    }
                },
                Err(refusal) => bad.push((id, refusal.to_string())),
            }
        }
        bad.extend(self.publish(batch).await?);
        let mut dead = redis::pipe();
        for (id, fields) in &entries {
            let Some((_, reason)) = bad.iter().find(|(bad, _)| bad == id) else { continue };
            warn!(entry = %id, reason, "an ingress entry could not be routed");
            let mut add = sessions::bounded_add(self.context, self.context.keys.dead());
            for (field, value) in fields {
                add.arg(&field[..]).arg(&value[..]);
            }
            add.arg("reason").arg(reason);
            dead.add_command(add);
        }
        self.context.link.run(&dead).await?;
        let mut done = redis::pipe();
        done.cmd("XACK").arg(&self.stream).arg("switchboard");
        for (id, _) in &entries {
            done.arg(id);
        }
        // Everything up to the last has been handled, in order: it may go.
        done.cmd("XTRIM").arg(&self.stream).arg("MINID").arg("=").arg(inbox::after(last));
        self.ask_all(done, Duration::ZERO).await?;
        self.context.metrics.dead.inc_by(dead.len() as u64);
        Ok(())
    }

    /// Publishes; hands out what can never be, because a key of the user's holds something else.
    async fn publish<'b>(&mut self, batch: Vec<(Event, &'b str)>) -> Result<Vec<Bad<'b>>, Stopped> {
        let entry = |id| Some(Entry { stream: self.name, id });
        let ids: Vec<&str> = batch.iter().map(|(_, id)| *id).collect();
        let batch: Vec<_> = batch.iter().map(|(event, id)| (event, entry(*id))).collect();
        let (mut ids, mut bad) = (ids.into_iter(), Vec::new());
        for batch in publish::calls(&batch, |(event, _)| event, self.context.link.masters()) {
            if Instant::now() >= self.lease_end {
                return Err(Stopped::LeaseLost); // frozen meanwhile: another process goes on from what is pending
            }
            let outcomes = publish::route(self.context, batch).await;
            self.context.metrics.accepted(Via::Ingress, outcomes.iter().flatten().count());
            for (outcome, id) in outcomes.into_iter().zip(&mut ids) {
                match outcome {
                    Ok(_) => {}
                    Err(error) if error.broken_key => bad.push((id, error.to_string())),
                    // Out of memory, say: it stays pending, and is tried again.
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(bad)
    }
}
