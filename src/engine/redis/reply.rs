//! Reads what scripts and commands return.

use bytes::Bytes;
use redis::Value;
use tracing::warn;

use crate::engine::{Cause, Unavailable};
use crate::id::{EventId, UserId};

fn unexpected(what: &str) -> Unavailable {
    Unavailable::new(format!("Redis answered with something else than {what}"))
}

/// An array's items.
pub fn array(value: Value) -> Result<Vec<Value>, Unavailable> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        _ => Err(unexpected("an array")),
    }
}

/// A number, or text that is one.
pub fn integer(value: &Value) -> Result<i64, Unavailable> {
    match value {
        Value::Int(number) => Ok(*number),
        other => text(other)?.parse().map_err(|_| unexpected("a number")),
    }
}

/// UTF-8 text.
pub fn text(value: &Value) -> Result<&str, Unavailable> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| unexpected("text")),
        Value::SimpleString(text) => Ok(text),
        Value::Okay => Ok("OK"),
        _ => Err(unexpected("text")),
    }
}

/// Bytes, taken.
pub fn bytes(value: Value) -> Result<Bytes, Unavailable> {
    match value {
        Value::BulkString(bytes) => Ok(Bytes::from(bytes)),
        _ => Err(unexpected("bytes")),
    }
}

/// An event id; none where the text is empty.
pub fn event_id(value: &Value) -> Result<Option<EventId>, Unavailable> {
    match text(value)? {
        "" => Ok(None),
        id => id.parse().map(Some).map_err(|_| unexpected("an event id")),
    }
}

/// An event id; none where there is a dash in its place.
pub fn event_id_or_none(word: &str) -> Result<Option<EventId>, Unavailable> {
    match word {
        "-" => Ok(None),
        id => id.parse().map(Some).map_err(|_| unexpected("an event id")),
    }
}

/// What is behind an error of Redis about a user's key: another type, or something in it that the script cannot take.
pub fn cause(error: &str) -> Cause {
    let broken = error.contains("WRONGTYPE") || error.contains("attempt to");
    if broken { Cause::BrokenKey } else { Cause::Redis }
}

/// One item of a batch, or what Redis had against it.
pub fn item(text: &str) -> Result<&str, Unavailable> {
    match text.strip_prefix("! ") {
        Some(error) => {
            Err(Unavailable { cause: cause(error), ..Unavailable::new(format!("Redis refused: {error}")) })
        }
        None => Ok(text),
    }
}

/// One user's item of a batch; none where a key of theirs is broken. To try that again would not mend it, so it is said
/// and passed over.
pub fn item_of<'a>(user: &UserId, text: &'a str) -> Option<&'a str> {
    let passed_over = |error: &Unavailable| {
        warn!(%user, %error, "a key of this user is not the relay's, or broken: the user is passed over");
    };
    item(text).inspect_err(passed_over).ok()
}

/// A stream entry's id and fields.
pub type Entry = (String, Vec<(Bytes, Bytes)>);

/// Entries as `XRANGE`, `XAUTOCLAIM` and `XREADGROUP` give them. Entries that were deleted meanwhile have no fields where
/// they have ids, and are passed over elsewhere.
pub fn entries(value: Value) -> Result<Vec<Entry>, Unavailable> {
    let mut entries = Vec::new();
    for entry in array(value)? {
        let mut parts = array(entry)?.into_iter();
        let (Some(id), Some(fields)) = (parts.next(), parts.next()) else { continue };
        let mut fields = array(fields)?.into_iter();
        let mut pairs = Vec::with_capacity(fields.len() / 2);
        while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
            pairs.push((bytes(field)?, bytes(value)?));
        }
        entries.push((text(&id)?.to_owned(), pairs));
    }
    Ok(entries)
}

/// Entries of the one stream that `XREADGROUP` was asked for; none where it waited in vain.
pub fn read(value: Value) -> Result<Vec<Entry>, Unavailable> {
    let stream = match value {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(mut streams) => match streams.pop() {
            Some(Value::Array(mut stream)) => stream.pop(),
            _ => None,
        },
        _ => None,
    };
    entries(stream.ok_or_else(|| unexpected("a stream"))?)
}

/// The id right after `id`, an entry's.
pub fn after(id: &str) -> String {
    id.parse::<EventId>().map_or_else(|_| id.to_owned(), |id| id.next().to_string())
}

/// How many entries consumers of `group` hold, by an answer to `XINFO GROUPS`.
pub fn pending(groups: Value, group: &str) -> Option<i64> {
    let is = |value: &Value, word: &str| text(value).is_ok_and(|text| text == word);
    let groups = array(groups).ok()?.into_iter().filter_map(|fields| array(fields).ok());
    let fields = groups.into_iter().find(|fields| fields.get(1).is_some_and(|name| is(name, group)))?;
    let at = fields.iter().position(|field| is(field, "pending"))?;
    integer(fields.get(at + 1)?).ok()
}
