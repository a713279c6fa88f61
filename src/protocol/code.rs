//! Every error code that a client, a worker or an HTTP caller may see, with its HTTP status.

use std::fmt;
use std::str::FromStr;

use crate::id::InvalidId;

/// An error code of the public interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Not JSON, an unknown or ill-typed field, a missing one.
    InvalidFrame,
    /// A user id outside its alphabet or length.
    InvalidUserId,
    /// A client id outside its alphabet or length.
    InvalidClientId,
    /// An event name outside its alphabet or length.
    InvalidEvent,
    /// An idempotency or collapse key outside its alphabet or length.
    InvalidKey,
    /// A `since` that is no event id.
    InvalidSince,
    /// None or several of `userId`, `userIds` and `broadcast`; `clientId` without `userId`.
    InvalidTarget,
    /// An event or a request beyond the limit.
    TooLarge,
    /// More than 1,000 items or user ids.
    TooManyItems,
    /// More messages a second than allowed.
    RateLimited,
    /// No, or no valid, credentials.
    Unauthorized,
    /// A browser's origin that is not on the list.
    OriginNotAllowed,
    /// The user has as many sessions as allowed.
    TooManySessions,
    /// There is nothing at this path.
    NotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// A plain request where a WebSocket upgrade is expected.
    UpgradeRequired,
    /// The node is going away.
    Draining,
    /// Redis is away, or the node is full.
    Unavailable,
}

impl Code {
    /// Each of them once.
    pub const ALL: [Code; 18] = [
        Code::InvalidFrame,
        Code::InvalidUserId,
        Code::InvalidClientId,
        Code::InvalidEvent,
        Code::InvalidKey,
        Code::InvalidSince,
        Code::InvalidTarget,
        Code::TooLarge,
        Code::TooManyItems,
        Code::RateLimited,
        Code::Unauthorized,
        Code::OriginNotAllowed,
        Code::TooManySessions,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::UpgradeRequired,
        Code::Draining,
        Code::Unavailable,
    ];

    /// The code as it stands in frames and bodies.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidFrame => "invalid_frame",
            Code::InvalidUserId => "invalid_user_id",
            Code::InvalidClientId => "invalid_client_id",
            Code::InvalidEvent => "invalid_event",
            Code::InvalidKey => "invalid_key",
            Code::InvalidSince => "invalid_since",
            Code::InvalidTarget => "invalid_target",
            Code::TooLarge => "too_large",
            Code::TooManyItems => "too_many_items",
            Code::RateLimited => "rate_limited",
            Code::Unauthorized => "unauthorized",
            Code::OriginNotAllowed => "origin_not_allowed",
            Code::TooManySessions => "too_many_sessions",
            Code::NotFound => "not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::UpgradeRequired => "upgrade_required",
            Code::Draining => "draining",
            Code::Unavailable => "unavailable",
        }
    }

    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Code::Unauthorized => 401,
            Code::OriginNotAllowed => 403,
            Code::NotFound => 404,
            Code::MethodNotAllowed => 405,
            Code::TooLarge => 413,
            Code::UpgradeRequired => 426,
            Code::TooManySessions | Code::RateLimited => 429,
            Code::Draining | Code::Unavailable => 503,
            _ => 400,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal that is told to the peer: a code for programs, a message for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// What programs look at.
    pub code: Code,
    /// What was wrong, and what is allowed.
    pub message: String,
}

impl Refusal {
    /// A refusal with this code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Redis is away, or has too few replicas: what was asked for may have happened, but nobody can tell.
    pub fn unavailable() -> Self {
        Self::new(
            Code::Unavailable,
            "Redis is away or refuses this (the node's log says why, and GET /readyz once it is all of Redis), or there are too few replicas (--wait-replicas); it may or may not have been done: try again, with a key where once is enough",
        )
    }

    /// More than this node takes on at a time.
    pub fn full() -> Self {
        Self::new(
            Code::Unavailable,
            "too much is waiting in this node; this, or of several users what is for some of them, has not been done: try again, with a key where once is enough",
        )
    }

    /// A key of this user's is not as the relay left it.
    pub fn broken_key() -> Self {
        Self::new(
            Code::Unavailable,
            "a key of this user's in Redis (user:<id>, or one of its companions) holds something else than it should: trying again does not help until an operator mends it (the node's log says more)",
        )
    }

    /// What was asked cannot be read now. On a Cluster a part of Redis may be away while the node is ready.
    pub fn unread() -> Self {
        Self::new(
            Code::Unavailable,
            "what was asked is in Redis, which does not answer now, or not for this part of it, or does not know this node (GET /readyz says why where it is away as a whole): try again",
        )
    }

    /// What becomes of an id or name that is not one, under `code`; whoever sent it calls it `name`.
    pub fn invalid(name: &'static str, code: Code) -> impl Fn(InvalidId) -> Self {
        move |error| Self::new(code, error.called(name).to_string())
    }

    /// The node is going away.
    pub fn draining() -> Self {
        Self::new(Code::Draining, "this node is draining; connect to another")
    }
}

/// An id or name, where there is one; whoever sent it calls it `name`.
///
/// # Errors
/// With `code`, where it is not one.
pub(super) fn parse<T: FromStr<Err = InvalidId>>(
    text: Option<&str>,
    name: &'static str,
    code: Code,
) -> Result<Option<T>, Refusal> {
    text.map(str::parse).transpose().map_err(Refusal::invalid(name, code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_listed() {
        let named = include_str!("code.rs").lines().filter(|line| line.contains(" => \"")).count();
        assert_eq!(named, Code::ALL.len());
    }
}
