//! A server that is asked over HTTP: one that knows users, or one that knows keys.

use std::fmt::Display;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::lock::lock;
use crate::tls;

/// For connecting and for the answer, together.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const MAX_ANSWER: usize = 256 * 1024;
/// An unused connection is kept so long: less than the 5 s after which common servers hang up, perhaps just as a
/// request is on its way.
const IDLE: Duration = Duration::from_secs(4);
/// A server that comes and goes is not told of more often than this.
const QUIET: Duration = Duration::from_secs(10);

/// A server.
pub struct Remote {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// The setting that names it.
    flag: &'static str,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The log has it that the server is away.
    told: bool,
    /// When it was told so last.
    last_told: Option<Instant>,
}

/// A URL that can be asked: `http://` or `https://`, and no credentials in it, which would end in logs.
pub fn url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri.authority().filter(|host| !host.as_str().contains('@') && !host.host().is_empty())?;
    // Which port is the standard one does not matter here.
    (known && port(host.as_str(), 80).is_some()).then_some(uri)
}

/// The port that stands behind a URL's host, `standard` where none does. One that cannot be read is none: it must not
/// silently become the standard one, as it does for `http::Uri`.
pub fn port(authority: &str, standard: u16) -> Option<u16> {
    let after_host = authority.rsplit(']').next()?;
    match after_host.rsplit_once(':') {
        Some((_, port)) => port.parse().ok().filter(|port| *port != 0),
        None => Some(standard),
    }
}

impl Remote {
    /// The server of `uri`, which the setting `flag` names.
    ///
    /// # Errors
    /// Where it speaks TLS and there is nobody to trust.
    pub fn new(flag: &'static str, uri: &Uri) -> Result<Self, String> {
        let secure = uri.scheme_str() == Some("https");
        let tls = if secure { tls::trusting_system() } else { tls::trusting_nobody() };
        let tls = tls.map_err(|error| format!("{flag}: {error}"))?;
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { client, flag, state: Mutex::default() })
    }

    /// Sends a request, and gives the answer whole. Whether it is one that the server should have given is the
    /// caller's to say: [`Remote::note`].
    ///
    /// # Errors
    /// Why there is no answer, in words that quote nothing of the request.
    pub async fn ask(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
        let asked = async {
            let answer = self.client.request(request).await.map_err(|error| causes(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map_err(|_| "its answer broke off, or is too large".to_owned())?.to_bytes()))
        };
        timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(format!("silent for {} s", PATIENCE.as_secs())))
    }

    /// Says in the log that the server is away, once for each outage, and that it is back. Where an outage was told of
    /// less than 10 s ago, the next is told of only if it still lasts after that.
    pub fn note(&self, answered: Result<(), &dyn Display>) {
        let mut state = lock(&self.state);
        match answered {
            Err(why) if !state.told && state.last_told.is_none_or(|last| last.elapsed() >= QUIET) => {
                state.told = true;
                state.last_told = Some(Instant::now());
                warn!("{} is away: {why}", self.flag);
            }
            Ok(()) if std::mem::take(&mut state.told) => info!("{} is back", self.flag),
            _ => {}
        }
    }
}

/// An error with what lies behind it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_shortly_after_another_is_told_once_it_lasts() {
        let remote = Remote::new("--api-server-url", &url("http://h").unwrap()).unwrap();
        // Whether the log has it that the server is away.
        let after = |answered: Result<(), &dyn Display>| {
            remote.note(answered);
            lock(&remote.state).told
        };
        assert!(after(Err(&"refused")));
        assert!(!after(Ok(())));
        assert!(!after(Err(&"refused")), "it comes and goes");
        tokio::time::advance(QUIET).await;
        assert!(after(Err(&"refused")), "it has stayed away");
        assert!(after(Err(&"refused")) && !after(Ok(())));
    }

    #[test]
    fn urls_that_can_be_asked_and_no_others() {
        for good in ["http://h", "https://h:8443/a/b", "http://127.0.0.1:3000/", "https://[::1]/x?y=z"] {
            assert!(url(good).is_some(), "{good}");
        }
        for bad in ["", "h", "/etc/keys", "ftp://h/", "http://", "http://u:p@h/", "https:///x"] {
            assert!(url(bad).is_none(), "{bad}");
        }
        for port in ["", "0", "99999", "$API_PORT", "${API_PORT}", "http"] {
            for host in ["h", "127.0.0.1", "[::1]"] {
                assert!(url(&format!("http://{host}:{port}")).is_none(), "{host} {port}");
                assert!(url(&format!("https://{host}:{port}/x")).is_none(), "{host} {port}");
            }
        }
    }
}
