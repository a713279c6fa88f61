//! Renews the leases on this node's users, a little at a time.
//!
//! Each third of `--session-ttl` all users are renewed; the shards of the registry spread that over the interval,
//! so that neither Redis nor delivery meets a burst. A user whose lease was lost is registered anew; one of whose
//! events a session has not heard (a hint went astray) has its log looked into.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::engine::{Beat, Beaten, MAX_BEATS, Unavailable};
use crate::registry::SHARDS;
use crate::router::Router;

/// Renews for as long as the process lives.
pub async fn run(router: Arc<Router>, session_ttl: Duration) {
    let period = session_ttl / 3 / u32::try_from(SHARDS).unwrap_or(u32::MAX);
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for shard in (0..SHARDS).cycle() {
        ticks.tick().await;
        if router.lease().is_held()
            && let Err(error) = renew(&router, shard).await
        {
            debug!(%error, "leases were not renewed; the next round tries again");
        }
    }
}

async fn renew(router: &Router, shard: usize) -> Result<(), Unavailable> {
    let users = router.registry().unsaved(shard);
    for chunk in users.chunks(MAX_BEATS) {
        let beats = chunk
            .iter()
            .map(|(user, unsaved)| Beat {
                user: user.clone(),
                confirmed: unsaved.iter().map(|(session, id)| (session.client.clone(), *id)).collect(),
            })
            .collect();
        let beaten = router.engine().heartbeat(beats).await?;
        for ((user, unsaved), beaten) in chunk.iter().zip(beaten) {
            match beaten {
                Beaten::Renewed(newest) => {
                    unsaved.iter().for_each(|(session, id)| session.saved(*id));
                    router.registry().each_of(user.as_str(), |session| session.look_for(newest));
                }
                Beaten::Unknown => {} // the next round tries again
                Beaten::Lost => {
                    // Where nobody is left they have gone meanwhile, and the lease with them.
                    let mut left = 0;
                    router.registry().each_of(user.as_str(), |session| {
                        session.look();
                        left += 1;
                    });
                    if left > 0 {
                        warn!(user = %user, "the lease on a user was lost: registering their sessions anew");
                    }
                }
            }
        }
    }
    Ok(())
}
