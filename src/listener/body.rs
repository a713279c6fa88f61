//! Bodies of requests, read within bounds: of one, of all together, of how many, and of time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::{Request, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::protocol::code::{Code, Refusal};

/// Bytes of all bodies together: four of the largest, or 256,000 of an event's usual size.
pub const ALL: usize = 256 * 1024 * 1024;
/// Bytes a second that a body must come with, once its first `--hello-timeout` is over.
const LEAST_RATE: u32 = 16 * 1024;
/// Bytes of a refused body that are read all the same, and for how long: who is still sending when the connection ends
/// may lose the answer.
const DISCARDED: usize = 64 * 1024 * 1024;
const DISCARDING: Duration = Duration::from_secs(1);

/// What all bodies share.
pub struct Bodies {
    requests: Arc<Semaphore>,
    refused: Semaphore,
    bytes: Arc<Semaphore>,
    patience: Duration,
}

/// A body, and its share of the bounds, which it gives back when it is dropped.
pub struct Body {
    /// What was sent.
    pub bytes: Bytes,
    _request: OwnedSemaphorePermit,
    _share: Option<OwnedSemaphorePermit>,
}

fn busy() -> Refusal {
    Refusal::new(Code::Unavailable, "too many requests are under way; nothing was accepted, try again")
}

impl Bodies {
    /// Bounds for `most` requests at once and `bytes` in all; each may take `patience`, and longer where it brings
    /// much.
    pub fn new(most: usize, bytes: usize, patience: Duration) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(most)),
            refused: Semaphore::new(most),
            bytes: Arc::new(Semaphore::new(bytes)),
            patience,
        }
    }

    /// Reads a body that may have `most` bytes.
    ///
    /// # Errors
    /// `too_large`; `unavailable` where all bodies together are; `invalid_frame` where it broke off or came too
    /// slowly.
    pub async fn read(&self, request: &mut Request<Incoming>, most: usize) -> Result<Body, Refusal> {
        let too_large =
            || Refusal::new(Code::TooLarge, format!("the request is larger than the {most} bytes allowed"));
        // What says so itself need not come first.
        if request.body().size_hint().lower() > u64::try_from(most).unwrap_or(u64::MAX) {
            return Err(too_large());
        }
        let place = self.requests.clone().try_acquire_owned().map_err(|_| busy())?;
        // Who asked first whether to send it is told so now.
        request.headers_mut().remove(header::EXPECT);
        let body = request.body_mut();
        let mut read = BytesMut::new();
        let mut share: Option<OwnedSemaphorePermit> = None;
        let start = Instant::now();
        loop {
            let seconds = u32::try_from(read.len()).unwrap_or(u32::MAX) / LEAST_RATE;
            let deadline = start + self.patience + Duration::from_secs(seconds.into());
            let frame = timeout_at(deadline, body.frame()).await.map_err(|_| {
                Refusal::new(Code::InvalidFrame, "the request came too slowly (--hello-timeout)")
            })?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| Refusal::new(Code::InvalidFrame, "the request broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > most {
                return Err(too_large());
            }
            let count = u32::try_from(data.len()).map_err(|_| busy())?;
            let more = self.bytes.clone().try_acquire_many_owned(count).map_err(|_| busy())?;
            match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            }
            read.extend_from_slice(&data);
        }
        Ok(Body { bytes: read.freeze(), _request: place, _share: share })
    }

    /// Reads on where a request that has its answer is still being sent; of so many at once as may be read. Says whether
    /// that was all of it: else no other request can follow.
    pub async fn discard(&self, request: &mut Request<Incoming>) -> bool {
        if request.body().is_end_stream() {
            return true;
        }
        // Whoever asks first whether to send it has not begun.
        if request.headers().contains_key(header::EXPECT) {
            return false;
        }
        let Ok(_place) = self.refused.try_acquire() else { return false };
        let body = request.body_mut();
        let mut left = DISCARDED;
        let rest = async {
            while let Some(frame) = body.frame().await {
                let size = frame.ok()?.data_ref().map_or(0, Bytes::len);
                left = left.checked_sub(size)?;
            }
            Some(())
        };
        timeout(DISCARDING, rest).await.is_ok_and(|all| all.is_some())
    }
}
