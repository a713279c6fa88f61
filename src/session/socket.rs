//! A WebSocket on a TCP connection, with buffers as small as an idle socket deserves.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::input::Input;
use super::line::{Line, Moved};
use super::untaken::untaken;
use crate::close::Close;
use crate::protocol::client;

/// What the library reads into is allocated at once for every socket, and grows to twice a frame that came whole. An ack
/// is one of 45 bytes at most.
pub const CLIENT_READ_BUFFER: usize = 96;
/// Workers send much.
pub const WORKER_READ_BUFFER: usize = 16 * 1024;
/// Frames of one flush gather here before they go out.
const WRITE_BUFFER: usize = 2 * 1024;
/// Bytes that may be in the library's buffer, which never shrinks. What is beyond that waits here, and a frame that is
/// larger goes out past it.
const BUFFERED: usize = 16 * 1024;
/// What the library's buffer may hold at most: beyond what it is given, answers to the pings of a peer that does not read.
/// It answers no more then.
const MOST_BUFFERED: usize = 256 * 1024;
/// Bytes of frames' headers that may come, besides twice the largest message, before there is a message: as many as one
/// of 64 KiB has whose bytes come one by one. What never becomes a message would escape every bound on messages.
const HEADERS: usize = 512 * 1024;
/// How long a peer may take to take its goodbye, and then to say its own.
pub const GOODBYE: Duration = Duration::from_secs(2);
/// How long it may take nothing of what the system still holds for it after that.
const LEFT_BEHIND: Duration = Duration::from_secs(30);

/// The socket.
pub struct Socket {
    library: WebSocketStream<Line<TcpStream>>,
    input: Input,
    /// Bytes that the library was given since it had written everything.
    given: usize,
    /// What it has not been given yet.
    waiting: VecDeque<Message>,
    /// Bytes that may come before they are a message.
    most_unread: u64,
    /// Bytes that had come when there was one last.
    read: u64,
}

impl Socket {
    /// A socket on an upgraded connection; `read` was read behind the handshake already.
    pub async fn new(stream: TcpStream, read: Vec<u8>, read_buffer: usize, max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(read_buffer)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(MOST_BUFFERED)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let line = Line::new(stream, read);
        let library = WebSocketStream::from_raw_socket(line, Role::Server, Some(config)).await;
        Self {
            library,
            input: Input::default(),
            given: 0,
            waiting: VecDeque::new(),
            most_unread: max_message.saturating_mul(2).saturating_add(HEADERS) as u64,
            read: 0,
        }
    }

    /// Puts a message into the write buffer.
    ///
    /// # Errors
    /// Where the connection has failed.
    pub fn feed(&mut self, message: Message) -> Result<(), Error> {
        if !self.waiting.is_empty() || self.given + message.len() > BUFFERED {
            self.waiting.push_back(message);
            return Ok(());
        }
        self.give(message)
    }

    fn give(&mut self, message: Message) -> Result<(), Error> {
        self.given += message.len();
        Pin::new(&mut self.library).start_send(message)
    }

    /// Bytes that have gone each way, as far as this system has taken them.
    pub fn moved(&self) -> Moved {
        self.library.get_ref().moved
    }

    /// The same, as far as the peer's system has taken them, where this one tells; and whether that has room for more.
    pub fn taken(&self) -> (Moved, bool) {
        let Moved { came, went } = self.moved();
        let untaken = untaken(self.library.get_ref().stream());
        (Moved { came, went: went.saturating_sub(untaken.bytes) }, !untaken.full)
    }

