//! Asking the API server who a client is: it knows the client's cookies.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::remote::Remote;
use super::{Credentials, instant_at, unauthorized};
use crate::gate::Gate;
use crate::id::{ClientId, UserId};
use crate::protocol::code::{Code, Refusal};
use crate::protocol::json;

/// Questions at once: when all clients come back together, the API server must not drown.
const QUESTIONS: usize = 64;
/// Clients that may wait for their turn; more are turned away at once, and come back with backoff.
pub const QUEUE: usize = 4096;
/// How long they wait.
const TURN: Duration = Duration::from_secs(5);

/// The API server.
pub struct Api {
    url: Uri,
    remote: Remote,
    gate: Gate,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    user_id: Option<&'a str>,
    client_id: &'a str,
    ip: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    user_id: String,
    expires_at: Option<f64>,
}

impl Api {
    /// The API server that is asked at `url`; `queue` clients may wait for their turn.
    ///
    /// # Errors
    /// Where it speaks TLS and there is nobody to trust.
    pub fn new(url: Uri, queue: usize) -> Result<Self, String> {
        let remote = Remote::new("--api-server-url", &url)?;
        Ok(Self { url, remote, gate: Gate::new(QUESTIONS, queue, TURN) })
    }

    /// Who the client is, and until when. `token` is passed on as its own where it brought no `Authorization`.
    ///
    /// # Errors
    /// `unauthorized` where the server says so, `unavailable` where it says nothing that can be understood.
    pub async fn ask(
        &self,
        credentials: &Credentials,
        token: Option<&str>,
        user: Option<&UserId>,
        client: &ClientId,
    ) -> Result<(UserId, Option<Instant>), Refusal> {
        let question = self.question(credentials, token, user, client)?;
        let Some(_turn) = self.gate.enter().await else {
            return Err(Refusal::new(Code::Unavailable, "too many clients are being looked at now"));
        };
        let answer = self.remote.ask(question).await.and_then(|(status, body)| match status {
            StatusCode::OK => understood(&body).map(Some),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(None),
            status => Err(format!("it answered {}", status.as_u16())),
        });
        match answer {
            Ok(verdict) => {
                self.remote.note(Ok(()));
                let (user, expires) = verdict.ok_or_else(|| unauthorized("the API server refuses"))?;
                let ended = || unauthorized("what the API server granted has ended already");
                Ok((user, expires.map(|at| instant_at(at).ok_or_else(ended)).transpose()?))
            }
            Err(why) => {
                self.remote.note(Err(&why));
                Err(Refusal::new(Code::Unavailable, "the API server that knows clients cannot be asked now"))
            }
        }
    }

    fn question(
        &self,
        credentials: &Credentials,
        token: Option<&str>,
        user: Option<&UserId>,
        client: &ClientId,
    ) -> Result<Request<Full<Bytes>>, Refusal> {
        let question = Question {
            user_id: user.map(UserId::as_str),
            client_id: client.as_str(),
            ip: credentials.ip.to_string(),
        };
        // Plain structs of text always serialize.
        let body = serde_json::to_vec(&question).unwrap_or_default();
        let mut request = Request::post(self.url.clone()).body(Full::from(body)).map_err(|_| unreadable())?;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in [(header::COOKIE, &credentials.cookie), (header::ORIGIN, &credentials.origin)] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        if let Some(authorization) = &credentials.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        } else if let Some(token) = token {
            let bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| unreadable())?;
            headers.insert(header::AUTHORIZATION, bearer);
        }
        Ok(request)
    }
}

fn unreadable() -> Refusal {
    unauthorized("the token has characters that no header may carry")
}

/// The user and the Unix seconds until which it may stay.
fn understood(body: &[u8]) -> Result<(UserId, Option<f64>), String> {
    let verdict: Verdict = json::object_of(body).map_err(|_| {
        r#"it answered 200, but not {"userId":"...","expiresAt":<Unix seconds, or left out>}"#.to_owned()
    })?;
    let user =
        verdict.user_id.parse().map_err(|_| "it answered 200 with a userId that is none".to_owned())?;
    Ok((user, verdict.expires_at))
}
