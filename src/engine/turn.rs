//! Turns of the sockets' tasks, between the events that an engine hands them.

use tokio::task::yield_now;

/// Events after which those tasks have their turn: an eighth of what may wait for a socket by default. Thousands may come
/// at once, and none of those tasks runs meanwhile, so clients that read would be put to catching up from the log, and
/// lose what is transient, or what the log has cut off by then.
pub const TURN: usize = 32;
/// The same in bytes: a quarter of what may wait for a socket.
const TURN_BYTES: usize = 256 * 1024;

/// What has been handed out since others had their turn.
#[derive(Default)]
pub struct Turn {
    events: usize,
    bytes: usize,
}

impl Turn {
    /// An event of so many bytes comes: others go first, where it is their turn. Whether it was.
    pub async fn next(&mut self, bytes: usize) -> bool {
        (self.events, self.bytes) = (self.events + 1, self.bytes + bytes);
        let is_over = self.events > TURN || self.bytes > TURN_BYTES;
        if is_over {
            *self = Self { events: 1, bytes };
            yield_now().await;
        }
        is_over
    }
}
