//! WebSocket frames and the opening handshake: as little of them as a load generator needs, so that it takes little of
//! the CPU that it shares with what it measures.

use std::io::{self, Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::Uri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::logging::printable;
use crate::settings::read::{BARE, is_bare};

/// A text frame's opcode.
pub const TEXT: u8 = 1;
/// A close frame's opcode.
pub const CLOSE: u8 = 8;
/// A ping frame's opcode.
pub const PING: u8 = 9;
/// A pong frame's opcode.
pub const PONG: u8 = 10;

/// How long a handshake may take, the welcome behind it, an answer, or a peer to take what is sent to it.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer's head.
const MAX_HEAD: usize = 16 * 1024;
/// Characters of a refusal's body that are shown: whatever a node says has fewer, and a web page's head will do.
const MAX_SHOWN: usize = 200;

/// Appends a frame as a client sends it. Its mask is zero: that is a mask too, the receiver's work is the same, and
/// the text need not be gone through twice.
pub fn append(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        middle @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// A frame from a server.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub opcode: u8,
    /// What it carries.
    pub payload: &'a [u8],
    /// Bytes that it takes, its head included.
    pub size: usize,
}

/// The first frame in `bytes`, if it is there whole.
pub fn first(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&[flags, length], rest) = bytes.split_first_chunk::<2>()?;
    let (head, length) = match length & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*rest.first_chunk()?)),
        short => (2, u64::from(short)),
    };
    let size = head + usize::try_from(length).ok()?;
    Some(Frame { opcode: flags & 0x0f, payload: bytes.get(head..size)?, size })
}

/// What a close frame says, in words.
pub fn closed(payload: &[u8]) -> String {
    match payload.split_first_chunk() {
        Some((code, reason)) => {
            format!("closed with {} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(reason))
        }
        None => "closed with 1005".to_owned(),
    }
}

/// Where a socket goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// As the request names it.
    pub host: String,
    /// Where it is.
    pub at: SocketAddr,
    /// The path of a WebSocket; `/` where none is given.
    pub path: String,
}

impl Address {
    /// Reads `ws://host:port`, behind which a path may stand, and asks the system where that is.
    ///
    /// # Errors
    /// In words.
    pub fn find(url: &str) -> Result<Self, String> {
        if !is_bare(url) {
            return Err(format!("addresses must be {BARE}"));
        }
        let allowed = || format!("{url:?} is no address: ws://host:port is one (TLS ends before the node)");
        let uri: Uri = url.parse().map_err(|_| allowed())?;
        let host = uri.authority().filter(|_| matches!(uri.scheme_str(), Some("ws" | "http")));
        let host = host.ok_or_else(allowed)?.as_str().to_owned();
        let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host.clone()
        } else {
            format!("{host}:80")
        };
        let found = std::net::ToSocketAddrs::to_socket_addrs(&with_port)
            .map_err(|error| format!("{url:?} cannot be found: {error}"))?;
        // `localhost` may be both; nodes listen on IPv4 unless told otherwise.
        let mut found: Vec<SocketAddr> = found.collect();
        found.sort_by_key(|at| at.is_ipv6());
        let at = *found.first().ok_or_else(allowed)?;
        Ok(Self { host, at, path: uri.path().to_owned() })
    }
}

/// Opens a TCP connection, from `source` where one is given.
///
/// # Errors
/// As the system has it.
pub async fn connect(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = timeout(PATIENCE, socket.connect(to)).await.map_err(|_| ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens a WebSocket; hands out what was read behind the handshake as well.
///
/// # Errors
/// Where there is nobody, or the answer is no: it says which.
pub async fn open(
    to: &Address,
    source: Option<IpAddr>,
    path: &str,
    token: Option<&str>,
) -> io::Result<(TcpStream, Vec<u8>)> {
    let mut stream = connect(to.at, source).await?;
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    // The key of RFC 6455's own example: the answer to it is not looked at.
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{authorization}\r\n",
        to.host
    );
    stream.write_all(request.as_bytes()).await?;
    let (head, rest) = timeout(PATIENCE, head(&mut stream)).await.map_err(|_| ErrorKind::TimedOut)??;
    if !head.starts_with("HTTP/1.1 101") {
        let status = head.lines().next().unwrap_or_default();
        return Err(Error::other(refusal(status, &rest)));
    }
    Ok((stream, rest))
}

/// A refusal as it may be shown: its status, and the beginning of its body.
pub fn refusal(status: &str, body: &[u8]) -> String {
    let body = printable(String::from_utf8_lossy(body).trim());
    let mut shown = printable(status);
    if !body.is_empty() {
        shown.push_str(": ");
        shown.extend(body.chars().take(MAX_SHOWN));
    }
    if body.chars().nth(MAX_SHOWN).is_some() {
        shown.push_str(" ...");
    }
    shown
}

/// Reads an HTTP answer up to its body; hands out what came of that already.
///
/// # Errors
/// Where the connection ends before that, or the head does not.
pub async fn head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut read = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&read).into_owned(), rest));
        }
        if read.len() > MAX_HEAD {
            return Err(Error::other("the answer's head does not end"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_written_and_read() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let mut sent = Vec::new();
            append(&mut sent, TEXT, &payload);
            // A server's frame is the same without mask bit and mask.
            let head = sent.len() - length;
            let mut answered = sent[..head - 4].to_vec();
            answered[1] &= 0x7f;
            answered.extend_from_slice(&payload);
            assert_eq!(first(&answered[..answered.len() - 1]), None, "{length}: not whole yet");
            answered.push(7);
            let size = answered.len() - 1;
            assert_eq!(first(&answered), Some(Frame { opcode: TEXT, payload: &payload, size }));
        }
        assert_eq!(first(&[0x81]), None);
    }

    #[test]
    fn a_refusal_is_shown_on_one_line_with_the_beginning_of_its_body() {
        assert_eq!(refusal("HTTP/1.1 404 Not Found", b""), "HTTP/1.1 404 Not Found");
        assert_eq!(refusal("HTTP/1.1 404", b"<a>\n\x1b[2J</a>\n"), r"HTTP/1.1 404: <a>\n\u{1b}[2J</a>");
        let long = refusal("HTTP/1.1 500", "\u{e9}".repeat(1000).as_bytes());
        assert_eq!(long, format!("HTTP/1.1 500: {} ...", "\u{e9}".repeat(200)));
    }

    #[test]
    fn addresses_are_plain_ones() {
        let address = Address::find("ws://127.0.0.1:4000/ws").unwrap();
        assert_eq!((address.host.as_str(), address.at.port()), ("127.0.0.1:4000", 4000));
        assert_eq!(address.path, "/ws");
        assert_eq!(Address::find("ws://127.0.0.1").unwrap().at.port(), 80);
        for bad in ["", "127.0.0.1:4000", "wss://127.0.0.1:4000", "ws://"] {
            assert!(Address::find(bad).is_err(), "{bad}");
        }
        for more in ["ws://me:secret@127.0.0.1:1", "ws://127.0.0.1:1?token=secret"] {
            let told = Address::find(more).unwrap_err();
            assert!(told.contains("--worker-token") && !told.contains("secret"), "{told}");
        }
    }
}
