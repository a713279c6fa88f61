//! Calls that do nothing once nobody waits for them.
//!
//! What the network held back comes when that is there again, on a connection that was given up. By then the client may be
//! here again, or elsewhere: an older beginning or end of its session must not undo that.

use redis::{Cmd, Value};

use crate::engine::Unavailable;
use crate::engine::redis::slot::Groups;
use crate::engine::redis::wire::RESPONSE_TIMEOUT;
use crate::engine::redis::{Context, ms};

/// Until when somebody waits for what is asked now, Unix ms by Redis' clock.
pub fn until(context: &Context) -> u64 {
    after(context, context.metrics.clock.now_us() / 1000)
}

fn after(context: &Context, now_ms: u64) -> u64 {
    now_ms + ms(RESPONSE_TIMEOUT + context.config.wait_timeout)
}

/// The same, where a call was too late by a clock that is ahead of what is known of it: it has answered with its time, and
/// somebody did wait for that. None where it was not too late.
pub fn until_by(context: &Context, answer: &Value) -> Option<u64> {
    match answer {
        Value::Int(now_ms) => Some(after(context, u64::try_from(*now_ms).unwrap_or_default())),
        _ => None,
    }
}

/// Makes those calls once more that were too late, each with an `until` of its own.
pub async fn again(
    context: &Context,
    groups: &Groups,
    answers: &mut [Result<Value, Unavailable>],
    call: impl Fn(&[usize], u64) -> Cmd,
) {
    for (group, answer) in groups.iter().zip(answers) {
        if let Ok(value) = answer
            && let Some(until) = until_by(context, value)
        {
            *answer = context.link.probe_one(call(group, until)).await;
        }
    }
}
