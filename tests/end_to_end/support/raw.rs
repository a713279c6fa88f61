//! A WebSocket client without manners: it answers no ping and sends whatever bytes it is told to.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::node::Node;
use super::socket::Closed;
use super::wait::{BOUND, within};

/// Frame types of RFC 6455.
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The bits beside the opcode.
pub const FIN: u8 = 0x80;
pub const RSV1: u8 = 0x40;

/// Any four bytes do: masking protects proxies, not us.
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// One frame as it came.
#[derive(Debug, Clone)]
pub struct RawFrame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// A handshake with this query string and these headers besides.
pub fn handshake(query: &str, headers: &[&str]) -> String {
    let more: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!(
        "GET /?{query} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// A masked frame: its first byte, and its payload.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A connection on which the test itself is the protocol. Dropping it breaks it.
pub struct RawClient {
    stream: TcpStream,
    buffer: Vec<u8>,
    history: Vec<String>,
    /// Most bytes of one read.
    at_once: usize,
    pause: Duration,
}

impl RawClient {
    /// A plain TCP connection: nothing has been said yet.
    pub async fn connect(address: &str) -> Self {
        Self::on(TcpStream::connect(address).await.expect("connecting to a port"))
    }

    fn on(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), history: Vec::new(), at_once: 4096, pause: Duration::ZERO }
    }

    /// The same, and it reads no more than that at once.
    pub fn reading(self, at_once: usize) -> Self {
        Self { at_once, ..self }
    }

    /// The same, each after a pause: a slow line.
    pub fn pausing(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// As [`RawClient::open`], where the kernel keeps little for a client that does not read.
    pub async fn open_narrow(node: &Node, query: &str) -> (Self, Value) {
        Self::open_with_buffer(node, query, 64 * 1024).await
    }

    /// As [`RawClient::open`], where the kernel keeps about so many bytes for a client that does not read.
    pub async fn open_with_buffer(node: &Node, query: &str, bytes: u32) -> (Self, Value) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("a small buffer");
        let address = node.client_address().parse().expect("an address");
        Self::on(socket.connect(address).await.expect("connecting to a port")).welcomed(query).await
    }

    /// Upgrades with this query string; the welcome has not been read.
    pub async fn upgrade(node: &Node, query: &str) -> Self {
        Self::upgrade_at(node.client_address(), query).await
    }

    /// Upgrades at one of a node's ports.
    pub async fn upgrade_at(address: &str, query: &str) -> Self {
        let mut client = Self::connect(address).await;
        client.shake_hands(query).await;
        client
    }

    async fn shake_hands(&mut self, query: &str) {
        self.write(handshake(query, &[]).as_bytes()).await;
        let head = self.head("the upgrade's answer").await.expect("an answer to the upgrade");
        assert!(head.starts_with("HTTP/1.1 101 "), "the upgrade was answered {head}");
    }

    /// Upgrades, and reads the welcome.
    pub async fn open(node: &Node, query: &str) -> (Self, Value) {
        Self::connect(node.client_address()).await.welcomed(query).await
    }

    async fn welcomed(mut self, query: &str) -> (Self, Value) {
        self.shake_hands(query).await;
        let welcome = self.json("the welcome").await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        (self, welcome)
    }

    /// Sends one frame, masked as clients have to. A broken connection is seen when reading.
    pub async fn send(&mut self, fin: bool, opcode: u8, payload: &[u8]) {
        self.write(&frame(opcode | if fin { FIN } else { 0 }, payload)).await;
    }

    /// Sends bytes as they are; false where the connection is broken.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Says that nothing more will be sent, and still reads.
    pub async fn say_no_more(&mut self) {
        self.stream.shutdown().await.expect("an open connection");
    }

    /// The head of an HTTP answer; `None` where the connection ends before it does.
    pub async fn head(&mut self, awaited: &str) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.fill(awaited).await {
                return None;
            }
        }
    }

    /// Reads on to the end of the connection, and gives all that came before it.
    pub async fn ended(&mut self, awaited: &str) -> String {
        let rest = async { while self.fill(awaited).await {} };
        within(2 * BOUND, awaited, rest).await;
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Sends a whole text frame.
    pub async fn send_text(&mut self, text: &str) {
        self.send(true, TEXT, text.as_bytes()).await;
    }

    /// The next frame; `None` once the connection has ended.
    pub async fn frame(&mut self, awaited: &str) -> Option<RawFrame> {
        loop {
            if let Some(frame) = self.take_frame() {
                let text = String::from_utf8_lossy(&frame.payload);
                self.history.push(format!("{}: {text}", frame.opcode));
                return Some(frame);
            }
            if !self.fill(awaited).await {
                return None;
            }
        }
    }

    /// The next text frame as JSON. Pings before it stay unanswered.
    pub async fn json(&mut self, awaited: &str) -> Value {
        // Bounded as a whole: pings alone would keep each single read within its bound for ever.
        within(2 * BOUND, awaited, self.read_json(awaited)).await
    }

    async fn read_json(&mut self, awaited: &str) -> Value {
        loop {
            let frame = self.frame(awaited).await;
            let frame = frame.unwrap_or_else(|| panic!("the end instead of {awaited}: {:#?}", self.history));
            match frame.opcode {
                TEXT => return serde_json::from_slice(&frame.payload).expect("JSON in a text frame"),
                PING => {}
                other => panic!("frame type {other} instead of {awaited}: {:#?}", self.history),
            }
        }
    }

    /// Sends a ping frame and expects its pong next: whatever was sent before has been handled then.
    pub async fn round_trip(&mut self) {
        self.send_text(r#"{"type":"ping"}"#).await;
        assert_eq!(self.json("a pong").await, json!({"type": "pong"}));
    }

    /// Reads on to the close that the node begins, and checks its announcement.
    pub async fn closed(&mut self) -> Closed {
        within(2 * BOUND, "a close", self.read_close()).await
    }

    async fn read_close(&mut self) -> Closed {
        let mut last = None;
        while let Some(frame) = self.frame("a close").await {
            match frame.opcode {
                TEXT => last = serde_json::from_slice::<Value>(&frame.payload).ok(),
                CLOSE => {
                    let (code, reason) = frame.payload.split_at(2);
                    let code = u16::from_be_bytes([code[0], code[1]]);
                    let reason = String::from_utf8_lossy(reason).into_owned();
                    let bye = last.filter(|frame| frame["type"] == "bye");
                    let closed = Closed { code, reason, bye };
                    closed.check_announced();
                    return closed;
                }
                _ => {}
            }
        }
        panic!("the connection ended without a close frame, after {:#?}", self.history);
    }

    /// Takes one whole frame out of what has been read.
    fn take_frame(&mut self) -> Option<RawFrame> {
        let (&first, &second) = (self.buffer.first()?, self.buffer.get(1)?);
        assert!(first & 0x80 != 0, "a node has no reason to fragment: {:?}", self.history);
        assert!(second & 0x80 == 0, "a server must not mask: {:?}", self.history);
        let (start, length) = match second {
            126 => (4, usize::from(u16::from_be_bytes(self.buffer.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(self.buffer.get(2..10)?.try_into().ok()?) as usize),
            short => (2, usize::from(short)),
        };
        if self.buffer.len() < start + length {
            return None;
        }
        let payload = self.buffer[start..start + length].to_vec();
        self.buffer.drain(..start + length);
        Some(RawFrame { opcode: first & 0x0f, payload })
    }

    /// Reads more; false at the end of the connection.
    async fn fill(&mut self, awaited: &str) -> bool {
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
        let mut chunk = [0; 4096];
        match tokio::time::timeout(BOUND, self.stream.read(&mut chunk[..self.at_once])).await {
            Ok(Ok(0) | Err(_)) => false,
            Ok(Ok(count)) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
            Err(_) => panic!("waited {BOUND:?} for {awaited}, after {:#?}", self.history),
        }
    }
}
