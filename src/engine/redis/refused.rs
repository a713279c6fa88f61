//! What Redis refuses though it is there: a right is missing, or a key that is not one user's holds something else. Whoever
//! asked is told `unavailable`, the node is ready, and nothing gets better by itself: so it is told to who can mend it.
//!
//! It is told once the node has renewed its lease: where Redis refuses that as well (it is full, or takes no writes), it
//! cannot be used as a whole, and that is told already. But for an outage that no beat has met: that is told here as well.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{RedisError, cmd};
use tracing::warn;

use super::{Context, ms};
use crate::engine::{Cause, Unavailable};
use crate::lock::lock;
use crate::retold::Retold;

/// Stands for all that is asked.
const ALL: &str = "";

/// What was refused, by what was asked: how often, and why at last.
pub type Refusals = BTreeMap<&'static str, (u64, Unavailable)>;

/// What is refused. Each verb is told of apart; there are a dozen of them.
#[derive(Default)]
pub struct Refused {
    untold: Mutex<Refusals>,
    told: Mutex<BTreeMap<&'static str, Retold>>,
    /// The last claim, or beat, went through.
    renewed: AtomicBool,
}

impl Refused {
    /// Passes on what came of something, and notes it where Redis refused it.
    pub fn hear<T>(&self, what: &'static str, outcome: Result<T, Unavailable>) -> Result<T, Unavailable> {
        if let Err(error) = &outcome
            && error.cause == Cause::Refused
        {
            let mut untold = lock(&self.untold);
            let (times, why) = untold.entry(what).or_insert_with(|| (0, error.clone()));
            *times += 1;
            why.clone_from(error);
        }
        outcome
    }

    /// What was refused since this was last asked.
    pub fn take(&self) -> Refusals {
        std::mem::take(&mut lock(&self.untold))
    }

    /// A claim, or a beat, went `through`, or not. True where the one before it went through as well: then what was refused
    /// between them was refused alone. Else Redis may have refused everything for a while.
    pub fn renewed(&self, through: bool) -> bool {
        self.renewed.swap(through, Ordering::AcqRel) && through
    }

    /// Tells of an outage after which the next beat went through: whoever keeps the lease has noticed nothing.
    pub fn tell_short(&self, suspicion: Option<(Duration, RedisError)>) {
        if let Some((long, error)) = suspicion
            && let Some(times) = self.again(ALL, 1)
        {
            let (ms, error) = (ms(long), Unavailable::from(error));
            warn!(ms, %error, times, "Redis could not be used for a moment: whatever was asked meanwhile was refused");
        }
    }

    fn again(&self, what: &'static str, times: u64) -> Option<u64> {
        lock(&self.told).entry(what).or_default().more(times)
    }
}

/// Tells of what was refused, though the lease was renewed since.
pub async fn tell(context: &Context, refusals: Refusals) {
    for (what, (times, error)) in refusals {
        if let Some(times) = context.refused.again(what, times) {
            let error = named(context, error).await;
            warn!(what, %error, times, "Redis is there and refuses this: so does the node, until it is mended");
        }
    }
}

/// Whether a key holds something else.
pub fn is_wrong_type(error: &Unavailable) -> bool {
    error.reason.contains("WRONGTYPE")
}

/// What came of something; see [`named`].
///
/// # Errors
/// As before.
pub async fn named_in<T>(context: &Context, outcome: Result<T, Unavailable>) -> Result<T, Unavailable> {
    match outcome {
        Err(error) => Err(named(context, error).await),
        done => done,
    }
}

