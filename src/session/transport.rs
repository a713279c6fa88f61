//! What a session speaks on: a WebSocket, or server-sent events. All else about a session is the same.

use std::task::{Context, Poll};

use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::events::Events;
use super::line::Moved;
use super::socket::{GOODBYE, Socket};
use crate::close::Close;
use crate::id::EventId;
use crate::protocol::client;

/// A client's connection.
#[expect(clippy::large_enum_variant, reason = "nearly all are WebSockets, and a box would cost each of them")]
pub enum Transport {
    /// Both ways; a pong proves what has arrived.
    WebSocket(Socket),
    /// One way; what has arrived shows when the client comes back and says so.
    Events(Events),
}

impl From<Socket> for Transport {
    fn from(socket: Socket) -> Self {
        Self::WebSocket(socket)
    }
}

impl From<Events> for Transport {
    fn from(mut events: Events) -> Self {
        // Spread, as what was lost together must not come back together.
        events.retry(fastrand::u32(1000..5000));
        Self::Events(events)
    }
}

impl Transport {
    /// Puts a frame into the write buffer. Who has it stands at `id`, where that is known.
    ///
    /// # Errors
    /// Where the connection has failed.
    pub fn feed(&mut self, frame: Utf8Bytes, id: Option<EventId>) -> Result<(), Error> {
        match self {
            Self::WebSocket(socket) => socket.feed(Message::Text(frame)),
            Self::Events(events) => {
                events.feed(frame.as_str(), id);
                Ok(())
            }
        }
    }

    /// Puts a sign of life into the write buffer; the pong to it carries `last`, up to which it confirms.
    ///
    /// # Errors
    /// Where the connection has failed.
    pub fn ping(&mut self, last: EventId) -> Result<(), Error> {
        match self {
            Self::WebSocket(socket) => socket.feed(Message::Ping(last.to_string().into())),
            Self::Events(events) => {
                events.ping();
                Ok(())
            }
        }
    }

    /// Bytes that have gone each way, as far as this system has taken them.
    pub fn moved(&self) -> Moved {
        match self {
            Self::WebSocket(socket) => socket.moved(),
            Self::Events(_) => Moved::default(), // a flush shows as much: [`Transport::flush_is_pong`]
        }
    }

    /// The same, as far as the peer's system has taken them, where this one tells; and whether that has room for more.
    pub fn taken(&self) -> (Moved, bool) {
        match self {
            Self::WebSocket(socket) => socket.taken(),
            Self::Events(_) => (Moved::default(), true),
        }
    }

    /// Whether a flush that is done answers a ping: then the peer reads, and nothing more can be asked of it.
    pub fn flush_is_pong(&self) -> bool {
        matches!(self, Self::Events(_))
    }

    /// Writes the buffer out.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::WebSocket(socket) => socket.poll_flush(cx),
            Self::Events(events) => events.poll_flush(cx),
        }
    }

    /// Reads a message; none where the peer is gone.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        match self {
            Self::WebSocket(socket) => socket.poll_next(cx),
            Self::Events(events) => events.poll_gone(cx).map(|()| None),
        }
    }

    /// Lets go of a peer that is gone.
    pub async fn finish(self) {
        match self {
            Self::WebSocket(socket) => socket.finish().await,
            Self::Events(_) => {}
        }
    }

    /// Says `bye` and closes.
    pub async fn goodbye(self, close: Close) {
        match self {
            Self::WebSocket(socket) => socket.goodbye(close).await,
            Self::Events(mut events) => {
                events.retry_after(close);
                events.feed(client::bye(close).as_str(), None);
                // Who does not take it in time finds the end without it.
                events.flush_last(GOODBYE).await;
            }
        }
    }
}
