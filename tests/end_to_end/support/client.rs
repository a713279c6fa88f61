//! A client: one session of a user, as a browser tab would be.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Error;

use super::node::Node;
use super::socket::{Closed, Socket};
use super::wait::{BOUND, eventually};

/// An `event` frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `None` for a transient one.
    pub id: Option<String>,
    pub event: String,
    /// The JSON text exactly as it arrived.
    pub data: String,
}

/// A connected client. Dropping it breaks the connection without a close.
pub struct Client {
    pub welcome: Value,
    socket: Socket,
}

impl Client {
    /// Connects with this query string and waits for the welcome.
    pub async fn open(node: &Node, query: &str) -> Self {
        let mut client = Self::upgrade(node, query).await;
        client.read_welcome().await;
        client
    }

    /// The same, as soon as there is room: a connection that was closed from here may take a moment to be gone.
    pub async fn open_soon(node: &Node, query: &str) -> Self {
        let mut client = eventually(BOUND, "room for a connection", async || {
            Self::try_upgrade(node, query).await.map_err(|error| error.to_string())
        })
        .await;
        client.read_welcome().await;
        client
    }

    /// Connects as this user and client.
    pub async fn as_user(node: &Node, user: &str, client: &str) -> Self {
        Self::open(node, &format!("userId={user}&clientId={client}")).await
    }

    /// Connects and waits for nothing: the hello, or a close, comes next.
    pub async fn upgrade(node: &Node, query: &str) -> Self {
        let client = Self::try_upgrade(node, query).await;
        client.unwrap_or_else(|error| panic!("no WebSocket for {query:?} at {}: {error}", node.id))
    }

    /// The same, where a refusal is one of the things to be seen.
    pub async fn try_upgrade(node: &Node, query: &str) -> Result<Self, Error> {
        Self::try_upgrade_with(node, query, &[]).await
    }

    /// The same, with headers.
    pub async fn try_upgrade_with(node: &Node, query: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let socket = Socket::open_with(&node.client_ws(query), headers).await?;
        Ok(Self { welcome: Value::Null, socket })
    }

    /// Connects with headers and waits for the welcome.
    pub async fn open_with(node: &Node, query: &str, headers: &[(&str, &str)]) -> Self {
        let client = Self::try_upgrade_with(node, query, headers).await;
        let mut client =
            client.unwrap_or_else(|error| panic!("no WebSocket for {query:?} at {}: {error}", node.id));
        client.read_welcome().await;
        client
    }

    /// The same; `None` where the answer is 401.
    pub async fn unless_unauthorized(node: &Node, query: &str) -> Option<Self> {
        match Self::try_upgrade(node, query).await {
            Ok(mut client) => {
                client.read_welcome().await;
                Some(client)
            }
            Err(Error::Http(answer)) if answer.status() == 401 => None,
            Err(error) => panic!("no WebSocket for {query:?} at {}: {error}", node.id),
        }
    }

    /// Reads the welcome of a connection opened by [`Client::upgrade`].
    pub async fn read_welcome(&mut self) {
        self.welcome = self.socket.json("the welcome").await;
        if self.welcome["type"] != "welcome" {
            self.socket.fail("the welcome", &self.welcome.to_string());
        }
    }

    /// A text field of the welcome.
    pub fn welcomed(&self, field: &str) -> &str {
        let text = self.welcome[field].as_str();
        text.unwrap_or_else(|| panic!("`{field}` is no text in {}", self.welcome))
    }

    pub async fn send(&mut self, text: &str) {
        self.socket.send(text).await;
    }

    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.socket.send_binary(bytes).await;
    }

    /// The next frame, whatever it is.
    pub async fn frame(&mut self, awaited: &str) -> Value {
        self.socket.json(awaited).await
    }

    /// The next frame, as it came.
    pub async fn text(&mut self, awaited: &str) -> String {
        self.socket.text(awaited).await
    }

    /// The next frame, which has to be an event.
    pub async fn event(&mut self) -> Event {
        let text = self.socket.text("an event").await;
        parse_event(&text).unwrap_or_else(|| self.socket.fail("an event", &text))
    }

    /// The next event, or `None` where the node says `bye`.
    pub async fn event_or_bye(&mut self) -> Option<Event> {
        let text = self.socket.text("an event or a bye").await;
        let event = parse_event(&text);
        let bye = serde_json::from_str(&text).is_ok_and(|frame: Value| frame["type"] == "bye");
        if event.is_none() && !bye {
            self.socket.fail("an event or a bye", &text);
        }
        event
    }

    /// The next events; each frame has to be one.
    pub async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::with_capacity(count);
        for _ in 0..count {
            events.push(self.event().await);
        }
        events
    }

    /// The next event where `gap` frames may come before it (a log that was lost may be told at any time).
    pub async fn event_after_gaps(&mut self) -> Event {
        loop {
            let text = self.socket.text("an event, perhaps after a gap").await;
            if let Some(event) = parse_event(&text) {
                return event;
            }
            let frame: Value = serde_json::from_str(&text).unwrap_or_default();
            if frame["type"] != "gap" {
                self.socket.fail("an event, perhaps after a gap", &text);
            }
        }
    }

    /// Sends a ping frame and expects its pong next: whatever was sent before has been handled then.
    pub async fn round_trip(&mut self) {
        self.send(r#"{"type":"ping"}"#).await;
        let frame = self.frame("a pong").await;
        assert_eq!(frame["type"], "pong", "awaiting the pong: {frame}");
    }

    /// Waits until the node has pinged twice more: what came before the first has been confirmed by its pong.
    pub async fn pinged_twice(&self) {
        let wanted = self.socket.pings() + 2;
        eventually(BOUND, "two WebSocket pings", async || {
            let seen = self.socket.pings();
            if seen >= wanted { Ok(()) } else { Err(format!("{seen} of {wanted} pings")) }
        })
        .await;
    }

    /// Reads on to the close that the node begins; its `bye` has been checked.
    pub async fn closed(&mut self) -> Closed {
        self.socket.closed().await
    }

    /// Closes as a client does that leaves; the code of the close that answers, where one came.
    pub async fn close(self) -> Option<u16> {
        self.socket.close().await
    }
}

/// An `event` frame, with `data` as text; `None` for any other frame.
pub fn parse_event(text: &str) -> Option<Event> {
    // Raw values: parsing `data` into a tree would hide exactly what the tests are about.
    let frame: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
    let string = |name: &str| serde_json::from_str::<String>(frame.get(name)?.get()).ok();
    if string("type")? != "event" {
        return None;
    }
    let data = frame.get("data").unwrap_or_else(|| panic!("an event without `data`: {text}"));
    Some(Event { id: string("id"), event: string("event")?, data: data.get().to_owned() })
}

/// The ids of events that all have one.
pub fn ids(events: &[Event]) -> Vec<String> {
    let id = |event: &Event| event.id.clone().unwrap_or_else(|| panic!("no id in {event:?}"));
    events.iter().map(id).collect()
}

/// The data of events, as texts.
pub fn data(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.data.clone()).collect()
}

/// The numbers from `first` to `last` as JSON texts: what a counting publisher is expected to have delivered.
pub fn numbers(first: usize, last: usize) -> Vec<String> {
    (first..=last).map(|number| number.to_string()).collect()
}
