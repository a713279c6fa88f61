//! The ingress streams: whoever can `XADD` can publish.
//!
//! One process at a time reads each (a lease in Redis says which), so entries of one user keep their order,
//! whichever nodes come and go. It does one batch after the other and goes on only when a batch is in the logs:
//! what its predecessor left pending comes first. Each event carries its entry's id into the user's log state, so
//! that an entry that is read twice is published once.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{OptionFuture, join};
use redis::{RedisError, cmd};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use self::let_go::Progress;
use self::past::Past;
use super::entry::parse;
use super::home::Dedicated;
use super::lead::{NotHeld, StreamLease};
use super::publish::{self, Entry};
use super::reads::{self, Read};
use super::turns::StreamTurn;
use super::{Context, batch, broadcast, inbox, ms, reply, scripts, status};
use crate::engine::{Event, Unavailable};
use crate::metrics::Via;
use crate::protocol::publish::Target;

/// What [`Reader::take`] calls the entries that nobody has taken yet.
const NEW: &str = ">";
/// Bytes that an entry may have beside its data: 1,000 users take 130,000 of them.
const MOST_BESIDE: usize = 1 << 20;

/// Reads one ingress stream whenever it is this process's turn, until `wanted` turns false.
pub async fn read(context: Arc<Context>, stream: String, mut wanted: watch::Receiver<bool>) {
    let ttl = context.config.node_ttl;
    let (mut turn, mut past, mut lease) =
        (StreamTurn::default(), Past::default(), StreamLease::new(&context, &stream));
    while *wanted.borrow_and_update() {
        if context.link.is_up() && context.turns.may_take(&context, &mut turn).await {
            match lease.take().await {
                Ok(true) => {
                    context.turns.taken(&mut turn, ttl);
                    match Reader::serve(&context, &mut lease, &stream, &mut turn, &mut past, &wanted).await {
                        Err(Stopped::GivenAway) => {
                            debug!(stream, "another node may read this ingress stream")
                        }
                        Err(error) => {
                            context.turns.ended();
                            if let Some(times) = past.stopped.again() {
                                warn!(stream, %error, times, "the ingress stream cannot be read on now: it is tried again");
                            }
                        }
                        Ok(()) => context.turns.ended(),
                    }
                    if let Err(error) = lease.give_back().await {
                        debug!(%error, "the ingress lease was not given back and will lapse");
                    }
                }
                Ok(false) => context.turns.missed(&mut turn),
                Err(error) if context.link.is_up() => {
                    if let Some(times) = past.stopped.again() {
                        warn!(stream, %error, times, "the ingress stream cannot be read: it is tried again");
                    }
                }
                Err(error) => debug!(%error, "the ingress lease cannot be had now"),
            }
        }
        past.tell_bad(&stream);
        // A standby looks every third of the lease, with jitter, so that not all ask at once.
        let pause = (ttl / 3).min(Duration::from_secs(1)).mul_f64(0.5 + fastrand::f64() / 2.0);
        let _ = timeout(pause, wanted.changed()).await;
    }
}

struct Reader<'a> {
    context: &'a Context,
    connection: Dedicated,
    /// As `--ingress` names it.
    name: &'a str,
    /// Its key.
    stream: String,
    /// Entries of the next read.
    read: Read,
    lease: &'a mut StreamLease,
    turn: &'a mut StreamTurn,
    past: &'a mut Past,
    /// It was told that this process reads.
    told: bool,
}

#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("the entry {entry} can neither be routed ({reason}) nor be put aside: {error}")]
    NotPutAside { entry: String, reason: String, error: Unavailable },
    #[error("the stream or its group is gone")]
    Gone,
    #[error(transparent)]
    NotHeld(#[from] NotHeld),
    #[error("another node has fewer streams to read")]
    GivenAway,
}

fn gone_or_away(error: Unavailable) -> Stopped {
    if status::is_missing(&error) { Stopped::Gone } else { error.into() }
}

