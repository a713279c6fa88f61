//! Workers' frames, and what they are answered. Bodies of HTTP have the same form.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::id::{EventId, NodeId};
use crate::protocol::client::tagged;
use crate::protocol::code::{Code, Refusal};
pub use crate::protocol::data::Data;
use crate::protocol::json::{self, List};
use crate::protocol::parts::{Names, Parts};
pub use crate::protocol::parts::{Publish, Target};

/// Bytes a frame may need besides its event: 1,000 user ids of 128, quoted, and the other fields.
pub const ENVELOPE: usize = 256 * 1024;

/// A worker's frame, or an item of `POST /publish`, as it was sent.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Frame<'a> {
    r#ref: Option<String>,
    #[serde(borrow)]
    user_id: Option<Text<'a>>,
    #[serde(borrow)]
    user_ids: Option<List<Text<'a>>>,
    broadcast: Option<bool>,
    #[serde(borrow)]
    client_id: Option<Text<'a>>,
    #[serde(borrow)]
    except_client_id: Option<Text<'a>>,
    #[serde(borrow)]
    event: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    collapse_key: Option<Text<'a>>,
    #[serde(borrow)]
    key: Option<Text<'a>>,
    transient: Option<bool>,
}

/// Text of a frame: a part of it, unless it had escapes. (An `Option` of a `Cow` would always be a copy.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A frame that was read: its `ref`, and what it publishes or why it is refused.
#[derive(Debug)]
pub struct Request {
    /// Returned with the answer.
    pub reference: Option<String>,
    /// What to publish.
    pub publish: Result<Publish, Refusal>,
}

impl Request {
    /// Events that it comes to: one for each user. What is refused counts as one.
    pub fn events(&self) -> usize {
        match &self.publish {
            Ok(Publish { target: Target::Users(users), .. }) => users.len(),
            _ => 1,
        }
    }

    /// Reads one JSON object. `data` becomes a slice of `text`, not a copy.
    pub fn parse(text: &Utf8Bytes, max_event: usize) -> Self {
        match json::object::<Frame<'_>>(text) {
            Ok(frame) => {
                let data = match frame.data {
                    Some(raw) => Data::part_of(text, raw.get()),
                    None => Data::null(),
                };
                let parts = Parts {
                    user: frame.user_id.as_deref(),
                    users: frame.user_ids.as_ref().map(|ids| ids.0.iter().map(|id| &**id).collect()),
                    broadcast: frame.broadcast.unwrap_or(false),
                    client: frame.client_id.as_deref(),
                    except: frame.except_client_id.as_deref(),
                    event: frame.event.as_deref(),
                    collapse: frame.collapse_key.as_deref(),
                    key: frame.key.as_deref(),
                    transient: frame.transient.unwrap_or(false),
                };
                let publish = parts.check(data, max_event, &Names::FRAME);
                Self { reference: frame.r#ref, publish }
            }
            Err(error) => Self { reference: reference_of(text), publish: Err(not_a_frame(error)) },
        }
    }
}

/// The `ref` of a frame that is otherwise off, so that its sender can tell which one it was.
fn reference_of(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Reference {
        r#ref: Option<String>,
    }
    json::object::<Reference>(text).ok()?.r#ref
}

/// Names what serde found, without quoting the payload.
fn not_a_frame(error: Option<serde_json::Error>) -> Refusal {
    let Some(error) = error else { return Refusal::new(Code::InvalidFrame, "a frame is a JSON object") };
    let text = error.to_string();
    let message = match text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        Some((field, _)) if field.len() <= 64 => format!(
            "unknown field {field:?}; a frame has ref, userId | userIds | broadcast, clientId, \
             exceptClientId, event, data, collapseKey, key, transient"
        ),
        _ if error.is_data() => format!(
            "a field is missing, twice there or of the wrong type, near line {} column {}",
            error.line(),
            error.column()
        ),
        _ => return not_json(&error),
    };
    Refusal::new(Code::InvalidFrame, message)
}

