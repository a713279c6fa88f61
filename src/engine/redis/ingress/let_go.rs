//! Letting go of entries that are done, and putting aside those that cannot be routed.

use std::collections::{HashMap, HashSet};

use tracing::warn;

use super::super::refused::named;
use super::super::{entry, reply, scripts, uplink};
use super::{Reader, Stopped, gone_or_away};

/// How far a read of entries is with being published.
#[derive(Default)]
pub struct Progress<'a> {
    /// Entries that cannot be routed, by their ids, and why.
    pub bad: HashMap<&'a str, String>,
    /// So many entries, the first, went out.
    pub through: usize,
    /// Those of them of which some event is not published all the same.
    pub undone: HashSet<&'a str>,
}

impl Progress<'_> {
    /// Those that went out, or never can.
    fn handled<'e>(&self, entries: &'e [reply::Entry]) -> impl Iterator<Item = &'e reply::Entry> {
        entries.iter().take(self.through).filter(|(id, _)| !self.undone.contains(&id[..]))
    }
}

impl Reader<'_> {
    /// Puts bad entries aside, and lets go of all that are done.
    pub(super) async fn let_go(
        &mut self,
        entries: &[reply::Entry],
        progress: Progress<'_>,
    ) -> Result<(), Stopped> {
        let put_aside = self.put_aside(entries, &progress).await;
        let is_done = |id: &str| !progress.bad.contains_key(id) || self.past.is_put_aside(id);
        let done: Vec<&str> =
            progress.handled(entries).map(|(id, _)| &id[..]).filter(|id| is_done(id)).collect();
        if let Some(last) = done.last() {
            let mut finish = scripts::call(&scripts::FINISH, 1, 1 + done.len());
            finish.arg(&self.stream).arg(reply::after(last)).arg(&done);
            self.context.link.run_one(finish).await.map_err(gone_or_away)?;
            self.past.forget(&done);
        }
        put_aside
    }

    /// Puts bad entries aside, each once, whatever keeps them from being let go of after that.
    async fn put_aside(&mut self, entries: &[reply::Entry], progress: &Progress<'_>) -> Result<(), Stopped> {
        let mut dead = redis::pipe();
        let mut bad = Vec::new();
        for (id, fields) in progress.handled(entries) {
            let Some(reason) = progress.bad.get(&id[..]) else { continue };
            bad.push((id, reason));
            let mut add = uplink::bounded_add(self.context, self.context.keys.dead());
            for (field, value) in fields.iter().skip(usize::from(entry::size_where_cut(fields).is_some())) {
                add.arg(&field[..]).arg(&value[..]);
            }
            add.arg("reason").arg(reason);
            dead.add_command(add);
        }
        let mut refused = None;
        for ((entry, reason), added) in bad.into_iter().zip(self.context.link.run_each(&dead).await) {
            if let Err(error) = added {
                if refused.is_none() {
                    let error = named(self.context, error).await;
                    let (entry, reason) = (entry.clone(), reason.clone());
                    refused = Some(Stopped::NotPutAside { entry, reason, error });
                }
                continue;
            }
            self.past.put_aside(entry);
            self.context.metrics.dead.inc();
            if let Some(times) = self.past.bad.again() {
                warn!(stream = self.name, %entry, reason, times, "an ingress entry could not be routed");
            }
        }
        refused.map_or(Ok(()), Err)
    }
}
