//! Which node reads which ingress stream: each live node its share.
//!
//! A lease decides who reads (`lead`); here a node only holds back, or gives a stream away, so that others get some.
//! It holds back for a lease's time at most: a stream that nobody else wants is read by whoever has too many already.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{Context, status};
use crate::engine::Unavailable;

/// A stream that nobody else wanted is kept for so many lease times before others are given the chance again: giving
/// it away costs one of them.
const KEPT: u32 = 30;

/// The streams that this node reads.
#[derive(Debug, Default)]
pub struct Turns {
    reads: AtomicUsize,
}

/// One stream, as this node has dealt with it.
#[derive(Debug, Default)]
pub struct StreamTurn {
    /// Since when it is left to others.
    held_back: Option<Instant>,
    /// Nobody else wanted it until then.
    kept_until: Option<Instant>,
}

impl Turns {
    /// Whether this node should try to get a stream now.
    pub async fn may_take(&self, context: &Context, turn: &mut StreamTurn) -> bool {
        let enough = match share(context).await {
            Ok(share) => self.reads.load(Ordering::Acquire) >= share,
            Err(_) => false, // then it will not get it either
        };
        if !enough {
            turn.held_back = None;
            return true;
        }
        let since = *turn.held_back.get_or_insert_with(Instant::now);
        since.elapsed() >= context.config.node_ttl
    }

    /// Another node has it.
    pub fn missed(&self, turn: &mut StreamTurn) {
        turn.held_back = None;
    }

    /// It is this node's.
    pub fn taken(&self, turn: &mut StreamTurn, ttl: Duration) {
        self.reads.fetch_add(1, Ordering::AcqRel);
        turn.kept_until = turn.held_back.take().map(|_| Instant::now() + ttl * KEPT);
    }

    /// Whether it should go to a node that has less; it is let go by that.
    pub async fn give_away(&self, context: &Context, turn: &mut StreamTurn) -> bool {
        if turn.kept_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let Ok(share) = share(context).await else { return false };
        let fewer = |reads: usize| (reads > share).then(|| reads - 1);
        let given = self.reads.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok();
        if given {
            turn.held_back = Some(Instant::now());
        }
        given
    }

    /// It is not this node's any more.
    pub fn ended(&self) {
        self.reads.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Streams that one node should read.
async fn share(context: &Context) -> Result<usize, Unavailable> {
    let streams = context.config.ingress.len();
    if streams == 1 {
        return Ok(1);
    }
    let live = status::live(context).await?;
    Ok(streams.div_ceil(usize::try_from(live).unwrap_or(1).max(1)))
}
