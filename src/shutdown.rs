//! Being asked to stop: SIGTERM, SIGINT or SIGHUP drains, a second SIGTERM or SIGINT ends at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, warn};

use crate::logging;

/// Exit status where a drain was cut short.
const CUT_SHORT: i32 = 1;

/// SIGTERM, SIGINT and SIGHUP. Once they are listened for, they do not end the process by themselves.
pub struct Signals {
    term: Signal,
    int: Signal,
    /// None where the process was started with it ignored (`nohup`): then it stays so. Nor after the first of all signals:
    /// a terminal that closes tells its shell, which tells of it as the system does, and who waits for a drain may close it.
    hup: Option<Signal>,
}

impl Signals {
    /// Listens for them.
    ///
    /// # Errors
    /// Where the system does not let this process hear them.
    pub fn listen() -> io::Result<Self> {
        let hup = hears_hangups().then(|| signal(SignalKind::hangup())).transpose()?;
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { term, int, hup })
    }

    /// Waits for the next of them. One that came before is not lost.
    pub async fn next(&mut self) {
        let hup = async {
            match &mut self.hup {
                Some(hup) => hup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased; // of two that come at once the hangup says nothing more
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
            _ = hup => {}
        }
        self.hup = None;
    }
}

/// Whether a hangup concerns this process. Where the system does not tell, it is left as it is: it ends the process.
fn hears_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Hexadecimal, with SIGHUP, which is 1, as the lowest bit.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 0)
}

/// Resolves at the first of the signals. From then on another one ends the process, whether anyone still waits for the
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
