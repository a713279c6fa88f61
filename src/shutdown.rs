//! Being asked to stop: SIGTERM or SIGINT drains, a second one ends at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, warn};

use crate::logging;

/// Exit status where a drain was cut short.
const CUT_SHORT: i32 = 1;

/// SIGTERM and SIGINT. Once they are listened for, they do not end the process by themselves.
pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Listens for them.
    ///
    /// # Errors
    /// Where the system does not let this process hear them.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of them. One that came before is not lost.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Resolves at the first SIGTERM or SIGINT. From then on another one ends the process, whether anyone still waits for the
/// first or not: a node may be leaving for a reason of its own.
pub fn asked() -> impl Future<Output = ()> {
    let (ask, asked) = oneshot::channel();
    match Signals::listen() {
        Ok(signals) => _ = tokio::spawn(watch(signals, ask)),
        Err(error) => error!(%error, "signals cannot be heard: stop this process with SIGKILL"),
    }
    async move {
        if asked.await.is_err() {
            std::future::pending().await // nobody can ask
        }
    }
}

async fn watch(mut signals: Signals, ask: oneshot::Sender<()>) {
    signals.next().await;
    let _ = ask.send(()); // nobody waits: it leaves already
    signals.next().await;
    warn!("asked to stop again: ending at once");
    logging::flush();
    std::process::exit(CUT_SHORT);
}
