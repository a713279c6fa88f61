//! One session: a socket that reads, and counts what it reads.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::event;
use super::load::Load;
use super::plan::Protocol;
use super::wire::{self, CLOSE, PING, PONG, TEXT};
use crate::settings::read::beside;

/// Sockets that come from one loopback address; a system has some 28,000 ports for each pair of addresses.
const PER_SOURCE: usize = 1_000;
/// Longest pause before a broken socket tries again.
const MOST_PAUSE: Duration = Duration::from_secs(1);

/// Tries to get in for the first time, where sockets come back: the pauses between them add up to some four seconds.
const TRIES: usize = 10;

/// All sessions of a process read into one buffer: only one reads at a time, and idle ones need none.
pub type Scratch = Rc<RefCell<Vec<u8>>>;

/// A session of a share.
pub struct Session {
    load: Rc<Load>,
    /// Its number within the share.
    number: usize,
    user: usize,
    rank: usize,
    scratch: Scratch,
    /// The beginning of a frame whose end is still to come.
    rest: Vec<u8>,
    /// What is to be sent.
    replies: Vec<u8>,
    registered: bool,
    /// The last event's id, where the socket may have to come back.
    last_id: String,
}

impl Session {
    /// Session `number` of a share.
    pub fn new(load: Rc<Load>, number: usize, scratch: Scratch) -> Self {
        let user = load.users.start + number / load.plan.sessions;
        let rank = number % load.plan.sessions;
        let (rest, replies, last_id) = (Vec::new(), Vec::new(), String::new());
        Self { load, number, user, rank, scratch, rest, replies, registered: false, last_id }
    }

    /// Connects, as soon as it is its turn, and reads until the run is over. `turn` bounds how many connect at once.
    pub async fn run(mut self, turn: Rc<Semaphore>) {
        let mut node = self.user + self.rank;
        let mut broken_since: Option<Instant> = None;
        let mut pause = Duration::from_millis(20);
        let mut tries = 0;
        loop {
            tries += 1;
            self.registered = false;
            self.rest.clear();
            let outcome = match self.connect(node, &turn).await {
                Ok(mut stream) => {
                    if let Some(since) = broken_since.take() {
                        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                        self.load.returns.borrow_mut().saturating_record(micros);
                    }
                    self.load.registered.set(self.load.registered.get() + 1);
                    pause = Duration::from_millis(20);
                    let outcome = self.read(&mut stream, false).await;
                    self.load.registered.set(self.load.registered.get() - 1);
                    if !self.load.over.get() {
                        self.load.count.borrow_mut().broken += 1;
                    }
                    outcome
                }
                Err(error) => Err(error),
            };
            if self.load.over.get() {
                return;
            }
            if let Err(error) = &outcome {
                let plan = &self.load.plan;
                let at = &plan.clients[node % plan.clients.len()].host;
                self.load.trouble(|| format!("a socket of {} at {at}: {error}", plan.user(self.user)));
            }
            let is_in = self.load.is_in(self.number);
            let too_late = |since: Instant| since.elapsed() >= wire::PATIENCE;
            if !is_in && (!self.load.plan.reconnect || tries >= TRIES || broken_since.is_some_and(too_late)) {
                self.load.failed.set(self.load.failed.get() + 1);
                return;
            }
            if !self.load.plan.reconnect {
                return;
            }
            broken_since.get_or_insert_with(Instant::now);
            node += 1;
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(MOST_PAUSE);
        }
    }

    async fn connect(&mut self, node: usize, turn: &Semaphore) -> io::Result<TcpStream> {
        let _turn = turn.acquire().await.map_err(io::Error::other)?;
        let plan = &self.load.plan;
        let to = &plan.clients[node % plan.clients.len()];
        let path = match plan.protocol {
            Protocol::Switchboard => {
                let since = if self.last_id.is_empty() { "" } else { "&since=" };
                let (user, run, rank) = (plan.user(self.user), &self.load.run, self.rank);
                let user: String = form_urlencoded::byte_serialize(user.as_bytes()).collect();
                format!("{}?userId={user}&clientId={run}-{rank}{since}{}", to.path, self.last_id)
            }
            Protocol::SocketIo => beside(&to.path, "/socket.io/?EIO=4&transport=websocket"),
        };
        let socket = self.user * plan.sessions + self.rank;
        let source = source(to.at.ip(), socket, std::process::id());
        let (mut stream, early) = wire::open(to, source, &path, None).await?;
        self.take(&early)?;
        self.reply(&stream)?;
        if !self.registered {
            let silence = |_| io::Error::other(format!("no welcome in {} s", wire::PATIENCE.as_secs()));
            timeout(wire::PATIENCE, self.read(&mut stream, true)).await.map_err(silence)??;
        }
        Ok(stream)
    }

