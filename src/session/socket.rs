//! A WebSocket on a TCP connection, with buffers as small as an idle socket deserves.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::close::Close;
use crate::protocol::client;

/// Allocated at once for every socket, and the bound of one read. Clients send little.
pub const CLIENT_READ_BUFFER: usize = 512;
/// Workers send much.
pub const WORKER_READ_BUFFER: usize = 16 * 1024;
/// Frames of one flush gather here before they go out.
const WRITE_BUFFER: usize = 2 * 1024;
/// How long a peer may take to take its goodbye, and then to say its own.
const GOODBYE: Duration = Duration::from_secs(2);

/// The socket.
pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// A socket on an upgraded connection; `read` was read behind the handshake already.
    pub async fn new(stream: TcpStream, read: Vec<u8>, read_buffer: usize, max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(read_buffer)
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        Self(WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await)
    }

    /// Puts a message into the write buffer.
    ///
    /// # Errors
    /// Where the connection has failed.
    pub fn feed(&mut self, message: Message) -> Result<(), Error> {
        Pin::new(&mut self.0).start_send(message)
    }

    /// Writes the buffer out.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    /// Reads a message.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        Pin::new(&mut self.0).poll_next(cx)
    }

    /// Reads a message.
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        self.0.next().await
    }

    /// Writes the buffer out.
    ///
    /// # Errors
    /// Where the connection has failed.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.0.flush().await
    }

    /// Answers the peer's close, if it sent one, and lets go.
    pub async fn finish(mut self) {
        // Whatever comes of it, the connection ends here.
        let _ = timeout(GOODBYE, self.0.flush()).await;
        let _ = timeout(GOODBYE, self.0.get_mut().shutdown()).await;
    }

    /// Says `bye` and closes.
    pub async fn goodbye(self, close: Close) {
        let bye = Message::Text(client::bye(close));
        self.close_with(Some(bye), close).await;
    }

    /// Closes, after `last` where there is one.
    pub async fn close_with(mut self, last: Option<Message>, close: Close) {
        let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().into() };
        for message in last.into_iter().chain([Message::Close(Some(frame))]) {
            if self.feed(message).is_err() {
                return;
            }
        }
        let flushed = timeout(GOODBYE, self.0.flush()).await;
        if !matches!(flushed, Ok(Ok(()))) {
            return;
        }
        // Until the peer has said goodbye too: a connection that closes with unread input is reset, and the peer
        // may then lose what was sent last.
        let drain = async {
            while let Some(Ok(_)) = self.0.next().await {}
            let stream = self.0.get_mut();
            let _ = stream.shutdown().await;
            let mut rest = [0; 512];
            while let Ok(1..) = stream.read(&mut rest).await {}
        };
        let _ = timeout(GOODBYE, drain).await;
    }
}

/// How a read error is answered; none where there is nobody to answer.
pub fn close_for(error: &Error) -> Option<Close> {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Some(Close::TooBig),
        Error::Utf8(_) => Some(Close::NotUtf8),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(Close::Protocol),
        _ => None,
    }
}
