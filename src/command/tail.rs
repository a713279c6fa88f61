//! `switchboard tail`: connects as a user and prints what comes, one frame a line; comes back where the node says so.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::endpoint::Endpoint;
use super::wire::{self, NoSocket, WebSocket};
use super::{Failure, Outcome, print_aside, signals};
use crate::close;
use crate::id::ClientId;
use crate::logging::say;
use crate::settings::read::Reader;

/// What was asked for.
#[derive(Debug)]
pub struct Tail {
    /// As whom.
    pub user: String,
    /// As which session; one is made up where there is none.
    pub client: Option<String>,
    /// What came after this event comes first.
    pub since: Option<String>,
    /// The client's credentials.
    pub token: Option<String>,
}

/// A backoff begins here, and doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// It goes no further than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A node that says nothing for this long beyond its ping interval is gone, whatever TCP believes.
const SILENCE: Duration = Duration::from_secs(20);
/// A node has greeted by then, or it is not a client port.
const GREETING: Duration = Duration::from_secs(10);
/// How long the other side may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Where a session is, so that the next one goes on from there.
struct Place {
    client: String,
    since: Option<String>,
    /// Events of the last welcome that have not come yet: until then its position is not ours.
    owed: u64,
    /// The position that counts once they have come.
    position: Option<String>,
    /// Let in by the present connection.
    welcomed: bool,
    silence: Duration,
}

/// How a connection ended.
enum End {
    /// The node asks to come back after this long; none: after a backoff.
    Back(Option<Duration>, String),
    /// The node asks not to come back.
    Stay(u16, String),
}

/// Prints frames until it is interrupted, or the node says that coming back is of no use.
///
/// # Errors
/// Where the node refuses, or is not reached at the first attempt.
pub async fn run(mut reader: Reader, tail: Tail) -> Outcome {
    let to = Endpoint::client(&mut reader, tail.token)?;
    let mut signals = signals()?;
    let mut place = Place {
        client: tail.client.unwrap_or_else(|| ClientId::mint().to_string()),
        since: tail.since,
        owed: 0,
        position: None,
        welcomed: false,
        silence: SILENCE,
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let query = query(&tail.user, &place);
        let opened = tokio::select! {
            () = signals.next() => return Ok(()),
            opened = wire::websocket(&to, &query) => opened,
        };
        let end = match opened {
            Ok(mut socket) => {
                place.welcomed = false;
                let end = tokio::select! {
                    () = signals.next() => Ok(None),
                    end = listen(&mut socket, &mut place) => end.map(Some),
                };
                if place.welcomed {
                    pause = FIRST_PAUSE;
                }
                match end {
                    Ok(Some(end)) => end,
                    stopped => {
                        say_goodbye(socket).await;
                        return stopped.map(drop);
                    }
                }
            }
            // Busy, draining or without its Redis: worth another try.
            Err(NoSocket::Refused { status: 429 | 500.., reason }) => End::Back(None, reason),
            Err(NoSocket::Refused { reason, .. }) => return Err(Failure::Failed(reason)),
            Err(NoSocket::Unreached(reason)) if place.position.is_none() => {
                return Err(Failure::Failed(reason));
            }
            Err(NoSocket::Unreached(reason)) => End::Back(None, reason),
        };
        let wait = match end {
            End::Back(Some(after), reason) => {
                say(format_args!("{reason}; back in {} ms", after.as_millis()));
                after
            }
            End::Back(None, reason) => {
                let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                pause = (pause * 2).min(LONGEST_PAUSE);
                say(format_args!("{reason}; trying again in {} ms", wait.as_millis()));
                wait
            }
            End::Stay(1000, _) => return Ok(()),
            End::Stay(code, reason) => {
                return Err(Failure::Failed(format!("closed by the node: {code} {reason}")));
            }
        };
        tokio::select! {
            () = signals.next() => return Ok(()),
            () = sleep(wait) => {}
        }
    }
}

fn query(user: &str, place: &Place) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("userId", user).append_pair("clientId", &place.client);
    if let Some(since) = &place.since {
        query.append_pair("since", since);
    }
    query.finish()
}

/// What matters of a frame here; the rest is printed and not looked at.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Frame {
    r#type: String,
    id: Option<String>,
    position: Option<String>,
    replayed: u64,
    ping_interval: u64,
    reconnect: bool,
    after_ms: Option<u64>,
}

