//! Whether Redis may throw keys away by itself when its memory is full. No promise about logs holds then, so it is
//! said at the start, in `/readyz` and in the metrics.

use std::sync::{Arc, Mutex};

use redis::cmd;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Context, reply};
use crate::engine::Unavailable;
use crate::lock::lock;

/// The one policy under which nothing is thrown away.
const SAFE: &str = "noeviction";

/// What was found last.
#[derive(Debug, Default)]
pub struct Eviction(Mutex<Option<String>>);

impl Eviction {
    /// What an operator should know, if anything.
    pub fn warning(&self) -> Option<String> {
        let policy = lock(&self.0).clone()?;
        Some(format!("Redis may evict logs and streams (maxmemory-policy {policy}); set it to {SAFE}"))
    }

    fn found(&self, policy: String) {
        let mut known = lock(&self.0);
        let unsafe_one = Some(policy).filter(|policy| policy != SAFE);
        let changed = *known != unsafe_one;
        *known = unsafe_one;
        match &*known {
            Some(policy) if changed => warn!(
                policy,
                "Redis may evict logs and streams when its memory is full: events may be lost; set maxmemory-policy noeviction"
            ),
            None if changed => info!("Redis does not evict any more"),
            _ => {}
        }
    }
}

/// Looks now and then: an operator may set the policy at any time.
pub async fn watch(context: Arc<Context>) {
    loop {
        sleep(context.config.session_ttl).await;
        if context.link.is_up() {
            look(&context).await;
        }
    }
}

/// Looks now. Where Redis does not tell, nothing is known and nothing said.
pub async fn look(context: &Context) {
    if let Ok(Some(policy)) = policy(context).await {
        context.eviction.found(policy);
    }
}

/// Of several masters one that may evict is enough. `CONFIG` would tell it as well, but is a right that hosted servers and
/// careful operators do not give.
async fn policy(context: &Context) -> Result<Option<String>, Unavailable> {
    let mut info = cmd("INFO");
    info.arg("memory");
    let mut policies = Vec::new();
    for info in context.link.probe_all(info).await {
        policies.extend(
            reply::text(&info?)?.lines().find_map(|line| {
                line.strip_prefix("maxmemory_policy:").map(|policy| policy.trim().to_owned())
            }),
        );
    }
    Ok(policies.into_iter().max_by_key(|policy| policy != SAFE))
}
