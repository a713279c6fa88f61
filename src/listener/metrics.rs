//! `GET /metrics`: what is counted, and the levels of this moment.

use std::time::Duration;

use hyper::StatusCode;
use tokio::time::timeout;
use tracing::error;

use super::Ports;
use super::http::{self, Answer};
use crate::protocol::code::Refusal;

/// Prometheus gives a scrape ten seconds by default; what Redis does not tell in one stays as it was.
const PATIENCE: Duration = Duration::from_secs(1);

/// The text for Prometheus.
pub async fn handle(ports: &Ports) -> Answer {
    let (router, engine, metrics) = (&ports.router, ports.router.engine(), ports.router.metrics());
    let lag = timeout(PATIENCE, engine.lag()).await.ok().and_then(Result::ok).unwrap_or_default();
    for (gauge, level) in [
        (&metrics.sessions, router.registry().len()),
        (&metrics.users, router.registry().users()),
        (&metrics.connections, ports.clients.taken()),
        (&metrics.most_connections, ports.clients.most),
        (&metrics.redis_up, usize::from(engine.is_up() && router.lease().is_held())),
        (&metrics.redis_masters_away, engine.masters_away()),
        (&metrics.redis_may_evict, usize::from(engine.warning().is_some())),
        (&metrics.ready, usize::from(ports.is_ready().is_ok())),
        (&metrics.draining, usize::from(ports.is_draining())),
    ] {
        gauge.set(i64::try_from(level).unwrap_or(i64::MAX));
    }
    for (gauge, lag) in [(&metrics.inbox_lag, lag.inbox), (&metrics.ingress_lag, lag.ingress)] {
        if let Some(lag) = lag.and_then(|lag| i64::try_from(lag).ok()) {
            gauge.set(lag);
        }
    }
    match metrics.text() {
        Ok(text) => http::answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
        Err(error) => {
            error!(%error, "the metrics cannot be told");
            http::refuse(&Refusal::unavailable())
        }
    }
}
