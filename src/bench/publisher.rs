//! Publishes: at a rate, whatever comes of it, or as fast as a bounded window allows.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::event;
use super::feed::{Feed, Ingress};
use super::http;
use super::load::Load;
use super::pacer::Pacer;
use super::plan::{Pace, Via};
use super::wire::{self, PING, PONG, TEXT};

/// Events of one write: more would keep the readers of this thread waiting.
const BURST: u64 = 128;
/// Bytes of one write, unless a single event has more: as many are kept for each connection that publishes.
const BURST_BYTES: usize = 64 << 20;
/// Nothing moved for so long: what is on its way is taken for lost, and the window opens again.
const STUCK: Duration = Duration::from_secs(2);

/// An event, ready to be published.
pub struct Ready<'a> {
    /// Its user's number.
    pub user: usize,
    /// When it was due.
    pub then_ns: u64,
    /// JSON text: `"event":"bench","data":{...}`.
    pub fields: &'a [u8],
}

/// The ways in.
enum Way {
    Worker(Vec<Rc<Worker>>),
    Http(http::Pool),
    Xadd(Feed),
}

/// A worker's socket.
struct Worker {
    stream: TcpStream,
    /// Frames that wait for the next write.
    frames: RefCell<Vec<u8>>,
    /// A write is under way.
    writing: Cell<bool>,
}

