//! The lease on an ingress stream: one process at a time has it, and reads.

use std::time::Duration;

use tokio::time::Instant;

use super::{Context, ms, reply, scripts};
use crate::engine::Unavailable;

/// The lease, as this process has it.
pub struct Lease<'a> {
    context: &'a Context,
    /// As `--ingress` names it.
    stream: &'a str,
    /// By this process's own clock, counted from when it was asked for.
    end: Instant,
}

/// Why a stream may not be read on.
#[derive(Debug, thiserror::Error)]
pub enum NotHeld {
    /// Redis was not asked, or did not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Another process reads it now.
    #[error("the ingress lease went to another process")]
    Lost,
}

impl<'a> Lease<'a> {
    /// Takes it; none where another process has it.
    ///
    /// # Errors
    /// Where Redis is away.
    pub async fn take(context: &'a Context, stream: &'a str) -> Result<Option<Self>, Unavailable> {
        let mut lease = Self { context, stream, end: Instant::now() };
        match lease.renew().await {
            Ok(()) => Ok(Some(lease)),
            Err(NotHeld::Lost) => Ok(None),
            Err(NotHeld::Unavailable(error)) => Err(error),
        }
    }

    /// Whether this process may not publish any more what it has read.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Renews it where it is time for that; true where it was.
    ///
    /// # Errors
    /// Where Redis is away, or another process has it.
    pub async fn renew_in_time(&mut self) -> Result<bool, NotHeld> {
        let due = self.end.saturating_duration_since(Instant::now()) < self.context.config.node_ttl * 2 / 3;
        if due {
            self.renew().await?;
        }
        Ok(due)
    }

    /// Renews it.
    ///
    /// # Errors
    /// As [`Lease::renew_in_time`].
    pub async fn renew(&mut self) -> Result<(), NotHeld> {
        let (asked, ttl) = (Instant::now(), self.context.config.node_ttl);
        if !lead(self.context, self.stream, ttl).await? {
            return Err(NotHeld::Lost);
        }
        self.end = asked + ttl;
        Ok(())
    }
}

/// Gives it back, if this process has it.
///
/// # Errors
/// Where Redis is away: then it lapses.
pub async fn give_back(context: &Context, stream: &str) -> Result<(), Unavailable> {
    lead(context, stream, Duration::ZERO).await.map(drop)
}

async fn lead(context: &Context, stream: &str, ttl: Duration) -> Result<bool, Unavailable> {
    let mut call = scripts::call(&scripts::LEAD, 1, 3);
    call.arg(context.keys.ingress(stream))
        .arg(context.config.node.as_str())
        .arg(&context.config.boot)
        .arg(ms(ttl));
    Ok(reply::integer(&context.link.run_one(call).await?)? == 1)
}
