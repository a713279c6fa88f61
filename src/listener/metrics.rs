//! `GET /metrics`: what is counted, and the levels of this moment.

use std::time::Duration;

use hyper::StatusCode;
use tokio::time::timeout;
use tracing::error;

use super::Ports;
use super::http::{self, Answer};
use crate::metrics::Levels;
use crate::protocol::code::Refusal;

/// Prometheus gives a scrape ten seconds by default; what Redis does not tell in one stays as it was.
const PATIENCE: Duration = Duration::from_secs(1);

/// The text for Prometheus.
pub async fn handle(ports: &Ports) -> Answer {
    let (router, engine) = (&ports.router, ports.router.engine());
    let lag = timeout(PATIENCE, engine.lag()).await.ok().and_then(Result::ok).unwrap_or_default();
    let most_connections = ports.most_places as usize;
    let levels = Levels {
        sessions: router.registry().len(),
        users: router.registry().users(),
        connections: most_connections - ports.places.available_permits(),
        most_connections,
        redis_up: engine.is_up() && router.lease().is_held(),
        redis_may_evict: engine.warning().is_some(),
        ready: ports.is_ready().is_ok(),
        draining: ports.is_draining(),
        inbox_lag: lag.inbox,
        ingress_lag: lag.ingress,
    };
    match router.metrics().text(&levels) {
        Ok(text) => http::answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
        Err(error) => {
            error!(%error, "the metrics cannot be told");
            http::refuse(&Refusal::unavailable())
        }
    }
}
