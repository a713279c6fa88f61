//! The end of a session. What is needed only here has no room in a session's task until then.

use std::time::Duration;

use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;
use tracing::info;

use super::{End, Session};
use crate::close::Close;
use crate::protocol::code::Refusal;

/// How long the end of a session may wait for Redis before the socket closes all the same.
const END_TIMEOUT: Duration = Duration::from_secs(1);

impl Session {
    /// Whoever comes back with a client id alone is sent again what it has not confirmed. So a client that is asked to
    /// come back is pinged first, and the session goes on until its pong, or for a moment. What comes meanwhile is left
    /// to the log: the pong would not confirm it. None where there is nothing to confirm.
    pub(super) fn last_ping(&mut self, close: Close) -> Option<Result<(), Error>> {
        if !close.moves_on() || self.has_confirmed_all() || self.transport.flush_is_pong() {
            return None;
        }
        self.clock.pinged_last(self.last, close);
        self.flushing = true;
        Some(self.transport.ping(self.last))
    }

    fn has_confirmed_all(&self) -> bool {
        self.registered.handle().confirmed() >= Some(self.last)
    }

    /// What the client has sent up was read, and nobody would send it again: it gets there before the end, or the client is
    /// told that it may not have. A token is of no use any more.
    async fn send_up(&mut self) {
        let Some(pending) = self.pending.take().filter(|_| !self.clock.renews) else { return };
        let outcome = timeout(END_TIMEOUT, pending).await;
        if let Err(refusal) = outcome.unwrap_or_else(|_| Err(Refusal::unavailable())) {
            let _ = self.refuse(&refusal); // the connection breaks: so it does for the goodbye
        }
    }

    /// Takes the session off its user, and says goodbye where there is anyone to say it to.
    pub(super) async fn leave(mut self, end: End) {
        let (user, client) = (self.registered.user().clone(), self.registered.client().clone());
        let node = self.registered.router().node().clone();
        self.send_up().await;
        match end {
            End::Gone(code) => {
                self.registered.router().turn_to_leave().await;
                drop(self.registered);
                // The peer's close frame is answered, if it sent one.
                self.transport.finish().await;
                // By that code a client's library says why it goes: an event that is too large for it, say.
                info!(%node, %user, %client, code, "disconnected");
            }
            End::Close(close) => {
                // Everyone can see that the session is gone before its socket closes.
                let _ = timeout(END_TIMEOUT, self.registered.end()).await;
                if close.moves_on() && self.has_confirmed_all() {
                    // It comes back for the rest, which it would get twice.
                    self.registered.handle().keep_transient();
                }
                if !self.clock.overdue {
                    self.send_waiting();
                }
                drop(self.registered);
                self.transport.goodbye(close).await;
                info!(%node, %user, %client, code = close.code(), reason = close.reason(), "closed");
            }
        }
    }
}
