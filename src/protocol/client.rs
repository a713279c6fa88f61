//! Frames between a node and a client.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::close::Close;
use crate::id::{EventId, EventName};
use crate::ms::ms;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::json;

/// What a client may send once it is connected. It cannot be printed: tokens and payloads belong into no log.
pub enum Incoming<'a> {
    /// Asks for a `pong` frame.
    Ping,
    /// Confirms everything up to this event.
    Ack(EventId),
    /// A message for the back end; `data` as it was sent, `null` where left out.
    Message {
        /// The message's name.
        event: EventName,
        /// JSON text.
        data: &'a str,
    },
    /// Credentials that take the place of those it came with.
    Token(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Frame<'a> {
    r#type: String,
    id: Option<String>,
    event: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    token: Option<String>,
}

impl<'a> Incoming<'a> {
    /// Reads one text frame.
    ///
    /// # Errors
    /// `invalid_frame`.
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        let invalid = |message: &str| Refusal::new(Code::InvalidFrame, message);
        let frame: Frame<'a> = json::object(text).map_err(|_| {
            invalid("expected a JSON object with type ping, ack, message or token, and that type's fields")
        })?;
        match (frame.r#type.as_str(), frame.id, frame.event, frame.data, frame.token) {
            ("ping", None, None, None, None) => Ok(Incoming::Ping),
            ("ack", Some(id), None, None, None) => id
                .parse()
                .map(Incoming::Ack)
                .map_err(|_| invalid("ack: id must be an event id <ms>-<n>, with at most 15 digits each")),
            ("message", None, Some(event), data, None) => Ok(Incoming::Message {
                event: event.parse().map_err(|error| invalid(&format!("message: {error}")))?,
                data: data.map_or("null", RawValue::get),
            }),
            ("token", None, None, None, Some(token)) => Ok(Incoming::Token(token)),
            ("ping", ..) => Err(invalid("ping has no other fields")),
            ("ack", ..) => Err(invalid("ack has an id and nothing else")),
            ("message", ..) => Err(invalid("message has an event, data, and nothing else")),
            ("token", ..) => Err(invalid("token has a token and nothing else")),
            _ => Err(invalid("type must be ping, ack, message or token")),
        }
    }
}

/// The first frame of every connection.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome<'a> {
    /// Whose session this is.
    pub user_id: &'a str,
    /// The session's id, minted where the client brought none.
    pub client_id: &'a str,
    /// The node that holds the socket.
    pub node_id: &'a str,
    /// The user's newest event, or the clock where there is none.
    pub position: String,
    /// Nothing after `since` is missing.
    pub recovered: bool,
    /// How many events follow from the log.
    pub replayed: u64,
    /// Milliseconds between WebSocket pings.
    pub ping_interval: u64,
}

/// The `welcome` frame.
pub fn welcome(welcome: &Welcome<'_>) -> Utf8Bytes {
    tagged("welcome", welcome)
}