/// An error with the keys that hold something else, where they are none of a user's: Redis does not name them.
pub async fn named(context: &Context, error: Unavailable) -> Unavailable {
    if !is_wrong_type(&error) {
        return error;
    }
    let (keys, node) = (&context.keys, &context.config.node);
    // `TYPE` is a right that nodes do not need otherwise.
    let mut all = vec![
        ("HGET", keys.node(node.as_str()), vec!["boot"]),
        ("SCARD", keys.users(node), vec![]),
        ("ZCOUNT", keys.nodes(), vec!["0", "0"]),
        ("ZCOUNT", keys.traced(), vec!["0", "0"]),
        ("HGET", keys.drain(), vec!["next"]),
    ];
    let streams = [keys.inbox(node.as_str()), keys.uplink(), keys.presence(), keys.dead()];
    all.extend(streams.map(|stream| ("XLEN", stream, vec![])));
    let mut questions = redis::pipe();
    for (command, key, rest) in &all {
        questions.add_command(cmd(command).arg(key).arg(rest).to_owned());
    }
    let answers = context.link.probe_each(&questions).await.into_iter();
    let wrong = answers.zip(all).filter(|(answer, _)| answer.as_ref().is_err_and(is_wrong_type));
    let wrong: Vec<_> = wrong.map(|(_, (_, key, _))| format!("`{key}`")).collect();
    if wrong.is_empty() {
        return error;
    }
    let reason = format!("{} ({} holds something else)", error.reason, wrong.join(", "));
    Unavailable { reason: reason.into(), ..error }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{context, fake};
    use super::super::{node, scripts};
    use super::*;

    #[tokio::test]
    async fn what_a_full_redis_refused_is_not_told_as_if_it_refused_that_alone() {
        let full = Arc::new(AtomicBool::new(false));
        let is_full = full.clone();
        let place = fake(move |command| {
            let is_beat = command.contains(scripts::BEAT.get_hash());
            Some(match is_beat {
                true if is_full.load(Ordering::Acquire) => "-OOM command not allowed",
                true => "*2\r\n:1000\r\n:1",
                false if command.starts_with("Z") => "*0",
                false => "+OK",
            })
        });
        let context = context(place.await, Duration::from_secs(600));
        let refuses = || {
            let error = Unavailable { cause: Cause::Refused, ..Unavailable::new("OOM") };
            context.refused.hear::<()>("to publish", Err(error)).unwrap_err();
        };
        let told = async || {
            node::beat(&context, 0, 0).await.unwrap();
            !lock(&context.refused.told).is_empty()
        };
        context.refused.renewed(true);
        full.store(true, Ordering::Release);
        node::beat(&context, 0, 0).await.unwrap_err();
        refuses();
        full.store(false, Ordering::Release);
        assert!(!told().await, "it refused everything until now");
        refuses();
        assert!(told().await, "it refuses that alone");
    }

    #[tokio::test]
    async fn an_outage_is_told_by_the_next_beat_where_that_is_the_first_to_go_on() {
        let (away, frail) = (Arc::new(AtomicBool::new(false)), "PING");
        let is_away = away.clone();
        let place = fake(move |command| match command {
            _ if command == frail || is_away.load(Ordering::Acquire) => None,
            _ if command.contains(scripts::BEAT.get_hash()) => Some("*2\r\n:1000\r\n:1"),
            _ if command.starts_with('Z') => Some("*0"),
            _ => Some("+OK"),
        });
        let context = context(place.await, Duration::from_secs(600));
        let fails = async || {
            context.link.run_one(cmd(frail)).await.unwrap_err();
            assert!(!context.link.is_up());
        };
        let told = || lock(&context.refused.told).contains_key(ALL);
        node::beat(&context, 0, 0).await.unwrap();
        node::beat(&context, 0, 0).await.unwrap();
        fails().await;
        away.store(true, Ordering::Release);
        node::beat(&context, 0, 0).await.unwrap_err();
        away.store(false, Ordering::Release);
        node::beat(&context, 0, 0).await.unwrap();
        assert!(!told(), "that a beat failed is told");
        node::beat(&context, 0, 0).await.unwrap();
        assert!(!told(), "it is over");
        fails().await;
        node::beat(&context, 0, 0).await.unwrap();
        assert!(told());
    }
}