impl Worker {
    async fn flush(&self) -> io::Result<()> {
        let frames = self.frames.take();
        if frames.is_empty() {
            return Ok(());
        }
        self.writing.set(true);
        let mut left = &frames[..];
        while !left.is_empty() {
            match self.stream.try_write(left) {
                Ok(size) => left = &left[size..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        self.writing.set(false);
        if self.frames.borrow().is_empty() {
            // The buffer is as large as the largest burst and will do for the next.
            let mut frames = frames;
            frames.clear();
            self.frames.replace(frames);
        }
        Ok(())
    }

    /// Reads what the node says, for as long as it does.
    async fn listen(self: Rc<Self>, load: Rc<Load>) {
        let (mut bytes, mut rest) = (vec![0; 64 * 1024], Vec::new());
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return,
                Ok(size) => rest.extend_from_slice(&bytes[..size]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            }
            let mut used = 0;
            while let Some(frame) = wire::first(&rest[used..]) {
                used += frame.size;
                match frame.opcode {
                    TEXT => take_answer(&load, frame.payload),
                    PING => wire::append(&mut self.frames.borrow_mut(), PONG, frame.payload),
                    _ => {}
                }
            }
            rest.drain(..used);
            // A publisher that has little to send does not keep a pong waiting. What fails here fails there too.
            if !self.writing.get() && self.flush().await.is_err() {
                return;
            }
        }
    }
}

/// Publishes for one share.
pub struct Publisher {
    load: Rc<Load>,
    way: Way,
    /// Fills an event's data up to its size.
    padding: Vec<u8>,
    fields: Vec<u8>,
    frame: Vec<u8>,
    /// Events of one write.
    burst: u64,
    next_user: usize,
}

impl Publisher {
    /// Opens what is published through.
    ///
    /// # Errors
    /// Where a node, or Redis, does not let it in: which, and why.
    pub async fn open(load: Rc<Load>, ingress: Option<&Ingress>) -> Result<Self, String> {
        let plan = &load.plan;
        let way = match plan.via {
            Via::Worker => {
                let mut workers = Vec::new();
                // Publisher `at` belongs to node `at % nodes`: a user's events keep to one, and so their order.
                for at in 0..plan.publishers * plan.workers.len() {
                    let to = &plan.workers[at % plan.workers.len()];
                    let path = format!("/?workerId=bench-{}", load.run);
                    let (stream, _) = wire::open(to, None, &path, plan.token.as_deref())
                        .await
                        .map_err(|error| format!("the worker port at {}: {error}", to.host))?;
                    let worker =
                        Rc::new(Worker { stream, frames: RefCell::default(), writing: Cell::new(false) });
                    tokio::task::spawn_local(worker.clone().listen(load.clone()));
                    workers.push(worker);
                }
                Way::Worker(workers)
            }
            Via::Http => Way::Http(http::Pool::open(&load).await?),
            Via::Xadd => {
                let ingress = ingress.ok_or("--via xadd needs --redis-url")?;
                Way::Xadd(Feed::open(&load, ingress).await?)
            }
        };
        Ok(Self {
            padding: vec![b'x'; plan.payload],
            fields: Vec::with_capacity(plan.payload + 64),
            frame: Vec::with_capacity(plan.payload + 256),
            burst: burst(plan.payload),
            next_user: 0,
            load,
            way,
        })
    }

    /// Publishes for the plan's warm-up and duration.
    ///
    /// # Errors
    /// Where a connection breaks that it publishes through.
    pub async fn run(&mut self) -> io::Result<()> {
        let load = self.load.clone();
        let start_ns = load.now_ns();
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let from_ns = start_ns + ns(load.plan.warm_up);
        let end_ns = from_ns + ns(load.plan.duration);
        load.from_ns.set(from_ns);
        match load.plan.pace {
            Pace::Idle => tokio::time::sleep(load.plan.duration).await,
            Pace::Rate(rate) => {
                let share = load.users.len() as f64 / load.plan.users as f64;
                self.at_rate(start_ns, end_ns, rate * share).await?;
            }
            Pace::Window(window) => {
                let window = (window * load.users.len() as u64 / load.plan.users as u64).max(1);
                self.saturate(end_ns, window).await?;
            }
        }
        Ok(())
    }

    async fn at_rate(&mut self, start_ns: u64, end_ns: u64, rate: f64) -> io::Result<()> {
        let mut pacer = Pacer::new()?;
        // At next to no rate, the second is due after the end of time.
        let due = |sent: u64| start_ns.saturating_add((sent as f64 * 1e9 / rate) as u64);
        let mut sent = 0;
        while due(sent) < end_ns {
            let now = self.load.now_ns();
            if due(sent) > now {
                pacer.sleep(Duration::from_nanos(due(sent) - now)).await?;
                continue;
            }
            let burst = sent + self.burst;
            // Late, all that was due comes at once; what is due at the end or after it never is.
            while sent < burst && due(sent) <= now && due(sent) < end_ns {
                self.append(due(sent));
                sent += 1;
            }
            self.flush().await?;
        }
        Ok(())
    }

    async fn saturate(&mut self, end_ns: u64, window: u64) -> io::Result<()> {
        // Events that as many deliveries stand for, on average: not every user has all of their sessions.
        let (users, entered) = (self.load.users.len() as u64, self.load.entered.get());
        if entered == 0 {
            // Nothing will tell how fast is too fast.
            tokio::time::sleep(self.load.plan.warm_up + self.load.plan.duration).await;
            return Ok(());
        }
        // Woken when an eighth of it is free: a write for every delivery would measure this side.
        self.load.low.set(window - window.div_ceil(8));
        loop {
            let now = self.load.now_ns();
            if now >= end_ns {
                return Ok(());
            }
            let on_their_way = self.load.on_their_way() * users / entered;
            let room = window.saturating_sub(on_their_way).min(self.burst);
            if room > 0 {
                for _ in 0..room {
                    self.append(now);
                }
                self.flush().await?;
                tokio::task::yield_now().await;
            } else if timeout(STUCK, self.load.moved.notified()).await.is_err() {
                self.load.forgiven.set(self.load.forgiven.get() + self.load.on_their_way());
            }
        }
    }

    /// Makes the next event and puts it where the next flush takes it from.
    fn append(&mut self, then_ns: u64) {
        let load = &self.load;
        let user = self.next_user;
        self.next_user = (user + 1) % load.users.len();
        let number = load.number(user, then_ns);
        let user = load.users.start + user;

        self.fields.clear();
        self.fields.extend_from_slice(br#""event":"bench","#);
        let data = self.fields.len() + br#""data":"#.len();
        event::head(&mut self.fields, &load.mark, number, then_ns);
        self.fields.extend_from_slice(br#","p":""#);
        let written = self.fields.len() - data + br#""}"#.len();
        self.fields.extend_from_slice(&self.padding[..load.plan.payload.saturating_sub(written)]);
        self.fields.extend_from_slice(br#""}"#);

        let event = Ready { user, then_ns, fields: &self.fields };
        match &mut self.way {
            Way::Worker(workers) => {
                self.frame.clear();
                frame(&mut self.frame, load, &event, load.plan.answers);
                let at = (user + 1) % workers.len();
                wire::append(&mut workers[at].frames.borrow_mut(), TEXT, &self.frame);
            }
            Way::Http(pool) => {
                let mut body = Vec::with_capacity(self.fields.len() + 64);
                frame(&mut body, load, &event, false);
                pool.queue(user, then_ns, body);
            }
            Way::Xadd(feed) => feed.queue(user, load.plan.user(user), then_ns, &self.fields[data..]),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        if let Way::Worker(workers) = &mut self.way {
            for worker in workers {
                worker.flush().await?;
            }
            self.load.handed_over();
        }
        Ok(())
    }
}

/// Events of one write, where each has so many bytes of data.
fn burst(payload: usize) -> u64 {
    BURST.min((BURST_BYTES / payload.max(1)) as u64).max(1)
}

/// A worker's frame. Its `ref` is when the event was due, so that the answer tells how long it took.
fn frame(out: &mut Vec<u8>, load: &Load, event: &Ready<'_>, answered: bool) {
    out.push(b'{');
    if answered {
        out.extend_from_slice(format!(r#""ref":"{}","#, event.then_ns).as_bytes());
    }
    out.extend_from_slice(br#""userId":"#);
    out.extend_from_slice(load.plan.user_json(event.user).as_bytes());
    out.push(b',');
    out.extend_from_slice(event.fields);
    out.push(b'}');
}

/// Notes an answer to an event that was due at `then_ns`.
pub fn answered(load: &Load, then_ns: u64) {
    if then_ns >= load.from_ns.get() {
        load.answers.borrow_mut().saturating_record(load.now_ns().saturating_sub(then_ns) / 1000);
    }
}

fn take_answer(load: &Load, text: &[u8]) {
    const ACK: &[u8] = br#"{"type":"ack","ref":""#;
    if let Some(reference) = text.strip_prefix(ACK) {
        let digits = reference.iter().take_while(|byte| byte.is_ascii_digit());
        answered(load, digits.fold(0, |n: u64, digit| n.wrapping_mul(10) + u64::from(digit - b'0')));
    } else if text.starts_with(br#"{"type":"error""#) {
        load.refuse(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_bounded_in_events_and_in_bytes() {
        assert_eq!([64, 512 << 10, 1 << 20, 64 << 20].map(burst), [128, 128, 64, 1]);
    }
}
