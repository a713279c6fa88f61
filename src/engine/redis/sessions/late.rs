//! Calls that do nothing once nobody waits for them.
//!
//! What the network held back comes when that is there again, on a connection that was given up. By then the client may be
//! here again, or elsewhere: an older beginning or end of its session must not undo that.

use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::Instant;

use crate::engine::Unavailable;
use crate::engine::redis::slot::Groups;
use crate::engine::redis::wire::RESPONSE_TIMEOUT;
use crate::engine::redis::{Context, ms};

type Answer = Result<Value, Unavailable>;

/// A call that is made now, and awaited for as long as an answer may take.
#[derive(Debug, Clone, Copy)]
pub struct Awaited {
    since: Instant,
    span: Duration,
    /// Until when, Unix ms by Redis' clock as far as that is known.
    pub until: u64,
}

impl Awaited {
    /// From now on.
    pub fn now(context: &Context) -> Self {
        let span = RESPONSE_TIMEOUT + context.config.wait_timeout;
        Self { since: Instant::now(), span, until: context.metrics.clock.now_us() / 1000 + ms(span) }
    }

    /// What came of a call, which answers with Redis' time where it comes too late. Where it is awaited all the same, that
    /// clock is ahead of what is known of it, and `again` makes the call until then.
    pub async fn hear(&self, answer: Answer, again: impl AsyncFnOnce(u64) -> Answer) -> Answer {
        match answer {
            Ok(Value::Int(_)) if self.since.elapsed() >= self.span => {
                Err(Unavailable::new("a call came to Redis when nobody waited for it any more"))
            }
            Ok(Value::Int(now_ms)) => again(u64::try_from(now_ms).unwrap_or_default() + ms(self.span)).await,
            heard => heard,
        }
    }

    /// The same of a call for each group; `call` makes it.
    pub async fn hear_each(
        &self,
        context: &Context,
        groups: &Groups,
        answers: Vec<Answer>,
        call: impl Fn(&[usize], u64) -> Cmd,
    ) -> Vec<Answer> {
        let mut heard = Vec::with_capacity(answers.len());
        for (group, answer) in groups.iter().zip(answers) {
            let again = async |until| context.link.probe_one(call(group, until)).await;
            heard.push(self.hear(answer, again).await);
        }
        heard
    }
}
