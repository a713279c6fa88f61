//! Publishing by a worker's socket.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io;
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::event;
use super::load::Load;
use super::publisher::BURST_BYTES;
use super::wire::{self, Address, CLOSE, PING, PONG, TEXT};

/// Why an event may wait for long.
const SLOW: &str = "room in its socket: the node, or this machine, does not keep up";

/// An event among the frames that wait.
struct Queued {
    /// Where in these it ends.
    end: usize,
    /// Its user's number within the share.
    user: usize,
    /// When it was due.
    then_ns: u64,
}

/// A worker's socket.
pub struct Worker {
    load: Rc<Load>,
    /// The node's address.
    host: String,
    stream: TcpStream,
    /// Frames that wait for the next write.
    frames: RefCell<Vec<u8>>,
    /// The events among these, in order.
    events: RefCell<Vec<Queued>>,
    /// How much of these is written.
    written: Cell<usize>,
    /// The node takes no more at the moment.
    is_pushing: Cell<bool>,
    /// Told to [`Worker::push`], which then has something to do.
    wake: Notify,
    /// Told to [`Worker::room`].
    room: Notify,
    /// The node takes nothing more.
    ended: Cell<bool>,
}

impl Worker {
    /// Opens it, and listens to what the node says.
    ///
    /// # Errors
    /// Where the node does not let it in: which, and why.
    pub async fn open(load: &Rc<Load>, to: &Address) -> Result<Rc<Self>, String> {
        let path = format!("{}?workerId=bench-{}", to.path, load.run);
        let (stream, _) = wire::open(to, None, &path, load.plan.token.as_deref())
            .await
            .map_err(|error| format!("the worker port at {}: {error}", to.host))?;
        let worker = Rc::new(Self {
            load: load.clone(),
            host: to.host.clone(),
            stream,
            frames: RefCell::default(),
            events: RefCell::default(),
            written: Cell::new(0),
            is_pushing: Cell::new(false),
            wake: Notify::new(),
            room: Notify::new(),
            ended: Cell::new(false),
        });
        tokio::task::spawn_local(worker.clone().listen());
        tokio::task::spawn_local(worker.clone().push());
        Ok(worker)
    }

    /// Whether the node takes nothing more.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Puts an event where the next flush takes it from.
    pub fn queue(&self, user: usize, then_ns: u64, event: &[u8]) {
        let mut frames = self.frames.borrow_mut();
        wire::append(&mut frames, TEXT, event);
        self.events.borrow_mut().push(Queued { end: frames.len(), user, then_ns });
    }

    /// Writes out what waits, as much as the node takes now; [`Worker::push`] writes the rest. What a node that has ended
    /// does not take any more counts as refused.
    pub fn flush(&self) {
        if (!self.is_pushing.get() || self.has_ended()) && !self.write() {
            self.is_pushing.set(true);
            self.wake.notify_one();
        }
    }

    /// Waits until there is room for another burst.
    pub async fn room(&self) {
        while self.frames.borrow().len() - self.written.get() > BURST_BYTES && !self.has_ended() {
            self.room.notified().await;
        }
    }

    /// Ends it: what still waits is refused.
    pub fn finish(&self) {
        if !self.frames.borrow().is_empty() {
            self.end("it does not take what is sent to it");
            self.flush();
        }
    }

    /// Writes as much as the node takes now; false where that was not all.
    fn write(&self) -> bool {
        let (mut frames, mut events) = (self.frames.borrow_mut(), self.events.borrow_mut());
        let mut written = self.written.get();
        let before = events.partition_point(|event| event.end <= written);
        while written < frames.len() && !self.has_ended() {
            match self.stream.try_write(&frames[written..]) {
                Ok(size) => written += size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => self.end(error),
            }
        }
        let whole = events.partition_point(|event| event.end <= written);
        if let Some(first) = events[before..whole].first() {
            self.load.handed_over((whole - before) as u64, first.then_ns, self.load.now_ns(), SLOW);
        }
        let is_all = written == frames.len() || self.has_ended();
        if is_all {
            for event in &events[whole..] {
                self.load.refuse(Some(event.user), b"its connection has ended");
            }
            // The buffers are as large as the largest burst and will do for the next.
            frames.clear();
            events.clear();
            written = 0;
        } else if written > frames.len() / 2 {
            events.drain(..whole);
            events.iter_mut().for_each(|event| event.end -= written);
            frames.drain(..written);
            written = 0;
        }
        self.written.set(written);
        is_all
    }

    /// Writes what the node did not take at once, while the others are written to.
    async fn push(self: Rc<Self>) {
        while !self.has_ended() {
            self.wake.notified().await;
            while !self.write() {
                match timeout(wire::PATIENCE, self.stream.writable()).await {
                    Ok(Ok(())) => self.room.notify_one(),
                    Ok(Err(error)) => self.end(error),
                    Err(_) => self.end(format_args!("it takes nothing for {} s", wire::PATIENCE.as_secs())),
                }
            }
            self.is_pushing.set(false);
            self.room.notify_one();
        }
    }

    /// Notes that the node, or the network, has ended it, and why.
    fn end(&self, why: impl Display) {
        self.load.trouble(|| format!("a socket that publishes at {}: {why}", self.host));
        self.ended.set(true);
        self.room.notify_one();
    }

    /// Reads what the node says, for as long as it does.
    async fn listen(self: Rc<Self>) {
        let (mut bytes, mut rest) = (vec![0; 64 * 1024], Vec::new());
        loop {
            let read = match self.stream.readable().await {
                Ok(()) => self.stream.try_read(&mut bytes),
                Err(error) => Err(error),
            };
            match read {
                Ok(0) => return self.end("its end comes without a close"),
                Ok(size) => rest.extend_from_slice(&bytes[..size]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return self.end(error),
            }
            let mut used = 0;
            while let Some(frame) = wire::first(&rest[used..]) {
                used += frame.size;
                match frame.opcode {
                    TEXT => self.take(frame.payload),
                    PING => wire::append(&mut self.frames.borrow_mut(), PONG, frame.payload),
                    CLOSE => return self.end(wire::closed(frame.payload)),
                    _ => {}
                }
            }
            rest.drain(..used);
            // A publisher that has little to send does not keep a pong waiting; one that writes takes it along.
            self.flush();
        }
    }

    fn take(&self, text: &[u8]) {
        const ACK: &[u8] = br#"{"type":"ack","ref":""#;
        const ERROR: &[u8] = br#"{"type":"error","ref":""#;
        let users = self.load.users.len();
        if let Some((user, then_ns)) = text.strip_prefix(ACK).and_then(event::read_reference) {
            if user < users {
                self.load.answered(user, then_ns);
            }
        } else if text.starts_with(br#"{"type":"error""#) {
            let refused = text.strip_prefix(ERROR).and_then(event::read_reference);
            self.load.refuse(refused.map(|(user, _)| user).filter(|user| *user < users), text);
        } else if text.starts_with(br#"{"type":"bye""#) {
            self.end(String::from_utf8_lossy(text));
        }
    }
}