/// Where a text stops being JSON, without quoting the payload.
pub fn not_json(error: &serde_json::Error) -> Refusal {
    let message = format!("not JSON, near line {} column {}", error.line(), error.column());
    Refusal::new(Code::InvalidFrame, message)
}

/// What came of a [`Publish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The id in each user's log, in the order of the users; none where transient.
    pub ids: Vec<EventId>,
    /// Nodes it is on its way to.
    pub nodes: Vec<NodeId>,
    /// Whether the target was a list of users, and the answer so has `ids`.
    pub many: bool,
}

/// The answer to a frame: an `ack` or an `error`, with the frame's `ref`.
pub fn answer(reference: Option<&str>, outcome: &Result<Receipt, Refusal>) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Ack<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        r#ref: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ids: Option<Vec<String>>,
        nodes: Vec<&'a str>,
    }
    #[derive(Serialize)]
    struct Error<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        r#ref: Option<&'a str>,
        code: &'a str,
        message: &'a str,
    }
    match outcome {
        Ok(receipt) => tagged(
            "ack",
            &Ack {
                r#ref: reference,
                id: receipt.ids.first().filter(|_| !receipt.many).map(EventId::to_string),
                ids: receipt.many.then(|| receipt.ids.iter().map(EventId::to_string).collect()),
                nodes: receipt.nodes.iter().map(NodeId::as_str).collect(),
            },
        ),
        Err(refusal) => tagged(
            "error",
            &Error { r#ref: reference, code: refusal.code.as_str(), message: &refusal.message },
        ),
    }
}

