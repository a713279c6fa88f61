//! Being asked to stop: SIGTERM or SIGINT drains, a second one ends at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, warn};

use crate::logging;

/// Exit status where a drain was cut short.
const CUT_SHORT: i32 = 1;

/// Resolves at the first SIGTERM or SIGINT. From then on another one ends the process.
pub async fn asked() {
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => {
            error!(%error, "signals cannot be heard: stop this process with SIGKILL");
            return std::future::pending().await;
        }
    };
    either(&mut term, &mut int).await;
    tokio::spawn(async move {
        either(&mut term, &mut int).await;
        warn!("asked to stop again: ending at once");
        logging::flush();
        std::process::exit(CUT_SHORT);
    });
}

async fn either(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
