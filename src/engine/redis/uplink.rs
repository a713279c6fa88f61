//! Streams that keep their last entries, read or not; and what goes onto `uplink`, the one that clients write to.

use std::sync::Arc;

use redis::cmd;
use tokio::sync::mpsc;

use super::{Context, batch, lane};
use crate::engine::{Reply, Uplink};

/// Messages that are sent to Redis at once.
const MOST: usize = 256;

/// An `XADD` to a stream that keeps `--uplink-length` entries: of many, some 100 more until Redis can let go of them all
/// at once.
pub fn bounded_add(context: &Context, stream: String) -> redis::Cmd {
    let most = context.config.uplink_length;
    let mut add = cmd("XADD");
    add.arg(stream).arg("MAXLEN").arg(if most < 1000 { "=" } else { "~" }).arg(most).arg("*");
    add
}

/// The lane of what clients send up. What waits goes onto the stream at once, and each client has one message under way:
/// so its messages are there in their order. Works until the engine is dropped.
pub async fn lane(context: Arc<Context>, mut waiting: mpsc::Receiver<(Uplink, Reply<()>)>) {
    let mut taken = Vec::with_capacity(MOST);
    while waiting.recv_many(&mut taken, MOST).await > 0 {
        // Whoever waits no more has told the client that it may not have been sent.
        taken.retain(|(_, reply)| !reply.is_closed());
        let (messages, replies): (Vec<_>, Vec<_>) = taken.drain(..).unzip();
        let mut replies = replies.into_iter();
        for batch in batch::sized(&messages, MOST, |message| message.data.as_bytes().len()) {
            let mut pipeline = redis::pipe();
            for message in batch {
                pipeline.add_command(add(&context, message));
            }
            let added = context.link.run_each(&pipeline).await;
            let added: Vec<_> = added.into_iter().map(|added| added.map(drop)).collect();
            context.metrics.uplinked.inc_by(added.iter().filter(|added| added.is_ok()).count() as u64);
            lane::answer(&context, "to send up", replies.by_ref().take(batch.len()), added);
        }
    }
}

fn add(context: &Context, message: &Uplink) -> redis::Cmd {
    let mut add = bounded_add(context, context.keys.uplink());
    add.arg("user").arg(message.user.as_str()).arg("client").arg(message.client.as_str());
    add.arg("event").arg(message.event.as_str()).arg("data").arg(message.data.as_bytes());
    add
}
