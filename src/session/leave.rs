//! The end of a session. What is needed only here has no room in a session's task until then.

use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

use super::{End, Session};

/// How long the end of a session may wait for Redis before the socket closes all the same.
const END_TIMEOUT: Duration = Duration::from_secs(1);

impl Session {
    /// Takes the session off its user, and says goodbye where there is anyone to say it to.
    pub(super) async fn leave(mut self, end: End) {
        let (user, client) = (self.registered.user().clone(), self.registered.client().clone());
        match end {
            End::Gone => {
                drop(self.registered);
                // The peer's close frame is answered, if it sent one.
                self.transport.finish().await;
                info!(%user, %client, "disconnected");
            }
            End::Close(close) => {
                // Everyone can see that the session is gone before its socket closes.
                let _ = timeout(END_TIMEOUT, self.registered.end()).await;
                self.send_waiting();
                drop(self.registered);
                self.transport.goodbye(close).await;
                info!(%user, %client, code = close.code(), reason = close.reason(), "closed");
            }
        }
    }
}