    /// Reads until the socket ends; or until the session is registered, where that is `enough`.
    async fn read(&mut self, stream: &mut TcpStream, enough: bool) -> io::Result<()> {
        let scratch = self.scratch.clone();
        loop {
            poll_fn(|cx| {
                let mut scratch = scratch.borrow_mut();
                // Not by `try_read`, which would ask the system a second time, after the last byte as well.
                let mut bytes = ReadBuf::new(&mut scratch);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut bytes))?;
                Poll::Ready(match bytes.filled() {
                    [] => Err(io::ErrorKind::UnexpectedEof.into()),
                    filled => self.take(filled),
                })
            })
            .await?;
            self.reply(stream)?;
            if enough && self.registered {
                return Ok(());
            }
        }
    }

    /// Sends the few bytes that are to be sent. A socket that does not take those is broken.
    fn reply(&mut self, stream: &TcpStream) -> io::Result<()> {
        if !self.replies.is_empty() {
            let sent = stream.try_write(&self.replies)?;
            if sent < self.replies.len() {
                return Err(io::Error::other("does not take what is sent to it"));
            }
            self.replies.clear();
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.rest.is_empty() {
            let used = self.frames(bytes)?;
            self.rest.extend_from_slice(&bytes[used..]);
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend_from_slice(bytes);
            let used = self.frames(&rest)?;
            rest.drain(..used);
            // An idle session keeps no buffer.
            self.rest = if rest.is_empty() { Vec::new() } else { rest };
        }
        Ok(())
    }

    /// Reads the whole frames at the head of `bytes`; says how many bytes those were.
    fn frames(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now_ns = self.load.now_ns();
        let mut used = 0;
        while let Some(frame) = wire::first(&bytes[used..]) {
            used += frame.size;
            match frame.opcode {
                TEXT => self.text(frame.payload, now_ns),
                PING => wire::append(&mut self.replies, PONG, frame.payload),
                CLOSE => return Err(io::Error::other(wire::closed(frame.payload))),
                _ => {}
            }
        }
        Ok(used)
    }

    fn enter(&mut self) {
        self.registered = true;
        self.load.enter(self.number);
    }

    fn text(&mut self, text: &[u8], now_ns: u64) {
        if let Some(event) = event::read(text, &self.load.mark) {
            // Whoever published it, it need not come again.
            if self.load.plan.reconnect
                && let Some(id) = value(&text[..event.at], b"\"id\":\"")
            {
                self.last_id.clear();
                self.last_id.push_str(&String::from_utf8_lossy(id));
            }
            return match event.ours {
                Some((number, then_ns)) => self.load.deliver(self.number, number, then_ns, now_ns),
                None => self.load.count.borrow_mut().of_other_runs += 1,
            };
        }
        match self.load.plan.protocol {
            Protocol::Switchboard => {
                if text.starts_with(br#"{"type":"welcome""#) {
                    self.enter();
                    if self.load.plan.reconnect
                        && self.last_id.is_empty()
                        && let Some(position) = value(text, b"\"position\":\"")
                    {
                        self.last_id.push_str(&String::from_utf8_lossy(position));
                    }
                } else if text.starts_with(br#"{"type":"gap""#) {
                    self.load.count.borrow_mut().gaps += 1;
                }
            }
            Protocol::SocketIo => match text {
                [b'0', ..] => {
                    let hello = format!(r#"40{{"userId":{}}}"#, self.load.plan.user_json(self.user));
                    wire::append(&mut self.replies, TEXT, hello.as_bytes());
                }
                b"2" => wire::append(&mut self.replies, TEXT, b"3"),
                _ if text.starts_with(br#"42["welcome""#) => self.enter(),
                _ => {}
            },
        }
    }
}

/// The text after `head` up to the next quote.
fn value<'a>(text: &'a [u8], head: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(head.len()).position(|bytes| bytes == head)? + head.len();
    let end = text[at..].iter().position(|byte| *byte == b'"')?;
    Some(&text[at..at + end])
}

/// Where a socket comes from: one loopback address for each 1,000, and wherever the system likes for others. The more
/// ports of an address are taken, or still waiting after the last `run`, the longer the system looks for one.
fn source(to: IpAddr, socket: usize, run: u32) -> Option<IpAddr> {
    if !matches!(to, IpAddr::V4(to) if to.is_loopback()) {
        return None;
    }
    let block = (u32::try_from(socket / PER_SOURCE).unwrap_or_default() + run % 250 * 16) % 250;
    Some(IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_a_frame() {
        let frame = br#"{"type":"event","id":"1-0","event":"bench","data":null}"#;
        assert_eq!(value(frame, b"\"id\":\""), Some(&b"1-0"[..]));
        assert_eq!(value(br#"{"id":"#, b"\"id\":\""), None);
    }

    #[test]
    fn sockets_are_spread_over_source_addresses() {
        let to = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
        let from = |socket, run| source(to, socket, run).unwrap().to_string();
        assert_eq!([from(0, 0), from(999, 0), from(1000, 0)], ["127.0.0.1", "127.0.0.1", "127.0.0.2"]);
        assert_eq!(
            [from(0, 1), from(249_999, 0), from(250_000, 0)],
            ["127.0.0.17", "127.0.0.250", "127.0.0.1"]
        );
        assert_eq!(source(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 0, 0), None);
    }
}
