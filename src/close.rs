//! Every close code, with what it tells the client to do. The one table of its kind.

use std::time::Duration;

/// Why the node closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The client said goodbye, or a worker's connection is done.
    Normal,
    /// A binary frame: only text is spoken here.
    Binary,
    /// A frame broke RFC 6455.
    Protocol,
    /// A text frame was not UTF-8.
    NotUtf8,
    /// A frame was larger than allowed.
    TooBig,
    /// The node drains: come back after this long.
    Drain(Duration),
    /// The connection reached its greatest age.
    Age,
    /// The node cannot serve this client now.
    Overloaded,
    /// The hello frame could not be read.
    BadHello,
    /// No, or no valid, credentials.
    Unauthorized,
    /// The client's token, or what its API server granted, has run out.
    Expired,
    /// No hello frame in time.
    HelloTimeout,
    /// A newer connection has the same user and client id.
    Replaced,
    /// An operator closed the session.
    SignedOut,
    /// Messages kept coming faster than allowed.
    RateLimited,
    /// No pong in time.
    PongTimeout,
    /// The node lost its lease and may not speak for its id any more.
    LeaseLost,
}

impl Close {
    /// Each of them once.
    pub const ALL: [Close; 17] = [
        Close::Normal,
        Close::Binary,
        Close::Protocol,
        Close::NotUtf8,
        Close::TooBig,
        Close::Drain(Duration::ZERO),
        Close::Age,
        Close::Overloaded,
        Close::BadHello,
        Close::Unauthorized,
        Close::Expired,
        Close::HelloTimeout,
        Close::Replaced,
        Close::SignedOut,
        Close::RateLimited,
        Close::PongTimeout,
        Close::LeaseLost,
    ];

    /// The WebSocket close code.
    pub fn code(self) -> u16 {
        match self {
            Close::Normal => 1000,
            Close::Protocol => 1002,
            Close::Binary => 1003,
            Close::NotUtf8 => 1007,
            Close::TooBig => 1009,
            Close::Drain(_) | Close::Age => 1012,
            Close::Overloaded => 1013,
            Close::BadHello => 4000,
            Close::Unauthorized => 4001,
            Close::Expired => 4002,
            Close::HelloTimeout => 4008,
            Close::Replaced => 4009,
            Close::SignedOut => 4010,
            Close::RateLimited => 4100,
            Close::PongTimeout => 4200,
            Close::LeaseLost => 4201,
        }
    }

    /// The reason, in the `bye` frame and in the close frame.
    pub fn reason(self) -> &'static str {
        match self {
            Close::Normal => "normal",
            Close::Protocol => "protocol error",
            Close::Binary => "binary frame",
            Close::NotUtf8 => "not UTF-8",
            Close::TooBig => "too big",
            Close::Drain(_) => "drain",
            Close::Age => "age",
            Close::Overloaded => "overloaded",
            Close::BadHello => "bad hello",
            Close::Unauthorized => "unauthorized",
            Close::Expired => "token expired",
            Close::HelloTimeout => "hello timeout",
            Close::Replaced => "replaced by a newer connection",
            Close::SignedOut => "signed out",
            Close::RateLimited => "rate limit exceeded",
            Close::PongTimeout => "pong timeout",
            Close::LeaseLost => "node lost its lease",
        }
    }

    /// The reason as one word, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Close::Normal => "normal",
            Close::Protocol => "protocol_error",
            Close::Binary => "binary_frame",
            Close::NotUtf8 => "not_utf8",
            Close::TooBig => "too_big",
            Close::Drain(_) => "drain",
            Close::Age => "age",
            Close::Overloaded => "overloaded",
            Close::BadHello => "bad_hello",
            Close::Unauthorized => "unauthorized",
            Close::Expired => "token_expired",
            Close::HelloTimeout => "hello_timeout",
            Close::Replaced => "replaced",
            Close::SignedOut => "signed_out",
            Close::RateLimited => "rate_limit",
            Close::PongTimeout => "pong_timeout",
            Close::LeaseLost => "lease_lost",
        }
    }

    /// Whether the client is sent to another node; it has a moment to confirm what it has.
    pub fn moves_on(self) -> bool {
        matches!(self, Close::Drain(_) | Close::Age)
    }

    /// Whether the client should come back by itself.
    pub fn reconnect(self) -> bool {
        comes_back(self.code())
    }

    /// How long the client should wait before it comes back, where the node knows.
    pub fn after(self) -> Option<Duration> {
        match self {
            Close::Drain(after) => Some(after),
            Close::Age => Some(Duration::ZERO),
            _ => comes_back_at_once(self.code()).then_some(Duration::ZERO),
        }
    }
}

/// Whether a client whose connection was closed with this code should come back by itself: 1012, 1013, 4100 to 4299.
pub fn comes_back(code: u16) -> bool {
    matches!(code, 1012 | 1013 | 4100..=4299)
}

/// Whether it should do so at once: 4200 to 4299.
pub fn comes_back_at_once(code: u16) -> bool {
    matches!(code, 4200..=4299)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_listed() {
        let named = include_str!("close.rs").lines().filter(|line| line.contains(" => \"")).count();
        assert_eq!(named, 2 * Close::ALL.len(), "each has a reason and a label");
    }
}
