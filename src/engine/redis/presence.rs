//! Edges of presence: who came online, who went offline, each told once on the `presence` stream.
//!
//! A user's set and the `presence` stream are in different slots, so no one script can change the one and tell the
//! other. The script that changes the set notes in the user's own slot what is owed; whoever called it tells the
//! stream, and then settles the debt. A node that dies in between leaves the note behind: the survivor that clears up
//! after it gets it from `disconnect.lua`, and who is still connected gets it with the next heartbeat or connection.
//! Who tells looks first whether the dead one had told already, so that nothing is told twice, as long as the stream still
//! has what came since. Where it has not, whoever read long ago what is owed tells nothing: it is to be read again.

use std::time::Duration;

use redis::Pipeline;
use tokio::time::Instant;
use tracing::{info, warn};

use super::slot::Groups;
use super::{Context, reply, scripts, sessions};
use crate::engine::Unavailable;
use crate::id::UserId;
use crate::lock::lock;
use crate::retold::Retold;

/// How long nothing must have failed, at least, before [`look`] takes a debt for paid, however short `--session-ttl`
/// is: of users who have left it is tried again each second.
const LEAST_QUIET: Duration = Duration::from_secs(2);

/// That `presence` takes nothing.
#[derive(Debug, Default)]
pub struct Untold {
    told: Retold,
    /// When it last took nothing, unless it has taken something since.
    last: Option<Instant>,
}

/// What is owed of some users, as their scripts answered it.
#[derive(Default)]
pub struct Owed(Vec<(UserId, String)>);

impl Owed {
    /// Adds what a script answered for `user`; nothing where it is empty.
    pub fn add(&mut self, user: &UserId, edges: &str) {
        if edges.is_empty() {
            return;
        }
        match self.0.iter_mut().find(|(known, _)| known == user) {
            // Two sessions of one user in a batch: the later answer holds the earlier one's edges.
            Some((_, known)) => *known = edges.to_owned(),
            None => self.0.push((user.clone(), edges.to_owned())),
        }
    }

    /// Tells the stream, and settles. What fails stays owed.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn pay(self, context: &Context) -> Result<(), Unavailable> {
        let settle = self.tell(context).await?;
        context.link.probe_each(&settle).await.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
    }

    /// Tells the stream. The commands that it returns settle what was owed, and may be run at any time: until then, whoever
    /// tells it again finds that it has been told.
    ///
    /// # Errors
    /// Where Redis is away: it stays owed.
    pub async fn tell(self, context: &Context) -> Result<Pipeline, Unavailable> {
        if self.0.is_empty() {
            return Ok(redis::pipe());
        }
        let told = self.try_to_tell(context).await;
        match &told {
            Ok(_) => {
                if ended(context) {
                    info!("`presence` takes entries again: who comes and goes is told");
                }
            }
            Err(error) if context.link.is_up() => {
                context.metrics.presence_up.set(0);
                let mut untold = lock(&context.untold);
                untold.last = Some(Instant::now());
                if let Some(times) = untold.told.again() {
                    warn!(%error, times, "`presence` takes nothing: who comes and goes is told once it does");
                }
            }
            Err(_) => {}
        }
        told
    }

    async fn try_to_tell(self, context: &Context) -> Result<Pipeline, Unavailable> {
        let mut settle = redis::pipe();
        let mut tell = scripts::call(&scripts::TELL, 1, 1 + 2 * self.0.len());
        tell.arg(context.keys.presence()).arg(context.config.uplink_length);
        for (user, edges) in &self.0 {
            tell.arg(user.as_str()).arg(edges);
        }
        // Asked whether the link is trusted or not: what is owed is in Redis already.
        let told = reply::array(context.link.probe_one(tell).await?)?;
        if told.is_empty() {
            return Err(Unavailable::new("what is owed to `presence` was read too long ago, and stays owed"));
        }
        if told.len() != self.0.len() {
            return Err(Unavailable::new("tell.lua answered with another shape"));
        }
        let slots = self.0.iter().map(|(user, _)| sessions::user_slot(context, user));
        let groups = Groups::new(slots, self.0.len());
        for group in groups.iter() {
            let mut call = scripts::call(&scripts::SETTLE, group.len(), 2 * group.len());
            for place in group {
                call.arg(context.keys.cursor(&self.0[*place].0));
            }
            for place in group {
                let owed = self.0[*place].1.splitn(3, ' ').nth(2).unwrap_or_default();
                call.arg(owed).arg(reply::text(&told[*place])?);
            }
            settle.add_command(call);
        }
        Ok(settle)
    }
}

/// Looks whether this node still owes something to a `presence` that took nothing. Each user who is here has a heartbeat
/// within `--session-ttl`, and of who has left it is tried again each second: where nothing failed for so long, nothing is
/// owed. Another node has told it, of a user who is there as well, or it has lapsed.
pub fn look(context: &Context) {
    let quiet = context.config.session_ttl.max(LEAST_QUIET);
    let is_quiet = |last: Instant| last.elapsed() > quiet;
    if lock(&context.untold).last.is_some_and(is_quiet) && ended(context) {
        info!(
            "nothing is owed to `presence` any more: what this node could not tell, another one has, or it lapsed"
        );
    }
}

/// As far as is known, `presence` takes entries. Whether that is news.
fn ended(context: &Context) -> bool {
    context.metrics.presence_up.set(1);
    let mut untold = lock(&context.untold);
    untold.last = None;
    untold.told.ended()
}