    /// Writes the buffer out.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            ready!(Pin::new(&mut self.library).poll_flush(cx))?;
            self.given = 0;
            if self.waiting.is_empty() {
                self.waiting = VecDeque::new();
                return Poll::Ready(Ok(()));
            }
            self.take_up()?;
        }
    }

    /// Takes up what waits, now that the library has written everything: one large frame, or as many as it may have.
    fn take_up(&mut self) -> Result<(), Error> {
        if let Some(Message::Text(text)) = self.waiting.pop_front_if(|message| is_large(message)) {
            self.library.get_mut().put(Bytes::from(text));
            return Ok(());
        }
        let fits = |given: usize, message: &Message| given == 0 || given + message.len() <= BUFFERED;
        while let Some(message) =
            self.waiting.pop_front_if(|message| !is_large(message) && fits(self.given, message))
        {
            self.give(message)?;
        }
        Ok(())
    }

    /// Reads a message.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        let library = Pin::new(&mut self.library);
        let message = self.input.poll(cx, |cx| library.poll_next(cx));
        let unread = self.moved().came - self.read;
        if message.is_ready() {
            self.read += unread;
        } else if unread > self.most_unread {
            let (size, max_size) = (unread as usize, self.most_unread as usize);
            return Poll::Ready(Some(Err(CapacityError::MessageTooLong { size, max_size }.into())));
        }
        message
    }

    /// Reads a message.
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits until the peer has gone. Not where it has sent something that is not read: that it went is behind it.
    pub async fn gone(&self) {
        if let Ok(1..) = self.library.get_ref().stream().peek(&mut [0]).await {
            pending().await
        }
    }

    /// Writes the buffer out.
    ///
    /// # Errors
    /// Where the connection has failed.
    pub async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Answers the peer's close, if it sent one, and lets go.
    pub async fn finish(mut self) {
        bound_silence(self.library.get_ref().stream(), LEFT_BEHIND);
        // Nothing may follow on the answer. Whatever comes of it, the connection ends here.
        self.waiting = VecDeque::new();
        let _ = timeout(GOODBYE, self.flush()).await;
        let _ = timeout(GOODBYE, self.library.get_mut().shutdown()).await;
    }

    /// Says `bye` and closes.
    pub async fn goodbye(mut self, close: Close) {
        bound_silence(self.library.get_ref().stream(), LEFT_BEHIND);
        let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().into() };
        for message in [Message::Text(client::bye(close)), Message::Close(Some(frame))] {
            if self.feed(message).is_err() {
                return;
            }
        }
        let flushed = timeout(GOODBYE, self.flush()).await;
        if !matches!(flushed, Ok(Ok(()))) {
            return;
        }
        // Until the peer has said goodbye too: a connection that closes with unread input is reset, and the peer
        // may then lose what was sent last.
        let drain = async {
            while let Some(Ok(_)) = self.next().await {}
            let stream = self.library.get_mut();
            let _ = stream.shutdown().await;
            let mut rest = [0; 512];
            while let Ok(1..) = stream.read(&mut rest).await {}
        };
        let _ = timeout(GOODBYE, drain).await;
    }
}

/// Whether a message would make the library's buffer grow for good.
fn is_large(message: &Message) -> bool {
    message.is_text() && message.len() > BUFFERED
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

/// How long a peer may take nothing of what was sent to it; zero leaves it to the system. Nothing answers on an event
/// stream: without this a peer that is gone in silence would count as there for a quarter of an hour. The pongs of
/// WebSockets show the same, and better: to Linux, a peer that makes room by less than a packet has made none.
/// The connections of a listener have it from there.
pub fn bound_silence(socket: impl AsFd, most: Duration) {
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, most);
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(
        socket,
        u32::try_from(most.as_millis()).unwrap_or(u32::MAX),
    ) {
        tracing::debug!(%error, "the system bounds the silence of this connection by itself");
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_system_knows_how_long_a_peer_may_be_silent_also_when_nobody_here_waits_for_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for closes in [true, false] {
            let here = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (there, _) = listener.accept().await.unwrap();
            bound_silence(&there, Duration::from_secs(35));
            let (there, seen) = (there.into_std().unwrap(), |stream: &_| {
                rustix::net::sockopt::tcp_user_timeout(stream).unwrap()
            });
            let same = there.try_clone().unwrap();
            assert_eq!(seen(&same), 35_000);
            let there = TcpStream::from_std(there).unwrap();
            bound_silence(&there, Duration::ZERO);
            let socket = Socket::new(there, Vec::new(), CLIENT_READ_BUFFER, 1024).await;
            drop(here);
            if closes {
                socket.goodbye(Close::Age).await
            } else {
                socket.finish().await
            }
            assert_eq!(seen(&same), 30_000);
        }
    }
}
