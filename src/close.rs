//! Every close code, with what it tells the client to do. The one table of its kind.

use std::time::Duration;

/// Why the node closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
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
    pub const ALL: [Close; 16] = [
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

    /// The WebSocket close code, the reason, and the reason as one word.
    fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Close::Protocol => (1002, "protocol error", "protocol_error"),
            Close::Binary => (1003, "binary frame", "binary_frame"),
            Close::NotUtf8 => (1007, "not UTF-8", "not_utf8"),
            Close::TooBig => (1009, "too big", "too_big"),
            Close::Drain(_) => (1012, "drain", "drain"),
            Close::Age => (1012, "age", "age"),
            Close::Overloaded => (1013, "overloaded", "overloaded"),
            Close::BadHello => (4000, "bad hello", "bad_hello"),
            Close::Unauthorized => (4001, "unauthorized", "unauthorized"),
            Close::Expired => (4002, "token expired", "token_expired"),
            Close::HelloTimeout => (4008, "hello timeout", "hello_timeout"),
            Close::Replaced => (4009, "replaced by a newer connection", "replaced"),
            Close::SignedOut => (4010, "signed out", "signed_out"),
            Close::RateLimited => (4100, "rate limit exceeded", "rate_limit"),
            Close::PongTimeout => (4200, "pong timeout", "pong_timeout"),
            Close::LeaseLost => (4201, "node lost its lease", "lease_lost"),
        }
    }

    /// The WebSocket close code.
    pub fn code(self) -> u16 {
        self.row().0
    }

    /// The reason, in the `bye` frame and in the close frame.
    pub fn reason(self) -> &'static str {
        self.row().1
    }

    /// The reason as one word, for metrics.
    pub fn label(self) -> &'static str {
        self.row().2
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
        let rows = include_str!("close.rs").lines().filter(|line| line.ends_with("\"),")).count();
        assert_eq!(rows, Close::ALL.len(), "each has a row");
    }
}
