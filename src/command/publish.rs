//! `switchboard publish`: one event, or lines of JSON from standard input.

mod lines;

use std::io::IsTerminal;

use hyper::Method;
use serde::Serialize;
use serde_json::value::RawValue;

use super::endpoint::Endpoint;
use super::{Failure, Outcome, print, wire};
use crate::protocol::code::{Code, Refusal};
use crate::protocol::publish::is_ack;
use crate::settings::read::Reader;

/// What was asked for: an event, unless nothing of it is there.
#[derive(Debug, Default)]
pub struct Publish {
    /// The event, field by field as it was given.
    pub event: Event,
    /// Read lines whatever standard input is.
    pub lines: bool,
}

/// An event as it goes over the wire. The node checks it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// One user.
    #[serde(rename = "userId", skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Several.
    #[serde(rename = "userIds", skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<String>>,
    /// Everyone who is connected.
    #[serde(skip_serializing_if = "is_false")]
    pub broadcast: bool,
    /// That session alone.
    #[serde(rename = "clientId", skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Every session but that one.
    #[serde(rename = "exceptClientId", skip_serializing_if = "Option::is_none")]
    pub except: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Its content, JSON text.
    #[serde(skip)]
    pub data: Option<String>,
    /// A newer event with this key, and the same target, takes its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    /// Published once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Not logged.
    #[serde(skip_serializing_if = "is_false")]
    pub transient: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Publishes, and prints the answers.
///
/// # Errors
/// Where the node is not reached, or refuses anything.
pub async fn run(mut reader: Reader, publish: Publish) -> Outcome {
    let to = Endpoint::worker(&mut reader)?;
    let nothing_given = publish.event == Event::default();
    if publish.lines && !nothing_given {
        return Err(Failure::Usage("- reads events from standard input; leave the event's flags out".into()));
    }
    if publish.lines || (nothing_given && !std::io::stdin().is_terminal()) {
        return lines::run(&to).await;
    }
    let frame = frame(&publish.event).map_err(|refusal| Failure::Usage(refusal.to_string()))?;
    let answer = wire::http(&to, Method::POST, "/publish", Some(frame)).await?;
    if !is_ack(&answer) {
        let told =
            format!("{to} answered with something else than a node's answer: is it a node's worker port?");
        return Err(Failure::Failed(told));
    }
    print(&format!("{}\n", String::from_utf8_lossy(&answer).trim_end()))
}

/// The frame of an event. Only what cannot be put into one is refused here.
fn frame(event: &Event) -> Result<String, Refusal> {
    let targets = [event.user.is_some(), event.users.is_some(), event.broadcast];
    if targets.iter().filter(|given| **given).count() != 1 {
        let message = "give exactly one of --user, --users and --broadcast";
        return Err(Refusal::new(Code::InvalidTarget, message));
    }
    if event.event.is_none() {
        return Err(Refusal::new(Code::InvalidEvent, "--event is missing: the event's name"));
    }
    let mut frame = serde_json::to_string(event).unwrap_or_default(); // plain text and flags always serialize
    if let Some(data) = &event.data {
        let data: &RawValue = serde_json::from_str(data).map_err(|error| {
            let message = format!("--data is not JSON ({error}); a text needs quotes of its own: '\"text\"'");
            Refusal::new(Code::InvalidFrame, message)
        })?;
        frame.pop();
        frame.push_str(r#","data":"#);
        frame.push_str(data.get()); // byte for byte as it was given
        frame.push('}');
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_becomes_a_frame_with_its_data_untouched() {
        let mut event = Event {
            user: Some("42".into()),
            event: Some("e".into()),
            data: Some(r#" {"a": 1e400} "#.into()),
            ..Event::default()
        };
        assert_eq!(frame(&event).unwrap(), r#"{"userId":"42","event":"e","data":{"a": 1e400}}"#);
        event.collapse_key = Some("c".into());
        event.transient = true;
        event.data = None;
        assert_eq!(
            frame(&event).unwrap(),
            r#"{"userId":"42","event":"e","collapseKey":"c","transient":true}"#
        );
    }

    #[test]
    fn what_makes_no_frame_is_refused_with_the_same_codes() {
        let event = |user: Option<&str>, name: Option<&str>, data: Option<&str>| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            frame(&Event { user: text(user), event: text(name), data: text(data), ..Event::default() })
        };
        assert_eq!(event(None, Some("e"), None).unwrap_err().code, Code::InvalidTarget);
        assert_eq!(event(Some("42"), None, None).unwrap_err().code, Code::InvalidEvent);
        assert_eq!(event(Some("42"), Some("e"), Some("{")).unwrap_err().code, Code::InvalidFrame);
        assert_eq!(event(Some("42"), Some("e"), Some("1,\"x\":2")).unwrap_err().code, Code::InvalidFrame);
        let both =
            Event { user: Some("1".into()), broadcast: true, event: Some("e".into()), ..Event::default() };
        assert_eq!(frame(&both).unwrap_err().code, Code::InvalidTarget);
    }
}
