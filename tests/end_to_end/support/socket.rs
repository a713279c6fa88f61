//! A WebSocket that is always being read, as a browser's is: pings are answered whatever the test is doing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::wait::{BOUND, within};

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How many frames a failure shows.
const SHOWN: usize = 20;

/// An open WebSocket. Dropping it breaks the connection without a close.
pub struct Socket {
    name: String,
    out: SplitSink<Stream, Message>,
    inbox: UnboundedReceiver<Seen>,
    history: Vec<String>,
    pings: Arc<AtomicUsize>,
    reader: JoinHandle<()>,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
    /// The last frame before the close, where it was a `bye`.
    pub bye: Option<Value>,
}

enum Seen {
    Text(String),
    Closed(u16, String),
    Lost(String),
}

impl fmt::Display for Seen {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => to.write_str(text),
            Self::Closed(code, reason) => write!(to, "close {code} {reason:?}"),
            Self::Lost(why) => write!(to, "the end of the connection: {why}"),
        }
    }
}

impl Socket {
    /// Opens a WebSocket, with a bearer token where one is given.
    pub async fn open(url: &str, bearer: Option<&str>) -> Result<Self, Error> {
        let bearer = bearer.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|value| ("authorization", value.as_str())).collect();
        Self::open_with(url, &headers).await
    }

    /// Opens a WebSocket with headers of the request's own.
    pub async fn open_with(url: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
            request.headers_mut().append(name, HeaderValue::from_str(value).expect("a header value"));
        }
        let connected = tokio::time::timeout(BOUND, connect_async(request)).await;
        let (stream, _) = connected.unwrap_or_else(|_| panic!("waited {BOUND:?} for an upgrade of {url}"))?;
        let (out, input) = stream.split();
        let (sender, inbox) = unbounded_channel();
        let pings = Arc::new(AtomicUsize::new(0));
        let reader = tokio::spawn(read(input, sender, Arc::clone(&pings)));
        Ok(Self { name: url.to_owned(), out, inbox, history: Vec::new(), pings, reader })
    }

    /// Sends a text frame. A connection that the node has closed already is no failure: its end is read later.
    pub async fn send(&mut self, text: &str) {
        self.out.send(Message::text(text)).await.ok();
    }

    /// Sends a binary frame.
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.out.send(Message::binary(bytes.to_vec())).await.ok();
    }

    /// Pings seen (and answered) so far.
    pub fn pings(&self) -> usize {
        self.pings.load(Ordering::SeqCst)
    }

    /// The next text frame; panics where the connection ends or nothing comes within the bound.
    pub async fn text(&mut self, awaited: &str) -> String {
        match self.next(BOUND).await {
            Some(Seen::Text(text)) => text,
            other => self.fail(awaited, &described(other)),
        }
    }

    /// The next text frame as JSON.
    pub async fn json(&mut self, awaited: &str) -> Value {
        let text = self.text(awaited).await;
        serde_json::from_str(&text).unwrap_or_else(|error| self.fail(awaited, &format!("{error} in {text}")))
    }

    /// Reads on to the close that the other side begins, and checks that it was announced as documented.
    pub async fn closed(&mut self) -> Closed {
        // Bounded as a whole: a flood of frames would keep each single read within its bound for ever.
        within(2 * BOUND, "a close", self.read_close()).await
    }

    async fn read_close(&mut self) -> Closed {
        let mut last = None;
        loop {
            match self.next(BOUND).await {
                Some(Seen::Text(text)) => last = serde_json::from_str::<Value>(&text).ok(),
                Some(Seen::Closed(code, reason)) => {
                    let bye = last.filter(|frame| frame["type"] == "bye");
                    let closed = Closed { code, reason, bye };
                    closed.check_announced();
                    return closed;
                }
                other => self.fail("a close", &described(other)),
            }
        }
    }

    /// Closes from this side and waits until the other one has agreed: by a close with this code, or without one.
    pub async fn close(mut self) -> Option<u16> {
        self.out.send(Message::Close(None)).await.ok();
        loop {
            match self.next(BOUND).await {
                Some(Seen::Text(_)) => {}
                Some(Seen::Closed(code, _)) => return Some(code),
                Some(Seen::Lost(_)) => return None,
                None => self.fail("the answer to a close", "nothing"),
            }
        }
    }

    /// Stops reading and panics with what was awaited and what had come.
    pub fn fail(&self, awaited: &str, instead: &str) -> ! {
        let from = self.history.len().saturating_sub(SHOWN);
        let (name, before) = (&self.name, self.history[from..].join("\n  "));
        panic!("{name}: waited for {awaited}, got {instead}; frames before it:\n  {before}");
    }

    async fn next(&mut self, bound: Duration) -> Option<Seen> {
        let seen = tokio::time::timeout(bound, self.inbox.recv()).await.ok().flatten();
        if let Some(seen) = &seen {
            self.history.push(seen.to_string());
        }
        seen
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Closed {
    /// A close that a node begins follows a `bye` with the same code and reason, which says whether to come back.
    pub fn check_announced(&self) {
        let Some(bye) = &self.bye else {
            panic!("no `bye` right before the close: {self:?}");
        };
        assert_eq!(bye["code"], self.code, "the bye's code against the close's: {self:?}");
        assert_eq!(bye["reason"], self.reason, "the bye's reason against the close's: {self:?}");
        let come_back = matches!(self.code, 1012 | 1013 | 4100..=4299);
        assert_eq!(bye["reconnect"], come_back, "`reconnect` by the table of ranges: {self:?}");
    }
}

fn described(seen: Option<Seen>) -> String {
    seen.map_or_else(|| format!("nothing within {BOUND:?}"), |seen| seen.to_string())
}

async fn read(mut input: SplitStream<Stream>, seen: UnboundedSender<Seen>, pings: Arc<AtomicUsize>) {
    while let Some(message) = input.next().await {
        let next = match message {
            Ok(Message::Text(text)) => Seen::Text(text.as_str().to_owned()),
            Ok(Message::Binary(bytes)) => Seen::Lost(format!("a binary frame: {bytes:?}")),
            Ok(Message::Close(Some(CloseFrame { code, reason }))) => {
                Seen::Closed(code.into(), reason.as_str().to_owned())
            }
            // 1005 is what the field calls a close without a code.
            Ok(Message::Close(None)) => Seen::Closed(1005, String::new()),
            Ok(Message::Ping(_)) => {
                pings.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            Ok(_) => continue,
            Err(error) => Seen::Lost(error.to_string()),
        };
        if seen.send(next).is_err() {
            return;
        }
    }
    seen.send(Seen::Lost("no close frame came".to_owned())).ok();
}
