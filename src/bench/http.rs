//! Publishing by `POST /publish`: some connections that each ask for one event, wait for the answer, and ask again.
//!
//! A node closes a connection that was idle for a while, and all of them when it drains; the next event then opens
//! another. An event is sent once: whether a node that closed without an answer had taken it, nobody can tell.

use std::cell::Cell;
use std::fmt::Display;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::load::Load;
use super::wire::{self, Address};
use crate::protocol::publish::is_ack;
use crate::settings::read::beside;

/// Connections to each node for each one of `--publishers`: a request waits for its answer, so one alone would
/// measure round trips.
pub const CONNECTIONS: usize = 16;
/// Between two looks whether a node is back. What falls due meanwhile is refused.
const PAUSE: Duration = Duration::from_millis(500);
/// Why an event may wait for long.
const BUSY: &str = "one of the connections for POST /publish, which ask for one at a time: the answers are slow, or \
                    --publishers too few";

/// An event to publish.
struct Request {
    /// Its user's number within the share.
    user: usize,
    /// When it was due.
    then_ns: u64,
    /// JSON text.
    body: Vec<u8>,
}

/// The connections.
pub struct Pool {
    lines: Vec<Line>,
}

/// The way to one of them.
struct Line {
    // What waits here is bounded by the window, or by the length of the run at its rate.
    queue: mpsc::UnboundedSender<Request>,
    /// Nobody is there at the moment.
    away: Rc<Cell<bool>>,
}

impl Pool {
    /// Opens them.
    ///
    /// # Errors
    /// Where a node is not there.
    pub async fn open(load: &Rc<Load>) -> Result<Self, String> {
        let nodes = &load.plan.workers;
        let mut lines = Vec::new();
        for at in 0..CONNECTIONS * load.plan.publishers * nodes.len() {
            let to = &nodes[at % nodes.len()];
            let stream = wire::connect(to.at, None)
                .await
                .map_err(|error| format!("the worker port at {}: {error}", to.host))?;
            let (queue, requests) = mpsc::unbounded_channel();
            let away = Rc::new(Cell::new(false));
            let connection = Connection::new(load.clone(), to.clone(), stream, away.clone());
            tokio::task::spawn_local(connection.run(requests));
            lines.push(Line { queue, away });
        }
        Ok(Self { lines })
    }

    /// Queues an event of user `number`, the share's `user`. A user's events keep to one connection, and so their order.
    pub fn queue(&self, load: &Load, number: usize, user: usize, then_ns: u64, body: Vec<u8>) {
        load.ask(user);
        let line = self.of(number);
        if line.away.get() || line.queue.send(Request { user, then_ns, body }).is_err() {
            load.refuse(Some(user), b"nobody is there");
        }
    }

    /// Whether nobody is there at the moment for what user `number` is sent.
    pub fn is_away(&self, number: usize) -> bool {
        self.of(number).away.get()
    }

    fn of(&self, number: usize) -> &Line {
        &self.lines[(number + 1) % self.lines.len()]
    }
}

/// One of them.
struct Connection {
    load: Rc<Load>,
    to: Address,
    /// A request up to its length.
    head: String,
    /// None where the node has closed it.
    stream: Option<TcpStream>,
    away: Rc<Cell<bool>>,
}

impl Connection {
    fn new(load: Rc<Load>, to: Address, stream: TcpStream, away: Rc<Cell<bool>>) -> Self {
        let authorization =
            load.plan.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{}Content-Length: ",
            beside(&to.path, "/publish"),
            to.host,
            authorization.unwrap_or_default()
        );
        Self { load, to, head, stream: Some(stream), away }
    }

    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        while let Some(request) = requests.recv().await {
            self.publish(&request).await;
            if self.away.get() {
                while let Ok(request) = requests.try_recv() {
                    self.load.refuse(Some(request.user), b"nobody is there");
                }
                self.come_back().await;
            }
        }
    }

    async fn publish(&mut self, request: &Request) {
        let stream = match self.stream.take().filter(is_open) {
            Some(stream) => stream,
            None => match wire::connect(self.to.at, None).await {
                Ok(stream) => stream,
                Err(error) => {
                    self.away.set(true);
                    self.trouble(&error);
                    return self.load.refuse(Some(request.user), error.to_string().as_bytes());
                }
            },
        };
        match timeout(wire::PATIENCE, self.ask(stream, request)).await {
            Ok(Ok(stream)) => self.stream = stream,
            Ok(Err(error)) => self.unanswered(request, error),
            Err(_) => self.unanswered(request, format_args!("no answer in {} s", wire::PATIENCE.as_secs())),
        }
    }

    /// Asks, and hands out the connection again where it stays open.
    async fn ask(&self, mut stream: TcpStream, request: &Request) -> io::Result<Option<TcpStream>> {
        let mut bytes = Vec::with_capacity(self.head.len() + 16 + request.body.len());
        bytes.extend_from_slice(self.head.as_bytes());
        bytes.extend_from_slice(format!("{}\r\n\r\n", request.body.len()).as_bytes());
        bytes.extend_from_slice(&request.body);
        stream.write_all(&bytes).await?;
        self.load.handed_over(1, request.then_ns, self.load.now_ns(), BUSY);
        let (head, mut answer) = wire::head(&mut stream).await?;
        let length = field(&head, "content-length").and_then(|length| length.parse().ok());
        let length: usize = length.ok_or_else(|| io::Error::other("an answer without length"))?;
        while answer.len() < length {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if head.starts_with("HTTP/1.1 200") && is_ack(&answer) {
            self.load.answered(request.user, request.then_ns);
        } else {
            let status = head.lines().next().unwrap_or_default();
            self.load.refuse(Some(request.user), wire::refusal(status, &answer).as_bytes());
        }
        let closes = field(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Ok((!closes).then_some(stream))
    }

    async fn come_back(&mut self) {
        while self.away.get() {
            sleep(PAUSE).await;
            if let Ok(stream) = wire::connect(self.to.at, None).await {
                self.stream = Some(stream);
                self.away.set(false);
            }
        }
    }

    fn unanswered(&self, request: &Request, why: impl Display) {
        self.trouble(&why);
        self.load.unanswered(request.user);
    }

    fn trouble(&self, why: &impl Display) {
        self.load.trouble(|| format!("a connection for POST /publish at {}: {why}", self.to.host));
    }
}

/// Whether a connection on which nothing is awaited is still open: all there can be to read is its end.
fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The value of a header.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_however_it_is_spelt() {
        let head = "HTTP/1.1 200 OK\r\nx: y\r\nContent-LENGTH:  12\r\n\r\n";
        assert_eq!(field(head, "content-length"), Some("12"));
        assert_eq!(field(head, "connection"), None);
    }
}
