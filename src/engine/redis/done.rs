//! Entries of an inbox that are done with: they go together, since a call costs Redis as much as many of them. Until it is
//! known that they are gone they stay here, whatever becomes of the connection: what is read again is delivered again.

use std::time::Duration;

use redis::Pipeline;
use tokio::time::Instant;

/// They go when there are so many.
const MANY: usize = 64;
/// Or after so long.
const LONG: Duration = Duration::from_millis(100);

/// Entries that are done with and still there.
#[derive(Default)]
pub struct Done {
    ids: Vec<String>,
    /// Since there are any.
    since: Option<Instant>,
}

impl Done {
    /// These are done with as well.
    pub fn add(&mut self, ids: impl Iterator<Item = String>) {
        self.ids.extend(ids);
        if !self.ids.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Lets go of them in front of the next read, where it is time for that, or `at_once`. How long that read may wait
    /// where some stay; none where all are gone once it is answered.
    pub fn let_go(&self, pipeline: &mut Pipeline, key: &str, at_once: bool) -> Option<Duration> {
        self.ids.last()?;
        let long = self.since.is_some_and(|since| since.elapsed() >= LONG);
        if !at_once && !long && self.ids.len() < MANY {
            return Some(LONG);
        }
        // These and no others: between them may be some that a read took which nobody hears of.
        pipeline.cmd("XDEL").arg(key).arg(&self.ids);
        pipeline.cmd("XACK").arg(key).arg("node").arg(&self.ids);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn entries_go_when_there_are_many_or_after_long_or_at_once() {
        let let_go = |done: &mut Done, at_once| {
            let mut pipeline = redis::pipe();
            let stay = done.let_go(&mut pipeline, "inbox", at_once);
            if stay.is_none() {
                *done = Done::default();
            }
            (stay, pipeline.len())
        };
        let (nothing, wait, go) = ((None, 0), (Some(LONG), 0), (None, 2));
        let ids = |count: usize| (1..=count).map(|number| format!("{number}-0"));
        let mut done = Done::default();
        assert_eq!(let_go(&mut done, true), nothing);
        done.add(ids(MANY - 1));
        assert_eq!((let_go(&mut done, false), let_go(&mut done, true)), (wait, go));
        done.add(ids(MANY));
        assert_eq!((let_go(&mut done, false), let_go(&mut done, false)), (go, nothing));
        done.add(ids(1));
        tokio::time::advance(LONG).await;
        done.add(ids(1));
        assert_eq!(let_go(&mut done, false), go, "the first of them came long ago");
        done.add(ids(1));
        assert_eq!(let_go(&mut done, false), wait, "and this one has not");
    }
}
