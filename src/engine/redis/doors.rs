//! Ways in for tests of what this engine reads, entries and answers as they come from Redis, and for benchmarks of what it
//! sends. No part of any interface.

use bytes::Bytes;
use redis::Value;

pub use super::publish::packed;
use super::{entry, inbox, publish, reply, sessions};
use crate::engine::Node;
use crate::protocol::code::Refusal;
use crate::protocol::publish::Publish;

/// Reads the fields of an ingress entry.
///
/// # Errors
/// What goes to `events:dead` as its reason.
pub fn ingress(fields: &[(Bytes, Bytes)], max_event: usize) -> Result<Publish, Refusal> {
    entry::parse(fields, max_event)
}

/// Reads the hints of an inbox entry, and tells the node; says how many meant something.
pub fn inbox(node: &dyn Node, hints: &[u8]) -> usize {
    let mut rest = std::str::from_utf8(hints).unwrap_or_default();
    let hints = std::iter::from_fn(|| inbox::split(&mut rest));
    hints.filter(|(head, data)| inbox::tell(node, head, data).is_some()).count()
}

/// Reads an answer of Redis as each of the things that it could be; true where it is any.
pub fn answer(value: &Value) -> bool {
    let read = [
        reply::read(value.clone()).is_ok(),
        reply::entries(value.clone()).is_ok(),
        publish::parse(value.clone()).is_ok(),
        sessions::opened(value.clone()).is_ok(),
        reply::integer(value).is_ok(),
        reply::event_id(value).is_ok(),
        reply::bytes(value.clone()).is_ok(),
    ];
    read.contains(&true)
}
