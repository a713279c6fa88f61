//! The budget of all nodes that leave: when their clients should come back.

use std::time::Duration;

use super::{Context, ms, reply, scripts, status};
use crate::engine::{Leaving, Slots, Unavailable};

/// Takes times to come back for clients that are sent away.
///
/// # Errors
/// Where Redis is away.
pub async fn take(context: &Context, leaving: Leaving) -> Result<Slots, Unavailable> {
    let live = status::live(context).await?;
    let mut call = scripts::call(&scripts::DRAIN, 1, 7);
    call.arg(context.keys.drain())
        .arg(context.config.node.as_str())
        .arg(ms(leaving.left))
        .arg(live)
        .arg(context.config.drain_rate)
        .arg(leaving.clients)
        .arg(leaving.later)
        .arg(ms(leaving.longest));
    let answer = reply::array(context.link.run_one(call).await?)?;
    let [first, step] = answer.as_slice() else {
        return Err(Unavailable::new("drain.lua answered with another shape"));
    };
    let micros =
        |value| reply::integer(value).map(|us| Duration::from_micros(us.try_into().unwrap_or_default()));
    Ok(Slots { first: micros(first)?, step: micros(step)? })
}