/// An `event` frame, with its id, or without one where it is transient. `data` goes in as it is: it was checked
/// to be JSON where it entered.
pub fn event(id: Option<EventId>, event: &str, data: &str) -> Utf8Bytes {
    // 80 holds the fixed text and an id of 2 x 15 digits.
    let mut frame = String::with_capacity(80 + event.len() + data.len());
    frame.push_str(r#"{"type":"event","#);
    if let Some(id) = id {
        frame.push_str(r#""id":""#);
        id.write(&mut frame);
        frame.push_str(r#"","#);
    }
    frame.push_str(r#""event":""#);
    frame.push_str(event); // its alphabet needs no escapes
    frame.push_str(r#"","data":"#);
    frame.push_str(data);
    frame.push('}');
    frame.into()
}

/// The `gap` frame: some events after `since` are gone.
pub fn gap(since: EventId, position: EventId) -> Utf8Bytes {
    format!(r#"{{"type":"gap","since":"{since}","position":"{position}"}}"#).into()
}

/// The answer to a client's `ping` frame.
pub fn pong() -> Utf8Bytes {
    Utf8Bytes::from_static(r#"{"type":"pong"}"#)
}

/// An `error` frame: the client's last frame was not acted on.
pub fn error(refusal: &Refusal) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Error<'a> {
        code: &'a str,
        message: &'a str,
    }
    tagged("error", &Error { code: refusal.code.as_str(), message: &refusal.message })
}

/// The last frame before every close that the node begins.
pub fn bye(close: Close) -> Utf8Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Bye {
        code: u16,
        reason: &'static str,
        reconnect: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
    }
    let after_ms = close.after().map(ms);
    tagged("bye", &Bye { code: close.code(), reason: close.reason(), reconnect: close.reconnect(), after_ms })
}

/// Serializes `body` with its `type` in front.
pub(crate) fn tagged(kind: &'static str, body: &impl Serialize) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Tagged<'a, B> {
        r#type: &'static str,
        #[serde(flatten)]
        body: &'a B,
    }
    // Plain structs of text and numbers always serialize.
    serde_json::to_string(&Tagged { r#type: kind, body }).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_data_passes_through_untouched() {
        let data = r#"{ "b":1e400,"a" : [12345678901234567890123, "\u00e9"], "b":2 }"#;
        let id = EventId { ms: 7, seq: 1 };
        assert_eq!(
            event(Some(id), "progress", data).as_str(),
            format!(r#"{{"type":"event","id":"7-1","event":"progress","data":{data}}}"#)
        );
        assert_eq!(event(None, "x", "null").as_str(), r#"{"type":"event","event":"x","data":null}"#);
        let Ok(Incoming::Message { data: sent, .. }) =
            Incoming::parse(r#"{"type":"message","event":"e","data":{ "x":1e400 }}"#)
        else {
            panic!("not a message")
        };
        assert_eq!(sent, r#"{ "x":1e400 }"#);
    }

    #[test]
    fn anything_but_the_four_frames_is_refused() {
        for bad in [
            "",
            "x",
            "[]",
            r#"["ping"]"#,
            r#"["ack","1-0",null,null,null]"#,
            "{}",
            r#"{"type":"ping","type":"ping"}"#,
            r#"{"type":"ack","id":"1-0","id":"1-0"}"#,
            r#"{"type":"ack","id":1e400}"#,
            r#"{"type":"message","event":"\ud800"}"#,
            r#"{"type":"message","event":"e","data":"\x"}"#,
            &format!(r#"{{"type":{}"#, "[".repeat(10_000)),
            r#"{"type":"pong"}"#,
            r#"{"type":"ping","id":"1-0"}"#,
            r#"{"type":"ack"}"#,
            r#"{"type":"ack","id":"x"}"#,
            r#"{"type":"ack","id":5}"#,
            r#"{"type":"message"}"#,
            r#"{"type":"message","event":"e","extra":1}"#,
            r#"{"type":"message","event":"a b"}"#,
            r#"{"type":"token"}"#,
            r#"{"type":"token","token":7}"#,
            r#"{"type":"token","token":"a","id":"1-0"}"#,
            r#"{"type":"ping","token":"a"}"#,
        ] {
            let Err(refusal) = Incoming::parse(bad) else { panic!("{bad}") };
            assert_eq!(refusal.code, Code::InvalidFrame, "{bad}");
        }
    }

    #[test]
    fn bye_tells_what_to_do_next() {
        let after = std::time::Duration::from_millis(1200);
        assert_eq!(
            bye(Close::Drain(after)).as_str(),
            r#"{"type":"bye","code":1012,"reason":"drain","reconnect":true,"afterMs":1200}"#
        );
        assert!(bye(Close::Replaced).contains(r#""code":4009"#));
        assert!(bye(Close::Replaced).contains(r#""reconnect":false"#));
    }
}
