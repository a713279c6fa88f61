//! Calls that do nothing once nobody waits for them.
//!
//! What the network held back comes when that is there again, on a connection that was given up. By then the client may be
//! here again, or elsewhere: an older beginning or end of its session must not undo that.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use crate::engine::Unavailable;
use crate::engine::redis::slot::Groups;
use crate::engine::redis::wire::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT, Returned};
use crate::engine::redis::{Context, ms};

/// A call that is made now, and awaited for as long as a connection and an answer may take.
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
        let an_answer = CONNECT_TIMEOUT + RESPONSE_TIMEOUT + context.config.wait_timeout;
        // On a Cluster, another call may go first: [`Link::run_after`](crate::engine::redis::link::Link::run_after).
        let span = if context.link.is_cluster() { 2 * an_answer } else { an_answer };
        Self { since: Instant::now(), span, until: context.metrics.clock.now_us() / 1000 + ms(span) }
    }

    /// Until when a call is to be made again which was too late, and so answered with Redis' time: it is awaited all the same,
    /// and that clock is ahead of what is known of it. None where the answer is another.
    ///
    /// # Errors
    /// Where nobody has waited for it.
    pub fn again(&self, answer: &Value) -> Result<Option<u64>, Unavailable> {
        match answer {
            Value::Int(_) if self.since.elapsed() >= self.span => {
                Err(Unavailable::new("a call came to Redis when nobody waited for it any more"))
            }
            Value::Int(now_ms) => Ok(Some(u64::try_from(*now_ms).unwrap_or_default() + ms(self.span))),
            _ => Ok(None),
        }
    }

    /// What came of a call for each group, which `call` makes: those that are to be made again are. `is_trusted`: only where
    /// the link is.
    pub async fn hear(
        &self,
        context: &Context,
        groups: &Groups,
        mut answers: Vec<Returned>,
        is_trusted: bool,
        call: impl Fn(&[usize], u64) -> Cmd,
    ) -> Vec<Returned> {
        let (mut calls, mut made_again) = (redis::pipe(), Vec::new());
        for (group, answer) in groups.iter().zip(&mut answers) {
            match answer.as_ref().map(|answer| self.again(answer)) {
                Ok(Ok(Some(until))) => {
                    calls.add_command(call(group, until));
                    made_again.push(answer);
                }
                Ok(Err(error)) => *answer = Err(error),
                Ok(Ok(None)) | Err(_) => {}
            }
        }
        if !made_again.is_empty() {
            let heard = send(context, &calls, is_trusted).await;
            for (answer, heard) in made_again.into_iter().zip(heard) {
                *answer = heard;
            }
        }
        answers
    }
}

/// Makes a call for each group, and hears what came of it: [`Awaited::hear`].
pub async fn ask(
    context: &Context,
    groups: &Groups,
    is_trusted: bool,
    call: impl Fn(&[usize], u64) -> Cmd,
) -> Vec<Returned> {
    let (mut calls, awaited) = (redis::pipe(), Awaited::now(context));
    for group in groups.iter() {
        calls.add_command(call(group, awaited.until));
    }
    let answers = send(context, &calls, is_trusted).await;
    awaited.hear(context, groups, answers, is_trusted, call).await
}

async fn send(context: &Context, calls: &Pipeline, is_trusted: bool) -> Vec<Returned> {
    match is_trusted {
        true => context.link.run_each(calls).await,
        false => context.link.probe_each(calls).await,
    }
}