impl<'a> Reader<'a> {
    async fn serve(
        context: &'a Context,
        lease: &'a mut StreamLease,
        name: &'a str,
        turn: &'a mut StreamTurn,
        past: &'a mut Past,
        wanted: &watch::Receiver<bool>,
    ) -> Result<(), Stopped> {
        let stream = context.keys.ingress(name);
        let mut reader = Reader {
            context,
            connection: context.link.dedicated(&stream).await?,
            name,
            stream,
            read: Read::default(),
            lease,
            turn,
            past,
            told: false,
        };
        loop {
            let outcome = reader.run(wanted).await;
            match outcome {
                Err(Stopped::Redis(error)) if inbox::is_lost(&error) => reader.make_anew().await?,
                Err(Stopped::Gone) => reader.make_anew().await?,
                Err(Stopped::Redis(error)) => {
                    context.link.broke(&reader.stream, &error);
                    return Err(error.into());
                }
                other => return other,
            }
        }
    }

    /// Deleted, flushed or evicted: it is made again from the start. Entries are known by their ids, so those to come must
    /// have higher ones: see `lua/lead.lua`.
    async fn make_anew(&mut self) -> Result<(), Stopped> {
        sleep(Duration::from_millis(50)).await;
        self.lease.renew().await?;
        warn!(stream = self.name, "the ingress stream or its group was gone and has been made anew");
        Ok(())
    }

    async fn run(&mut self, wanted: &watch::Receiver<bool>) -> Result<(), Stopped> {
        self.take_over().await?;
        // Only now: an entry that cannot be got rid of stops each reader there, about twice a second.
        if !self.past.stopped.is_told() {
            self.tell();
        }
        // Short enough that the lease is renewed in time and that a drain need not wait.
        let block = (self.context.config.node_ttl / 6).min(Duration::from_millis(500));
        // What has been handled is gone from the stream.
        let (mut handled, mut ahead) = ("0-0".to_owned(), Vec::new());
        while *wanted.borrow() {
            // Were it over for a moment, another reader may have taken entries meanwhile, these or others.
            self.lease.go_on().await?;
            // As often as it is renewed, here or while entries go out.
            if self.lease.was_renewed() {
                self.tell();
                if self.context.turns.give_away(self.context, self.turn).await {
                    return Err(Stopped::GivenAway);
                }
            }
            self.past.tell_bad(self.name);
            if ahead.is_empty() {
                (_, ahead) = self.take(NEW).await?;
                self.came(&ahead);
            }
            let Some((last, _)) = ahead.last() else {
                self.wait(&mut handled, block).await?;
                continue;
            };
            handled.clone_from(last);
            // What waits is on its way here while this goes out. Should that fail, or nothing be wanted any more, the next
            // reader takes it over.
            let next = self.read.is_behind().then(|| self.take(NEW));
            let (routed, next) = join(self.route(std::mem::take(&mut ahead)), OptionFuture::from(next)).await;
            routed?;
            if let Some(next) = next {
                (_, ahead) = next?;
                self.came(&ahead);
            }
        }
        Ok(())
    }

