//! The names of things: users, clients, nodes and events, each checked where it enters the process.
//!
//! None of them may hold a character that means something in a Redis key (`{`, `}`) or in an inbox entry (space,
//! comma), so that no id can reach another user's or node's keys. An idempotency key may: it is only ever the end of
//! a field's name.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use smol_str::SmolStr;
use thiserror::Error;

/// Most characters of a user id: an e-mail address or `auth0|…` fits.
const MAX_USER_ID: usize = 128;
/// Most characters of a client id, an event name, a collapse key or a node id.
const MAX_NAME: usize = 64;
/// Most characters of an idempotency key.
const MAX_KEY: usize = 128;

/// Why an id or name was refused: what it is, and what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{what} must be {allowed}")]
pub struct InvalidId {
    what: &'static str,
    allowed: &'static str,
}

impl InvalidId {
    /// The same under the name that whoever sent it knows.
    pub fn called(self, what: &'static str) -> Self {
        Self { what, ..self }
    }
}

fn checked(text: &str, most: usize, allows: fn(u8) -> bool, error: InvalidId) -> Result<SmolStr, InvalidId> {
    if text.is_empty() || text.len() > most || !text.bytes().all(allows) {
        return Err(error);
    }
    Ok(SmolStr::new(text))
}

fn user_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b',' | b'{' | b'}')
}

fn name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn event_byte(byte: u8) -> bool {
    name_byte(byte) || byte == b':'
}

fn key_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b' '
}

macro_rules! checked_id {
    ($(#[$doc:meta])* $name:ident, $most:expr, $allows:expr, $what:literal, $allowed:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(SmolStr);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                checked(text, $most, $allows, InvalidId { what: $what, allowed: $allowed }).map(Self)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_id!(
    /// Who an event is for: opaque, 1 to 128 printable ASCII characters except space, comma and braces.
    UserId, MAX_USER_ID, user_byte, "userId",
    "1 to 128 printable ASCII characters, except space, comma, { and }"
);
checked_id!(
    /// One session of a user: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    ClientId, MAX_NAME, name_byte, "clientId", "1 to 64 of A-Z a-z 0-9 . _ -"
);
checked_id!(
    /// A node's name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    NodeId, MAX_NAME, name_byte, "node id", "1 to 64 of A-Z a-z 0-9 . _ -"
);
checked_id!(
    /// An event's name: 1 to 64 of `A-Z a-z 0-9 . _ : -`.
    EventName, MAX_NAME, event_byte, "event", "1 to 64 of A-Z a-z 0-9 . _ : -"
);
checked_id!(
    /// A collapse key, spelt like an event's name.
    CollapseKey, MAX_NAME, event_byte, "collapseKey", "1 to 64 of A-Z a-z 0-9 . _ : -"
);
checked_id!(
    /// An idempotency key: 1 to 128 printable ASCII characters.
    IdempotencyKey, MAX_KEY, key_byte, "key", "1 to 128 printable ASCII characters"
);

impl ClientId {
    /// A new client id, a ULID, for a client that brought none.
    pub fn mint() -> Self {
        Self(SmolStr::new(ulid::Ulid::generate().to_string()))
    }
}

/// An event's place in its user's log: the Redis stream id `<ms>-<n>`, strictly increasing per user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct EventId {
    /// Unix time in milliseconds, by the clock of Redis.
    pub ms: u64,
    /// Counts events of one millisecond.
    pub seq: u64,
}

impl EventId {
    /// The id before every event.
    pub const ZERO: EventId = EventId { ms: 0, seq: 0 };

    /// The next one of the same millisecond.
    pub fn next(self) -> Self {
        Self { seq: self.seq + 1, ..self }
    }

    /// Appends it to `text`.
    pub fn write(self, text: &mut String) {
        let mut number = itoa::Buffer::new();
        text.push_str(number.format(self.ms));
        text.push('-');
        text.push_str(number.format(self.seq));
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for EventId {
    type Err = InvalidId;

    /// Reads `<ms>-<n>`, or `<ms>` alone, as Redis does; `0` is before every event.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let error =
            InvalidId { what: "since", allowed: "an event id <ms>-<n>, with at most 15 digits each, or 0" };
        // Lua counts in doubles: 15 digits are exact, and last beyond the year 30000.
        let number = |digits: &[u8]| match digits.len() {
            1..=15 => digits.iter().try_fold(0, |number, digit| match digit {
                b'0'..=b'9' => Ok(10 * number + u64::from(digit - b'0')),
                _ => Err(error),
            }),
            _ => Err(error),
        };
        let text = text.as_bytes();
        match text.iter().position(|byte| *byte == b'-') {
            Some(dash) => Ok(Self { ms: number(&text[..dash])?, seq: number(&text[dash + 1..])? }),
            None => Ok(Self { ms: number(text)?, seq: 0 }),
        }
    }
}

/// Where an event stands in its user's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Logged {
    /// The event's id.
    pub id: EventId,
    /// The id of the event before it.
    pub prev: EventId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_may_be_addresses_but_hold_nothing_that_keys_use() {
        for good in ["42", "ada@example.com", "auth0|7", "a:b", &"u".repeat(128)] {
            assert!(good.parse::<UserId>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a,b", "a{b", "a}b", "ä", "a\n", &"u".repeat(129)] {
            assert!(bad.parse::<UserId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn client_ids_hold_no_at_sign_so_that_members_split_in_one_way() {
        assert!("tab-1.A_z".parse::<ClientId>().is_ok());
        for bad in ["", "a@b", "a:b", "a b", &"c".repeat(65)] {
            assert!(bad.parse::<ClientId>().is_err(), "{bad:?}");
        }
        assert!(ClientId::mint().as_str().parse::<ClientId>().is_ok());
    }

    #[test]
    fn event_ids_are_ordered_by_number_not_by_text() {
        let id = |text: &str| text.parse::<EventId>().unwrap();
        assert!(id("9-0") < id("10-0") && id("10-9") < id("10-10") && id("0") == EventId::ZERO);
        assert_eq!(id("1732-5").to_string(), "1732-5");
        for bad in ["", "-", "1-", "-1", "a", "1-a", "+1-0", "1-0-0", "1234567890123456"] {
            assert!(bad.parse::<EventId>().is_err(), "{bad:?}");
        }
    }
}
