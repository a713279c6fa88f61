//! Renews the leases on this node's users, a little at a time.
//!
//! Each third of `--session-ttl` all users are renewed; the shards of the registry spread that over the interval,
//! so that neither Redis nor delivery meets a burst. A user whose lease was lost is registered anew; one of whose
//! events a session has not heard (a hint went astray) has its log looked into.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};

use crate::engine::{Beat, Beaten, MAX_BEATS, Unavailable};
use crate::registry::SHARDS;
use crate::router::Router;

/// How much quicker a round goes that cannot wait. What it costs Redis is as much more for as long.
const HURRY: u32 = 4;

/// Renews for as long as the process lives. Each time `hurry` is notified, the next round goes [`HURRY`] times quicker:
/// a node has died, perhaps after it published and before it told anyone.
pub async fn run(router: Arc<Router>, session_ttl: Duration, hurry: Arc<Notify>) {
    let period = session_ttl / 3 / u32::try_from(SHARDS).unwrap_or(u32::MAX);
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hurried = 0;
    for shard in (0..SHARDS).cycle() {
        tokio::select! {
            _ = ticks.tick() => {}
            () = hurry.notified(), if hurried == 0 => hurried = SHARDS,
            () = sleep(period / HURRY), if hurried > 0 => ticks.reset(),
        }
        hurried = hurried.saturating_sub(1);
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::engine::NodeInfo;
    use crate::engine::memory::{Config, MemoryEngine};
    use crate::id::{EventId, NodeId};
    use crate::metrics::Metrics;
    use crate::protocol::hello::Identity;
    use crate::router::Registered;

    const SESSION_TTL: Duration = Duration::from_secs(192);
    const ROUND: Duration = Duration::from_secs(64);
    const USERS: usize = 300;

    fn router() -> Arc<Router> {
        let node_id: NodeId = "n".parse().unwrap();
        let node = NodeInfo {
            node_id: node_id.to_string(),
            sessions: 0,
            version: String::new(),
            started: 0,
            client_url: String::new(),
            worker_url: String::new(),
        };
        let config = Config {
            node,
            node_id: node_id.clone(),
            log_ttl: SESSION_TTL,
            log_length: 1,
            max_sessions_per_user: 1,
        };
        let metrics = Arc::new(Metrics::new("n", &[]).unwrap());
        let router = Arc::new(Router::new(node_id, Arc::new(MemoryEngine::new(config)), metrics, 1));
        router.lease().renewed(Instant::now(), 10 * SESSION_TTL);
        router
    }

    async fn users(router: &Arc<Router>) -> Vec<Registered> {
        let mut users = Vec::new();
        for user in 0..USERS {
            let client = "c".parse().unwrap();
            let identity = Identity { user: user.to_string().parse().unwrap(), client, since: None };
            let (registered, _) = router.open(identity).await.unwrap_or_else(|_| panic!("refused"));
            users.push(registered);
        }
        users
    }

    /// How many users have been renewed since they confirmed something, which is now.
    async fn renewed_within(span: Duration, users: &[Registered]) -> usize {
        for user in users {
            let confirmed = user.handle().confirmed().unwrap_or_default();
            user.handle().confirm(EventId { ms: confirmed.ms + 1, ..confirmed });
        }
        sleep(span).await;
        users.iter().filter(|user| user.handle().unsaved().is_none()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_takes_its_time_unless_a_node_has_died() {
        let (router, hurry) = (router(), Arc::new(Notify::new()));
        let users = users(&router).await;
        tokio::spawn(run(router.clone(), SESSION_TTL, hurry.clone()));
        let quarter = renewed_within(ROUND / 4, &users).await;
        assert!((USERS / 8..USERS / 2).contains(&quarter), "{quarter} of {USERS} in a quarter of a round");
        hurry.notify_one();
        assert_eq!(renewed_within(ROUND / 4 + Duration::from_secs(1), &users).await, USERS);
        let quarter = renewed_within(ROUND / 4, &users).await;
        assert!((USERS / 8..USERS / 2).contains(&quarter), "{quarter} of {USERS} after the hurry");
        assert_eq!(renewed_within(ROUND + Duration::from_secs(1), &users).await, USERS);
    }
}
