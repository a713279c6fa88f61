//! What goes on with each beat beside the node's own lease. On a Cluster it is asked of other masters than the one that
//! has the lease, and one of them that does not answer keeps a question for 3 s, or for longer with `--wait-timeout`:
//! a short lease would be over by then.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Context;

/// A beat waits for this work, but for a tenth of the lease at most. Where all masters answer it is done by then, so
/// that whoever awaits a beat finds it done. Where one does not, enough of the lease is left for two more beats.
const SHARE: u32 = 10;

/// What goes on: where one of these hangs, the next beat does not add to it.
#[derive(Debug, Default)]
pub struct Beside {
    /// The list of nodes.
    pub list: Busy,
    /// Who is followed.
    pub traced: Busy,
    /// Hints that are owed.
    pub owed: Busy,
    /// Telling what Redis refuses.
    pub refused: Busy,
    /// Whether Redis may throw keys away.
    pub eviction: Busy,
    /// How many users the last beat missed on the list of whom this node serves.
    pub unlisted: AtomicUsize,
}

/// Held for as long as the work goes on.
pub type Busy = Arc<Mutex<()>>;
/// For waiting; the work goes on without.
pub type Started = JoinHandle<()>;

/// Starts work, unless it is still going on.
pub fn start(busy: &Busy, work: impl Future<Output = ()> + Send + 'static) -> Option<Started> {
    let busy = busy.clone().try_lock_owned().ok()?;
    Some(tokio::spawn(async move {
        let _busy = busy;
        work.await;
    }))
}

/// Waits for work that was started, but not for longer than the lease bears.
pub async fn wait(context: &Context, started: impl IntoIterator<Item = Option<Started>>) {
    let _ = timeout(context.config.node_ttl / SHARE, join_all(started.into_iter().flatten())).await;
}
