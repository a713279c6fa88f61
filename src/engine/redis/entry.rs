//! An entry of an ingress stream: its fields, with the checks of every other way in.

use bytes::Bytes;

use crate::protocol::code::{Code, Refusal};
use crate::protocol::data::Data;
use crate::protocol::json::MAX_ITEMS;
use crate::protocol::parts::{Names, Parts, Publish};

/// Of an entry that was too large to be handed out whole: how many bytes and fields it has. See `lua/take.lua`.
pub fn size_where_cut(fields: &[(Bytes, Bytes)]) -> Option<(u64, u64)> {
    let (_, size) = fields.first().filter(|(name, _)| name.is_empty())?;
    let (bytes, count) = std::str::from_utf8(size).ok()?.split_once(' ')?;
    Some((bytes.parse().ok()?, count.parse().ok()?))
}

/// Reads an entry's fields with the checks of every other way in.
///
/// # Errors
/// The code of the first field that is off.
pub fn parse(fields: &[(Bytes, Bytes)], max_event: usize) -> Result<Publish, Refusal> {
    let invalid = |message: String| Refusal::new(Code::InvalidFrame, message);
    if let Some((bytes, count)) = size_where_cut(fields) {
        let message =
            format!("an entry of {bytes} bytes in {count} fields is too large: here is its beginning");
        return Err(Refusal::new(Code::TooLarge, message));
    }
    let mut parts = Parts::default();
    let mut data = None;
    for (at, (field, value)) in fields.iter().enumerate() {
        let name = std::str::from_utf8(field).map_err(|_| invalid("a field's name is not UTF-8".into()))?;
        let text = std::str::from_utf8(value).map_err(|_| invalid(format!("{name} is not UTF-8")))?;
        if fields[..at].iter().any(|(other, _)| other == field) {
            return Err(invalid(format!("{name} is there twice")));
        }
        let flag = || match text {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(invalid(format!("{name} must be 1 or 0"))),
        };
        match name {
            "user" => parts.user = Some(text),
            // One too many is enough to refuse it: what takes a byte here would take dozens there.
            "users" => parts.users = Some(text.split(',').take(MAX_ITEMS + 1).collect()),
            "broadcast" => parts.broadcast = flag()?,
            "event" => parts.event = Some(text),
            "data" => data = Some(text),
            "client" => parts.client = Some(text),
            "except" => parts.except = Some(text),
            "collapse" => parts.collapse = Some(text),
            "key" => parts.key = Some(text),
            "transient" => parts.transient = flag()?,
            other => {
                // Where values stand in the place of names, they are no matter of a log.
                let is_name =
                    other.len() <= 64 && other.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
                let other =
                    if is_name { format!("unknown field {other:?}") } else { "an unknown field".into() };
                return Err(invalid(format!(
                    "{other}; an entry has user | users | broadcast, event, data, client, except, \
                     collapse, key, transient"
                )));
            }
        }
    }
    let targets = [parts.user.is_some(), parts.users.is_some(), parts.broadcast];
    if targets.into_iter().filter(|given| *given).count() != 1 {
        let message = "an entry has exactly one of user, users and broadcast (1)";
        return Err(Refusal::new(Code::InvalidTarget, message));
    }
    let data = match data {
        None => Data::null(),
        Some(text) => {
            let raw: &serde_json::value::RawValue =
                serde_json::from_str(text).map_err(|error| invalid(format!("data is not JSON: {error}")))?;
            Data::from_json_text(raw.get().to_owned())
        }
    };
    parts.check(data, max_event, &Names::ENTRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&'static str, &'static str)]) -> Result<Publish, Refusal> {
        let fields: Vec<_> = fields
            .iter()
            .map(|(f, v)| (Bytes::from_static(f.as_bytes()), Bytes::from_static(v.as_bytes())))
            .collect();
        parse(&fields, 64)
    }

    #[test]
    fn an_entry_is_checked_like_a_frame() {
        let good =
            entry(&[("user", "42"), ("event", "e"), ("data", "{\"a\": 1e400}"), ("transient", "1")]).unwrap();
        assert_eq!(good.data.as_str(), "{\"a\": 1e400}");
        assert!(good.transient);
        for (fields, code) in [
            (&[("user", "4 2"), ("event", "e")][..], Code::InvalidUserId),
            (&[("users", "1,,2"), ("event", "e")], Code::InvalidUserId),
            (&[("event", "e")], Code::InvalidTarget),
            (&[("user", "1"), ("broadcast", "1"), ("event", "e")], Code::InvalidTarget),
            (&[("user", "1")], Code::InvalidEvent),
            (&[("user", "1"), ("event", "e"), ("data", "{")], Code::InvalidFrame),
            (&[("user", "1"), ("event", "e"), ("what", "1")], Code::InvalidFrame),
            (&[("user", "1"), ("user", "2"), ("event", "e")], Code::InvalidFrame),
            (&[("user", "1"), ("event", "e"), ("transient", "yes")], Code::InvalidFrame),
            (&[("user", "1"), ("event", "e"), ("key", "")], Code::InvalidKey),
        ] {
            assert_eq!(entry(fields).unwrap_err().code, code, "{fields:?}");
        }
    }

    #[test]
    fn who_it_is_for_is_asked_by_the_names_that_an_entry_has() {
        for fields in [&[("event", "e")][..], &[("user", "1"), ("users", "2"), ("event", "e")]] {
            let refusal = entry(fields).unwrap_err();
            assert!(refusal.message.contains("user, users and broadcast"), "{refusal:?}");
        }
    }

    #[test]
    fn what_is_off_is_named_as_an_entry_names_it() {
        let told = |name, value| {
            let mut fields = vec![("event", "e"), (name, value)];
            fields.extend((name != "user").then_some(("user", "1")));
            entry(&fields).unwrap_err().message
        };
        for name in ["user", "client", "except", "collapse", "key"] {
            let told = told(name, "\u{e4}");
            assert!(told.starts_with(&format!("{name} must be ")), "{told}");
        }
        let told = entry(&[("users", "1,2"), ("client", "a"), ("event", "e")]).unwrap_err().message;
        assert_eq!(told, "client and except go with one user");
    }

    #[test]
    fn a_value_in_the_place_of_a_name_is_not_told() {
        let told = |name| entry(&[("user", "1"), ("event", "e"), (name, "")]).unwrap_err().message;
        assert!(told("userId").contains("unknown field \"userId\""));
        assert!(told("{\"card\":1}").starts_with("an unknown field;"));
    }
}
