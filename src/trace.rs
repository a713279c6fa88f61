//! Following one user live: which users are followed, and the steps of their events that were seen here.
//!
//! Whoever is not followed costs a look at one flag, and nothing in Redis. Nodes learn within a second who is; each
//! writes down what it sees itself, so the scripts need not know.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::id::UserId;
use crate::lock::lock;
use crate::ms::unix;

/// Users who may be followed at once: more would be a debug log of everyone, which there is already.
pub const MAX_USERS: usize = 100;
/// How long a user may be followed.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Steps kept of one user.
pub const MAX_STEPS: usize = 10_000;
/// How long a user's steps are kept after the last of them.
pub const KEPT: Duration = Duration::from_secs(60 * 60);
/// Steps of one user that are read at once.
pub const PAGE: usize = 256;
/// Steps that may wait to be written down. One more is left out, and how many were is written with the next.
const BOUND: usize = 10_000;

/// More about a step: names and values.
pub type Fields = Vec<(&'static str, String)>;

/// A step, where it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Unix µs, by this node's clock.
    pub at: u64,
    /// Of whom.
    pub user: UserId,
    /// What happened.
    pub step: &'static str,
    /// To which event, session, node.
    pub fields: Fields,
}

/// A step as everyone may read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Traced {
    /// Its place among the user's steps, by the clock of Redis: read on after it.
    pub place: String,
    /// What is known of it: `at`, `node`, `step`, and more.
    #[serde(flatten)]
    pub fields: BTreeMap<String, String>,
}

/// Who is followed, and what was seen of them.
#[derive(Debug, Default)]
pub struct Tracer {
    /// Whether anyone is followed at all.
    any: AtomicBool,
    /// Who is followed, each until when.
    users: Mutex<HashMap<UserId, Instant>>,
    waiting: Mutex<Waiting>,
    seen: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    steps: VecDeque<Step>,
    left_out: usize,
}

impl Tracer {
    /// These users are followed, each until then, and nobody else.
    pub fn follow_only(&self, users: impl IntoIterator<Item = (UserId, Instant)>) {
        let mut followed = lock(&self.users);
        followed.clear();
        followed.extend(users.into_iter().take(MAX_USERS));
        self.any.store(!followed.is_empty(), Ordering::Relaxed);
    }

    /// This user is followed until then, too; false where too many are already.
    pub fn follow(&self, user: UserId, until: Instant) -> bool {
        let mut followed = lock(&self.users);
        followed.retain(|_, until| *until > Instant::now());
        if followed.len() >= MAX_USERS && !followed.contains_key(&user) {
            return false;
        }
        followed.insert(user, until);
        self.any.store(true, Ordering::Relaxed);
        true
    }

    /// This user is not followed any more.
    pub fn leave(&self, user: &UserId) {
        let mut followed = lock(&self.users);
        followed.remove(user);
        self.any.store(!followed.is_empty(), Ordering::Relaxed);
    }

    /// Whether this user is followed.
    pub fn follows(&self, user: &str) -> bool {
        self.any.load(Ordering::Relaxed) && self.looks_up(user)
    }

    #[cold]
    fn looks_up(&self, user: &str) -> bool {
        let mut followed = lock(&self.users);
        followed.retain(|_, until| *until > Instant::now());
        self.any.store(!followed.is_empty(), Ordering::Relaxed);
        followed.contains_key(user)
    }

    /// Whether anyone may be: where not, a batch need not be looked through.
    pub fn follows_anyone(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Notes a step of a user who is followed.
    pub fn note(&self, user: &str, step: &'static str, fields: impl FnOnce() -> Fields) {
        if self.follows(user)
            && let Ok(user) = user.parse()
        {
            let at = u64::try_from(unix().as_micros()).unwrap_or_default();
            let mut waiting = lock(&self.waiting);
            if waiting.steps.len() >= BOUND {
                waiting.left_out += 1;
                return;
            }
            let mut fields = fields();
            let left_out = std::mem::take(&mut waiting.left_out);
            if left_out > 0 {
                fields.push(("left_out", left_out.to_string()));
            }
            waiting.steps.push_back(Step { at, user, step, fields });
            self.seen.notify_one();
        }
    }

    /// Takes at most `most` steps that wait, at once or when there are any.
    pub async fn take(&self, most: usize) -> Vec<Step> {
        loop {
            let seen = self.seen.notified();
            let steps = self.take_now(most);
            if !steps.is_empty() {
                return steps;
            }
            seen.await;
        }
    }

    fn take_now(&self, most: usize) -> Vec<Step> {
        let mut waiting = lock(&self.waiting);
        let count = waiting.steps.len().min(most);
        waiting.steps.drain(..count).collect()
    }
}

impl Step {
    /// All its fields, as they are written down by the node `node`.
    pub fn written(&self, node: &str) -> Fields {
        let at = format!("{}.{:03}", self.at / 1000, self.at % 1000);
        let mut fields = vec![("at", at), ("node", node.to_owned()), ("step", self.step.to_owned())];
        fields.extend(self.fields.iter().cloned());
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> UserId {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_is_followed_is_noted_and_only_for_so_long() {
        let tracer = Tracer::default();
        tracer.note("42", "published", || panic!("nobody is followed"));
        assert!(tracer.follow(user("42"), Instant::now() + Duration::from_secs(10)));
        tracer.note("43", "published", || panic!("not this one"));
        tracer.note("42", "published", || vec![("id", "5-0".to_owned())]);
        let steps = tracer.take(10).await;
        assert_eq!(steps.len(), 1);
        let fields = steps[0].written("node-a");
        assert_eq!(
            fields[1..],
            [("node", "node-a".into()), ("step", "published".into()), ("id", "5-0".into())]
        );
        tokio::time::advance(Duration::from_secs(11)).await;
        tracer.note("42", "published", || panic!("its time is over"));
        assert!(!tracer.follows_anyone());
        tracer.follow_only([(user("44"), Instant::now() + Duration::from_secs(1))]);
        assert!(tracer.follows("44") && !tracer.follows("42"));
        tracer.leave(&user("44"));
        assert!(!tracer.follows_anyone());
    }

    #[tokio::test]
    async fn what_is_too_much_is_left_out_and_that_is_noted() {
        let tracer = Tracer::default();
        let until = Instant::now() + Duration::from_secs(60);
        tracer.follow(user("42"), until);
        for _ in 0..BOUND + 7 {
            tracer.note("42", "taken", Vec::new);
        }
        assert_eq!(tracer.take_now(usize::MAX).len(), BOUND);
        tracer.note("42", "taken", Vec::new);
        assert_eq!(tracer.take_now(1)[0].fields, [("left_out", "7".to_owned())]);
        for number in 0..MAX_USERS {
            assert!(tracer.follow(user(&number.to_string()), until), "{number}; 42 is one of them");
        }
        assert!(!tracer.follow(user("one-more"), until));
    }
}
