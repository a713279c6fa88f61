//! Who may connect, as whom, and until when.
//!
//! One verb, [`Auth::admit`]: from what a client brings along to a [`Grant`], or to a refusal. Whether that refusal is
//! an HTTP status or a close code is its caller's matter: it depends on where the client said who it is.

pub mod api;
mod credentials;
mod crypto;
pub mod jwks;
pub mod jwt;
pub mod key;
pub mod origin;
pub mod remote;

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use tokio::time::Instant;

use crate::id::UserId;
use crate::ms::unix;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::hello::{Hello, Identity};
use api::Api;
pub use credentials::{Credentials, bearer};
use jwt::Jwt;

/// How clients are authenticated, as it was asked for.
#[derive(Debug, Clone)]
pub enum Config {
    /// A client is whoever it says it is.
    None,
    /// By a signed token.
    Jwt(jwt::Config),
    /// By the API server, which is asked at this URL.
    Api(Uri),
}

/// How clients are authenticated.
pub enum Auth {
    /// A client is whoever it says it is.
    None,
    /// By a signed token.
    Jwt(Box<Jwt>),
    /// By the API server.
    Api(Box<Api>),
}

/// A client may connect.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    /// As whom.
    pub identity: Identity,
    /// Until when, if that is bounded.
    pub expires: Option<Instant>,
}

/// What a session needs of how its client was let in.
pub struct Pass {
    /// How it may be let stay.
    pub auth: Arc<Auth>,
    /// Until when it may stay, if that is bounded.
    pub expires: Option<Instant>,
}

impl Auth {
    /// Starts what the mode needs. `questions` clients may wait until the API server is asked about them.
    ///
    /// # Errors
    /// Where a server is to be asked by TLS and there is nobody to trust.
    pub fn start(config: Config, questions: usize) -> Result<Self, String> {
        Ok(match config {
            Config::None => Auth::None,
            Config::Jwt(config) => Auth::Jwt(Box::new(Jwt::start(config)?)),
            Config::Api(url) => Auth::Api(Box::new(Api::new(url, questions)?)),
        })
    }

    /// Whether an upgrade says who it is for, so that no hello frame is awaited. `hello` is its query string.
    pub fn is_named(&self, credentials: &Credentials, hello: &Hello) -> bool {
        let named = hello.user_id.is_some();
        match self {
            Auth::None => named,
            Auth::Jwt(_) => named || hello.token.is_some() || credentials.token().is_some(),
            // Browsers bring cookies whether a hello follows or not: they alone say nothing.
            Auth::Api(_) => {
                let query =
                    named || hello.client_id.is_some() || hello.since.is_some() || hello.token.is_some();
                query || credentials.token().is_some() || credentials.authorization.is_some()
            }
        }
    }

    /// Lets a client in, or says why not. `hello` is what it said of itself, in its query string or in its hello
    /// frame; `credentials` is what its request brought along.
    ///
    /// # Errors
    /// `invalid_user_id`, `invalid_client_id`, `invalid_since`; `unauthorized`; `unavailable` where that cannot be
    /// told now.
    pub async fn admit(&self, credentials: &Credentials, hello: &Hello) -> Result<Grant, Refusal> {
        let named = hello.user()?;
        let (client, since) = (hello.client()?, hello.since()?);
        // Who read it from a file or an answer has perhaps its line's end as well; in a header it would not count either.
        let token = credentials.token().or(hello.token.as_deref()).map(str::trim);
        let (user, expires) = match self {
            Auth::None => {
                let user = named.clone();
                (user.ok_or_else(|| Refusal::new(Code::InvalidUserId, "userId is missing"))?, None)
            }
            Auth::Jwt(jwt) => {
                let token = token.ok_or_else(|| {
                    unauthorized(
                        "a token is needed: in the hello, as subprotocol token.<jwt>, in Authorization: Bearer, or in \
                         the query",
                    )
                })?;
                let (user, expires) = jwt.verify(token).await?;
                (user, Some(expires))
            }
            Auth::Api(api) => api.ask(credentials, token, named.as_ref(), &client).await?,
        };
        if named.is_some_and(|named| named != user) {
            return Err(unauthorized("userId is another user than these credentials are for"));
        }
        Ok(Grant { identity: Identity { user, client, since }, expires })
    }

    /// When the credentials of a connected user end instead, by a token that it sent.
    ///
    /// # Errors
    /// `unauthorized` where the token is not good for this user; `unavailable`; `invalid_frame` where no tokens are
    /// taken.
    pub async fn renew(&self, user: &UserId, token: &str) -> Result<Instant, Refusal> {
        match self {
            Auth::None | Auth::Api(_) => {
                Err(Refusal::new(Code::InvalidFrame, "token frames are taken with --auth jwt only"))
            }
            Auth::Jwt(jwt) => match jwt.verify(token.trim()).await? {
                (of, expires) if of == *user => Ok(expires),
                _ => Err(unauthorized("the token is another user's")),
            },
        }
    }
}

fn unauthorized(why: &str) -> Refusal {
    Refusal::new(Code::Unauthorized, why)
}

/// When credentials end that are good until then, Unix seconds; none where that is past.
fn instant_at(until: f64) -> Option<Instant> {
    /// No connection lives longer, and no clock here has to count beyond it.
    const CENTURY: f64 = 100.0 * 365.0 * 86_400.0;
    let left = until - unix().as_secs_f64();
    (left > 0.0).then(|| Instant::now() + Duration::from_secs_f64(left.min(CENTURY)))
}
