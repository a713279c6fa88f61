//! Reads what scripts and commands return.

use bytes::Bytes;
use redis::Value;

use super::wire;
use crate::engine::{Cause, Unavailable};
use crate::id::EventId;

/// Whatever Redis was asked for, its answer has another shape.
pub fn unexpected(what: &str) -> Unavailable {
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

/// A number, or the error that a script got in its place.
pub fn count(value: &Value) -> Result<i64, Unavailable> {
    match value {
        Value::Int(number) => Ok(*number),
        other => Err(Unavailable { cause: Cause::Refused, ..Unavailable::new(text(other)?) }),
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

/// An event id.
pub fn event_id(value: &Value) -> Result<EventId, Unavailable> {
    parse_id(text(value)?)
}

/// An event id; none where there is a dash in its place.
pub fn event_id_or_none(word: &str) -> Result<Option<EventId>, Unavailable> {
    match word {
        "-" => Ok(None),
        id => parse_id(id).map(Some),
    }
}

fn parse_id(id: &str) -> Result<EventId, Unavailable> {
    id.parse().map_err(|_| unexpected("an event id"))
}

/// What is behind an error of Redis about a user's key: another type, or something in it that the script cannot take.
pub fn cause(error: &str) -> Cause {
    let broken = error.contains("WRONGTYPE") || error.contains("attempt to");
    if broken { Cause::BrokenKey } else { Cause::Refused }
}

/// One item of a batch, or what Redis had against it.
pub fn item(text: &str) -> Result<&str, Unavailable> {
    match text.strip_prefix("! ") {
        Some(error) => Err(Unavailable {
            cause: cause(error),
            ..Unavailable::new(format!("Redis refused: {}", wire::without_place(error)))
        }),
        None => Ok(text),
    }
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

/// The numbers of an entry's id. Whoever adds entries may choose any.
pub fn numbers(id: &str) -> Option<(u64, u64)> {
    let (ms, seq) = id.split_once('-')?;
    Some((ms.parse().ok()?, seq.parse().ok()?))
}

/// The id right after `id`, an entry's.
pub fn after(id: &str) -> String {
    match numbers(id) {
        Some((ms, u64::MAX)) => format!("{}-0", ms.saturating_add(1)),
        Some((ms, seq)) => format!("{ms}-{}", seq + 1),
        None => id.to_owned(),
    }
}

/// The items of an answer to `XINFO`, each as its fields.
pub fn items(answer: Value) -> Result<Vec<Vec<Value>>, Unavailable> {
    array(answer)?.into_iter().map(array).collect()
}

/// What an item of an answer to `XINFO` says under a name.
pub fn field<'a>(item: &'a [Value], name: &str) -> Option<&'a Value> {
    item.chunks_exact(2).find(|pair| is(&pair[0], name)).map(|pair| &pair[1])
}

/// The group of that name, among the items of an answer to `XINFO GROUPS`.
pub fn group(groups: Vec<Vec<Value>>, name: &str) -> Option<Vec<Value>> {
    groups.into_iter().find(|group| field(group, "name").is_some_and(|its| is(its, name)))
}

fn is(value: &Value, word: &str) -> bool {
    text(value).is_ok_and(|text| text == word)
}

/// What `TIME` answered, Unix µs.
pub fn time(answer: Value) -> Result<i64, Unavailable> {
    match array(answer)?.as_slice() {
        [seconds, micros] => Ok(integer(seconds)?.saturating_mul(1_000_000).saturating_add(integer(micros)?)),
        _ => Err(unexpected("a time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(word: &str) -> Value {
        Value::BulkString(word.as_bytes().to_vec())
    }

    #[test]
    fn fields_are_found_by_their_names() {
        let group = |name: &str, pending: i64| {
            // A group may have the name of a field.
            Value::Array(vec![word("name"), word(name), word("pending"), Value::Int(pending)])
        };
        let groups = || Value::Array(vec![group("pending", 1), group("switchboard", 2)]);
        let pending = |name| {
            let found = super::group(items(groups()).unwrap(), name)?;
            integer(field(&found, "pending")?).ok()
        };
        assert_eq!(pending("switchboard"), Some(2));
        assert_eq!(pending("pending"), Some(1));
        assert_eq!(pending("node"), None);
    }

    #[test]
    fn what_is_no_event_id_is_not_taken_for_one() {
        assert!(event_id(&word("5-1")).is_ok());
        assert!(event_id(&word("")).is_err() && event_id(&word("-")).is_err());
        assert!(event_id_or_none("").is_err() && event_id_or_none("-").is_ok_and(|id| id.is_none()));
    }

    #[test]
    fn what_comes_after_an_entry_is_known_for_all_ids() {
        assert_eq!(after("5-1"), "5-2");
        assert_eq!(after("1732360000000000001-0"), "1732360000000000001-1");
        assert_eq!(after("5-18446744073709551615"), "6-0");
    }

    #[test]
    fn a_time_is_two_numbers() {
        assert_eq!(
            time(Value::Array(vec![word("1732360000"), word("42")])).ok(),
            Some(1_732_360_000_000_042)
        );
        for other in [vec![], vec![word("1732360000")], vec![word("1732360000"), word("x")]] {
            assert!(time(Value::Array(other)).is_err());
        }
    }
}