/// Whether a body is what a node answers to one event that it took: a status of 2xx alone may be anybody's.
pub fn is_ack(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Ack<'a> {
        r#type: Cow<'a, str>,
        #[serde(rename = "nodes")]
        _nodes: Vec<IgnoredAny>,
    }
    serde_json::from_slice::<Ack<'_>>(body).is_ok_and(|answer| answer.r#type == "ack")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Request {
        Request::parse(&Utf8Bytes::from(text.to_owned()), 1024)
    }

    #[test]
    fn data_is_the_very_text_of_the_frame() {
        let data = r#"{ "b":1e400,"a" : [12345678901234567890123, "\u00e9"], "b":2 }"#;
        let request = parse_text(&format!(r#"{{"userId":"42","event":"e","data":{data},"ref":"7"}}"#));
        assert_eq!(request.reference.as_deref(), Some("7"));
        assert_eq!(request.publish.unwrap().data.as_str(), data);
        assert_eq!(parse_text(r#"{"userId":"42","event":"e"}"#).publish.unwrap().data, Data::null());
        let escaped = parse_text(r#"{"userId":"4\u0032","event":"\u0065"}"#).publish.unwrap();
        assert_eq!(escaped.target, Target::User("42".parse().unwrap()));
    }

    #[test]
    fn a_part_that_is_off_is_named_as_a_frame_names_it() {
        for name in ["clientId", "exceptClientId", "collapseKey", "key"] {
            let refusal =
                parse_text(&format!(r#"{{"userId":"42","event":"e","{name}":"é"}}"#)).publish.unwrap_err();
            assert!(refusal.message.starts_with(&format!("{name} must be ")), "{refusal:?}");
        }
    }

    #[test]
    fn every_mistake_has_its_code_and_keeps_the_ref() {
        for (frame, code) in [
            (r#"{"ref":"r""#, Code::InvalidFrame),
            (r#"["r","1",null,null,null,null,"e",1,null,null,null]"#, Code::InvalidFrame),
            ("[]", Code::InvalidFrame),
            ("null", Code::InvalidFrame),
            (r#"{"ref":"r","userId":42,"event":"e"}"#, Code::InvalidFrame),
            (r#"{"ref":"r","userId":["1"],"event":"e"}"#, Code::InvalidFrame),
            (r#"{"ref":"r","userIds":"1","event":"e"}"#, Code::InvalidFrame),
            (r#"{"ref":"r","userIds":["1",2],"event":"e"}"#, Code::InvalidFrame),
            (r#"{"ref":"r","userId":"1","event":"e","transient":1e999}"#, Code::InvalidFrame),
            (r#"{"ref":"r","userId":"1","event":"\udc00"}"#, Code::InvalidFrame),
            (r#"{"ref":"r","userId":"1","event":"e","data":1,"data":2}"#, Code::InvalidFrame),
            (r#"{"ref":"r","broadcast":"true","event":"e"}"#, Code::InvalidFrame),
            (r#"{"ref":"r","userId":"1","event":"e","extra":1}"#, Code::InvalidFrame),
            (r#"{"ref":"r","userId":"1","event":"e","event":"f"}"#, Code::InvalidFrame),
            (r#"{"ref":"r","userId":"a b","event":"e"}"#, Code::InvalidUserId),
            (r#"{"ref":"r","userIds":["1",""],"event":"e"}"#, Code::InvalidUserId),
            (r#"{"ref":"r","userId":"1","clientId":"@","event":"e"}"#, Code::InvalidClientId),
            (r#"{"ref":"r","userId":"1","exceptClientId":"@","event":"e"}"#, Code::InvalidClientId),
            (r#"{"ref":"r","userId":"1","event":"a b"}"#, Code::InvalidEvent),
            (r#"{"ref":"r","userId":"1"}"#, Code::InvalidEvent),
            (r#"{"ref":"r","userId":"1","event":"e","key":""}"#, Code::InvalidKey),
            (r#"{"ref":"r","userId":"1","event":"e","collapseKey":"a b"}"#, Code::InvalidKey),
            (r#"{"ref":"r","event":"e"}"#, Code::InvalidTarget),
            (r#"{"ref":"r","userIds":[],"event":"e"}"#, Code::InvalidTarget),
            (r#"{"ref":"r","userId":"1","broadcast":true,"event":"e"}"#, Code::InvalidTarget),
            (r#"{"ref":"r","userIds":["1"],"clientId":"c","event":"e"}"#, Code::InvalidTarget),
            (r#"{"ref":"r","broadcast":true,"clientId":"c","event":"e"}"#, Code::InvalidTarget),
        ] {
            let request = parse_text(frame);
            assert_eq!(request.publish.unwrap_err().code, code, "{frame}");
            assert_eq!(request.reference.is_some(), frame.ends_with('}'), "{frame}");
        }
        let large = format!(r#"{{"userId":"1","event":"e","data":"{}"}}"#, "x".repeat(1024));
        assert_eq!(parse_text(&large).publish.unwrap_err().code, Code::TooLarge);
        let many = serde_json::json!({"userIds": vec!["1"; 1001], "event": "e"}).to_string();
        assert_eq!(parse_text(&many).publish.unwrap_err().code, Code::TooManyItems);
    }

    #[test]
    fn answers_have_the_form_of_the_interface() {
        let id = EventId { ms: 5, seq: 0 };
        let node: NodeId = "relay-b".parse().unwrap();
        let one = Receipt { ids: vec![id], nodes: vec![node], many: false };
        assert_eq!(
            answer(Some("7"), &Ok(one)).as_str(),
            r#"{"type":"ack","ref":"7","id":"5-0","nodes":["relay-b"]}"#
        );
        let many = Receipt { ids: vec![id, id], nodes: vec![], many: true };
        assert_eq!(answer(None, &Ok(many)).as_str(), r#"{"type":"ack","ids":["5-0","5-0"],"nodes":[]}"#);
        let refused = Err(Refusal::new(Code::InvalidKey, "m"));
        assert_eq!(
            answer(Some("7"), &refused).as_str(),
            r#"{"type":"error","ref":"7","code":"invalid_key","message":"m"}"#
        );
    }
}