    /// Tells, once, that this process reads. Where it was told that it cannot, that waits until the lease is renewed: what
    /// comes and goes more quickly is told as one fault that goes on.
    fn tell(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            self.past.stopped.end();
            info!(node = %self.context.config.node, stream = self.name, "reading the ingress stream");
        }
    }

    /// The entries that come next: of those that nobody has taken yet, or of those that somebody has, from an id on. Also
    /// from where these go on.
    fn take(
        &self,
        from: &str,
    ) -> impl Future<Output = Result<(String, Vec<reply::Entry>), Stopped>> + use<'a> {
        let context = self.context;
        let mut call = scripts::call(&scripts::TAKE, 1, 6);
        call.arg(&self.stream)
            .arg(self.context.config.node.as_str())
            .arg(&self.lease.name)
            .arg(self.read.most())
            .arg(reads::BYTES)
            .arg(context.config.max_event + MOST_BESIDE)
            .arg(from);
        async move {
            let taken = match context.link.run_one(call).await.map_err(gone_or_away)? {
                redis::Value::Nil => return Err(NotHeld::Lost.into()),
                taken => reply::array(taken)?,
            };
            match <[redis::Value; 2]>::try_from(taken) {
                Ok([next, entries]) => Ok((reply::text(&next)?.to_owned(), reply::entries(entries)?)),
                Err(_) => Err(reply::unexpected("entries and where they go on").into()),
            }
        }
    }

    fn came(&mut self, entries: &[reply::Entry]) {
        self.read.came(entries);
        if let Some((newest, _)) = entries.last() {
            self.lease.has_read(newest);
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
        match timeout(block + Duration::from_secs(2), self.connection.send(&pipeline)).await {
            Ok(answer) => answer?.pop().ok_or_else(|| Unavailable::new("Redis gave no answer").into()),
            Err(_) => Err(RedisError::from((redis::ErrorKind::Io, "no answer in time")).into()),
        }
    }

    /// What the last reader took and did not finish comes first, in order.
    async fn take_over(&mut self) -> Result<(), Stopped> {
        let mut from = "0-0".to_owned();
        loop {
            self.lease.go_on().await?;
            let (next, entries) = self.take(&from).await?;
            self.came(&entries);
            self.route(entries).await?;
            from = next;
            if from == "0-0" {
                self.past.forget_all();
                return Ok(());
            }
        }
    }

    /// Publishes entries in order, puts bad ones aside, and lets go of all that are done: what is not logged would be sent
    /// again with each time that an entry beside it is tried again.
    async fn route(&mut self, entries: Vec<reply::Entry>) -> Result<(), Stopped> {
        let mut progress = Progress::default();
        let published = self.publish_all(&entries, &mut progress).await;
        let let_go = self.let_go(&entries, progress).await;
        published.and(let_go)
    }

    async fn publish_all<'b>(
        &mut self,
        entries: &'b [reply::Entry],
        progress: &mut Progress<'b>,
    ) -> Result<(), Stopped> {
        // On a Cluster what goes to several masters at once may be as much more.
        let most = batch::MAX_AT_ONCE * self.context.link.masters();
        let mut batch: Vec<(Event, &str)> = Vec::new();
        for (at, (id, fields)) in entries.iter().enumerate() {
            if self.past.is_put_aside(id) {
                continue;
            }
            let publish = match parse(fields, self.context.config.max_event) {
                Ok(publish) => publish,
                Err(refusal) => {
                    progress.bad.insert(id, refusal.to_string());
                    continue;
                }
            };
            let users = match &publish.target {
                Target::User(user) => slice::from_ref(user),
                Target::Users(users) => users,
                Target::Broadcast if self.past.has_broadcast(id) => continue,
                Target::Broadcast => {
                    progress.through = at;
                    self.publish(std::mem::take(&mut batch), progress).await?;
                    self.lease.go_on().await?;
                    broadcast::send(self.context, &[(publish.event, publish.data)]).await?;
                    self.past.broadcast(id);
                    self.context.metrics.accepted(Via::Ingress, 1);
                    progress.through = at + 1;
                    continue;
                }
            };
            for user in users {
                let event = Event::of(&publish, user.clone());
                if self.past.has_sent(id, &event) {
                    continue;
                }
                batch.push((event, id));
                if batch.len() == most {
                    progress.through = at;
                    self.publish(std::mem::take(&mut batch), progress).await?;
                }
            }
        }
        progress.through = entries.len();
        self.publish(batch, progress).await
    }

    /// Publishes a batch. What can never be, because a key of the user's holds something else, is bad.
    async fn publish<'b>(
        &mut self,
        batch: Vec<(Event, &'b str)>,
        progress: &mut Progress<'b>,
    ) -> Result<(), Stopped> {
        let (slot, masters) = (batch::slot(self.context), self.context.link.masters());
        let mut stopped = None;
        for (batch, calls) in batch::batches(&batch, |(event, _)| event, slot, masters) {
            if stopped.is_none() {
                stopped = self.lease.go_on().await.err().map(Stopped::from);
            }
            if stopped.is_some() {
                progress.undone.extend(batch.iter().map(|(_, id)| id));
                continue;
            }
            let entry = |id| Some(Entry { stream: self.name, id });
            let routed: Vec<_> = batch.iter().map(|(event, id)| (event, entry(*id))).collect();
            let outcomes = publish::route(self.context, &routed, &calls).await;
            let mut accepted = 0;
            for (outcome, (event, id)) in outcomes.into_iter().zip(batch) {
                match outcome {
                    Ok(appended) => accepted += usize::from(self.past.sent(id, event, &appended)),
                    Err(error) if error.is_for_good() => {
                        progress.bad.entry(id).or_insert_with(|| format!("unavailable: {error}"));
                    }
                    // Out of memory, say: it stays pending, and is tried again.
                    Err(error) => {
                        self.past.failed(id, event);
                        progress.undone.insert(id);
                        stopped.get_or_insert(error.into());
                    }
                }
            }
            self.context.metrics.accepted(Via::Ingress, accepted);
        }
        stopped.map_or(Ok(()), Err)
    }
}

mod let_go;
mod past;
#[cfg(test)]
mod tests;