async fn listen(socket: &mut WebSocket, place: &mut Place) -> Result<End, Failure> {
    let mut bye: Option<Frame> = None;
    let greeted_by = Instant::now() + GREETING;
    loop {
        let until = if place.welcomed { Instant::now() + place.silence } else { greeted_by };
        let message = match timeout_at(until, socket.next()).await {
            Ok(message) => message,
            Err(_) if place.welcomed => {
                return Ok(End::Back(None, "nothing was heard from the node for too long".to_owned()));
            }
            Err(_) => {
                let seconds = GREETING.as_secs();
                return Ok(End::Back(
                    None,
                    format!("no welcome came within {seconds} s: is this a client port?"),
                ));
            }
        };
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => return Ok(closed(frame, bye)),
            Some(Ok(_)) => continue, // pings are answered by the library
            None => return Ok(End::Back(None, "the connection ended".to_owned())),
            Some(Err(error)) => return Ok(End::Back(None, format!("the connection broke: {error}"))),
        };
        print_aside(line(&text)).await?;
        let frame: Frame = serde_json::from_str(&text).unwrap_or_default();
        place.take(&frame);
        if frame.r#type == "bye" {
            bye = Some(frame);
        }
    }
}

impl Place {
    fn take(&mut self, frame: &Frame) {
        match frame.r#type.as_str() {
            "welcome" => {
                self.welcomed = true;
                (self.owed, self.position) = (frame.replayed, frame.position.clone());
                self.silence = SILENCE + Duration::from_millis(frame.ping_interval);
                // With what is still to come, `since` stays where it was: a break would lose the rest.
                if self.owed == 0 {
                    self.since.clone_from(&frame.position);
                }
            }
            "event" => {
                if let Some(id) = &frame.id {
                    self.since = Some(id.clone());
                    self.owed = self.owed.saturating_sub(1);
                }
            }
            _ => {}
        }
    }
}

/// A frame as one line: `data` comes as it was sent, and may have line ends between its tokens.
fn line(frame: &str) -> String {
    frame.replace(['\r', '\n'], " ") + "\n"
}

/// The `bye` says whether to come back; without one, the code's range does.
fn closed(frame: Option<CloseFrame>, bye: Option<Frame>) -> End {
    let Some(frame) = frame else {
        return End::Back(None, "the node closed without a word".to_owned());
    };
    let code = u16::from(frame.code);
    let reason = frame.reason.to_string();
    let (back, after) = match &bye {
        Some(bye) => (bye.reconnect, bye.after_ms.map(Duration::from_millis)),
        None => (close::comes_back(code), close::comes_back_at_once(code).then_some(Duration::ZERO)),
    };
    if back {
        End::Back(after, format!("closed by the node: {code} {reason}"))
    } else {
        End::Stay(code, reason)
    }
}

async fn say_goodbye(mut socket: WebSocket) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    let goodbye = async {
        let _ = socket.send(Message::Close(Some(frame))).await;
        while let Some(Ok(_)) = socket.next().await {}
    };
    let _ = timeout(GOODBYE, goodbye).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            client: "c".into(),
            since: Some("5-0".into()),
            owed: 0,
            position: None,
            welcomed: false,
            silence: SILENCE,
        }
    }

    fn heard(place: &mut Place, text: &str) -> Option<String> {
        place.take(&serde_json::from_str(text).unwrap());
        place.since.clone()
    }

    #[test]
    fn a_break_in_the_middle_of_a_replay_loses_nothing() {
        let mut place = place();
        let welcome = r#"{"type":"welcome","position":"9-0","replayed":2,"pingInterval":1000,"userId":"u"}"#;
        assert_eq!(heard(&mut place, welcome).as_deref(), Some("5-0"));
        assert_eq!(heard(&mut place, r#"{"type":"event","id":"7-0","event":"e"}"#).as_deref(), Some("7-0"));
        assert_eq!(heard(&mut place, r#"{"type":"event","event":"transient"}"#).as_deref(), Some("7-0"));
        let nothing_new = r#"{"type":"welcome","position":"9-0","replayed":0}"#;
        assert_eq!(heard(&mut place, nothing_new).as_deref(), Some("9-0"));
    }

    #[test]
    fn a_close_without_a_bye_is_understood_by_its_range() {
        let close = |code: u16| {
            let frame = CloseFrame { code: code.into(), reason: "r".into() };
            match closed(Some(frame), None) {
                End::Back(after, _) => Some(after),
                _ => None,
            }
        };
        for code in [1000, 1003, 1009, 4000, 4009, 4010] {
            assert_eq!(close(code), None, "{code}");
        }
        assert_eq!(close(1012), Some(None));
        assert_eq!(close(4100), Some(None));
        assert_eq!(close(4201), Some(Some(Duration::ZERO)));
        let bye: Frame = serde_json::from_str(r#"{"type":"bye","reconnect":true,"afterMs":1200}"#).unwrap();
        let frame = CloseFrame { code: CloseCode::Restart, reason: "drain".into() };
        let End::Back(after, _) = closed(Some(frame), Some(bye)) else { panic!("it must come back") };
        assert_eq!(after, Some(Duration::from_millis(1200)));
    }
}
