//! Streams that keep their last entries, read or not; and what goes onto `uplink`, the one that clients write to.

use redis::cmd;

use super::Context;
use crate::engine::{Unavailable, Uplink};

/// An `XADD` to a stream that keeps `--uplink-length` entries: of many, some 100 more until Redis can let go of them all
/// at once.
pub fn bounded_add(context: &Context, stream: String) -> redis::Cmd {
    let most = context.config.uplink_length;
    let mut add = cmd("XADD");
    add.arg(stream).arg("MAXLEN").arg(if most < 1000 { "=" } else { "~" }).arg(most).arg("*");
    add
}

/// Puts a client's message on the `uplink` stream.
///
/// # Errors
/// Where Redis is away.
pub async fn send(context: &Context, message: &Uplink) -> Result<(), Unavailable> {
    let mut add = bounded_add(context, context.keys.uplink());
    add.arg("user").arg(message.user.as_str()).arg("client").arg(message.client.as_str());
    add.arg("event").arg(message.event.as_str()).arg("data").arg(message.data.as_bytes());
    context.link.run_one(add).await?;
    context.metrics.uplinked.inc();
    Ok(())
}
