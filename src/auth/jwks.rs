//! A set of keys that changes while the node runs: keys are rotated by adding the next one, signing with it, and taking
//! the old one away.
//!
//! One task reads the set, and again where a token names a key that is not in it, at most once a second whatever is
//! asked of it. Who waits for that shares it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::{Request, StatusCode, Uri};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::key::{Key, Set, set_of};
use super::remote::Remote;
use super::unauthorized;
use crate::protocol::code::{Code, Refusal};

/// Between two readings: an unknown `kid` costs its sender nothing, so it must not cost the source much.
const PAUSE: Duration = Duration::from_secs(1);
/// The set is read again after this time even if nobody asks: a key that was taken away is refused by then.
const MAX_AGE: Duration = Duration::from_secs(300);
/// The same while it cannot be read.
const RETRY: Duration = Duration::from_secs(5);
/// How long a client waits for a reading.
const PATIENCE: Duration = Duration::from_secs(6);

/// Where the set is.
#[derive(Debug, Clone)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// At a URL.
    Url(Uri),
}

enum Reader {
    File(PathBuf),
    Url(Uri, Box<Remote>),
}

/// The set as it was read last.
#[derive(Default)]
struct Known {
    keys: Arc<[Key]>,
    /// How many readings have begun.
    begun: u64,
    /// How many of them are done.
    done: u64,
    /// The last reading failed.
    stale: bool,
}

impl Known {
    fn has(&self, kid: Option<&str>) -> bool {
        self.keys.iter().any(|key| kid.is_none() || key.id.as_deref() == kid)
    }
}

/// The set.
pub struct Jwks {
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
}

impl Jwks {
    /// Starts to read the set.
    ///
    /// # Errors
    /// Where it comes by TLS and there is nobody to trust.
    pub fn start(source: Source) -> Result<Self, String> {
        let reader = match source {
            Source::File(path) => Reader::File(path),
            Source::Url(url) => {
                let remote = Box::new(Remote::new("--jwt-jwks", &url)?);
                Reader::Url(url, remote)
            }
        };
        let (tell, known) = watch::channel(Known::default());
        let wanted = Arc::new(Notify::new());
        tokio::spawn(keep(reader, tell, wanted.clone()));
        Ok(Self { known, wanted })
    }

    /// Whether there is a key of this name now.
    pub fn has(&self, kid: Option<&str>) -> bool {
        self.known.borrow().has(kid)
    }

    /// The keys that are here and may have signed a token with this `kid`: those of that name, and those without one.
    pub fn fitting(&self, kid: Option<&str>) -> Vec<Key> {
        let fits = |key: &&Key| kid.is_none() || key.id.is_none() || key.id.as_deref() == kid;
        self.known.borrow().keys.iter().filter(fits).cloned().collect()
    }

    /// As [`Jwks::fitting`]. Reads the set again first, where there is no key of that name.
    ///
    /// # Errors
    /// `unavailable` where the set cannot be read, or not in time, and such a key might be in it; `unauthorized` where it
    /// is not.
    pub async fn find(&self, kid: Option<&str>) -> Result<Vec<Key>, Refusal> {
        let mut known = self.known.clone();
        let (missing, begun) = {
            let known = known.borrow_and_update();
            (!known.has(kid), known.begun)
        };
        let mut late = false;
        if missing {
            self.wanted.notify_one();
            // A reading that is under way may have missed the key: the next one counts.
            let read = known.wait_for(|known| known.has(kid) || known.done > begun);
            late = timeout(PATIENCE, read).await.is_err();
        }
        let keys = self.fitting(kid);
        let known = self.known.borrow();
        // Keys without a name are no reason to believe that there is no such key.
        if !known.has(kid) && (late || known.stale || known.done == 0) {
            Err(Refusal::new(Code::Unavailable, "the keys that tokens are checked with cannot be had now"))
        } else if keys.is_empty() {
            Err(unauthorized("no key here is for the token's kid"))
        } else {
            Ok(keys)
        }
    }
}

/// Keeps the set up to date for as long as someone has a use for it.
async fn keep(reader: Reader, tell: watch::Sender<Known>, wanted: Arc<Notify>) {
    let (mut away, mut empty, mut misfits) = (false, false, Vec::new());
    loop {
        tell.send_modify(|known| known.begun += 1);
        let read = reader.read().await;
        match &read {
            Ok(set) if set.keys.is_empty() && !empty => {
                warn!("--jwt-jwks has no key for signatures by RS256, ES256 or EdDSA: no token is good now");
            }
            Ok(set) if away || empty && !set.keys.is_empty() || tell.borrow().done == 0 => {
                info!(keys = set.keys.len(), "--jwt-jwks: the keys are here");
            }
            Err(error) if !away => warn!(%error, "--jwt-jwks cannot be read; those keys that are known stay"),
            _ => {}
        }
        away = read.is_err();
        if let Ok(set) = &read {
            empty = set.keys.is_empty();
            if misfits != set.misfits {
                misfits.clone_from(&set.misfits);
                if !misfits.is_empty() {
                    warn!(kid = %misfits.join(", "), "--jwt-jwks: RSA keys need 2048 to 8192 bits; no token by these is good");
                }
            }
        }
        tell.send_modify(|known| {
            known.done += 1;
            known.stale = away;
            if let Ok(set) = read {
                known.keys = set.keys.into();
            }
        });
        sleep(PAUSE).await;
        tokio::select! {
            () = wanted.notified() => {}
            () = sleep(if away { RETRY } else { MAX_AGE }) => {}
            () = tell.closed() => return,
        }
    }
}

impl Reader {
    async fn read(&self) -> Result<Set, String> {
        let text = match self {
            Reader::File(path) => tokio::fs::read(path).await.map_err(|error| error.to_string())?.into(),
            Reader::Url(url, remote) => {
                let request =
                    Request::get(url.clone()).body(Full::default()).map_err(|error| error.to_string())?;
                match remote.ask(request).await? {
                    (StatusCode::OK, text) => text,
                    (status, _) => return Err(format!("it answered {}", status.as_u16())),
                }
            }
        };
        set_of(&text).map_err(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_that_could_not_be_looked_for_in_time_is_not_unknown() {
        let (nameless, named) = (Key::of_secret("a"), Key { id: Some("1".into()), ..Key::of_secret("b") });
        for (keys, unknown) in
            [(vec![named.clone()], Some(Code::Unauthorized)), (vec![named, nameless], None)]
        {
            // A reading is under way, and goes on for longer than anyone waits.
            let (tell, known) = watch::channel(Known { keys: keys.into(), begun: 2, done: 1, stale: false });
            let set = Jwks { known, wanted: Arc::default() };
            let code =
                async |kid| set.find(Some(kid)).await.map_or_else(|refusal| Some(refusal.code), |_| None);
            assert_eq!(code("1").await, None);
            assert_eq!(code("2").await, Some(Code::Unavailable));
            // It and the next one are done, and no such key is there.
            let done = async { tell.send_modify(|known| known.done = 3) };
            assert_eq!(tokio::join!(code("2"), done).0, unknown, "a key without a name may be the one");
        }
    }
}
