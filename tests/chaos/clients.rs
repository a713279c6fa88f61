//! The sessions: each a task that connects, reads, writes down what it saw, and comes back when it is told or cut.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::ledger::{Id, Kind, Record, Seen, Session};
use crate::stage::{Addresses, now_ms};
use crate::support::parse_id;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long a client waits for a node that does not answer, before it tries another one.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a client is made to do.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Its connection breaks, and it comes back at once.
    Break,
    /// It comes back while its old connection stands open, read by nobody, for this long.
    Ghost(Duration),
    /// It does not read for this long.
    Deaf(Duration),
    /// It goes away for this long.
    Away(Duration),
}

/// A client's task, and its record.
pub struct Client {
    pub session: Session,
    pub kind: Kind,
    shared: Arc<Mutex<Shared>>,
    orders: UnboundedSender<Order>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    seen: Vec<Seen>,
    last: Id,
    /// The newest id before the last [`Client::begin`].
    before: Id,
    connected: bool,
    node: String,
    /// Closes that say "do not come back" or "this client is here twice".
    unwelcome: Vec<u16>,
}

impl Client {
    /// Starts a client.
    pub fn start(session: Session, kind: Kind, addresses: Arc<Addresses>, seed: u64) -> Self {
        let shared = Arc::<Mutex<Shared>>::default();
        let (orders, receiver) = unbounded_channel();
        let life = Life {
            session,
            kind,
            addresses,
            shared: shared.clone(),
            rng: Rng::with_seed(seed),
            orders: receiver,
        };
        Self { session, kind, shared, orders, task: tokio::spawn(life.run()) }
    }

    /// Makes it do something.
    pub fn order(&self, order: Order) {
        self.orders.send(order).ok();
    }

    /// It connects no more; what it has seen is kept.
    pub fn stop(&self) {
        self.task.abort();
    }

    /// Whether its task has ended, which it does not by itself.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Whether it has been welcomed and its connection stands, as far as it knows.
    pub fn is_connected(&self) -> bool {
        self.shared.lock().expect("a record").connected
    }

    /// The node that welcomed it last.
    pub fn node(&self) -> String {
        self.shared.lock().expect("a record").node.clone()
    }

    /// A new phase: what was seen before is forgotten, but for the last id.
    pub fn begin(&self) {
        let mut shared = self.shared.lock().expect("a record");
        shared.seen.clear();
        shared.unwelcome.clear();
        shared.before = shared.last;
    }

    /// What was seen in this phase.
    pub fn record(&self) -> Record {
        let shared = self.shared.lock().expect("a record");
        Record { session: self.session, kind: self.kind, seen: shared.seen.clone(), last: shared.before }
    }

    /// Closes in this phase after which a client may not come back by itself.
    pub fn unwelcome(&self) -> Vec<u16> {
        self.shared.lock().expect("a record").unwelcome.clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Life {
    session: Session,
    kind: Kind,
    addresses: Arc<Addresses>,
    shared: Arc<Mutex<Shared>>,
    rng: Rng,
    orders: UnboundedReceiver<Order>,
}

/// How a connection ended.
enum End {
    /// Come back after this long.
    Back(Duration),
    /// Come back, on another node, and leave the old connection standing.
    Ghost(Box<Socket>, Duration),
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: Option<&'a str>,
    #[serde(rename = "nodeId")]
    node: Option<&'a str>,
    since: Option<&'a str>,
    position: Option<&'a str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(rename = "afterMs")]
    after_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Data {
    n: u64,
}

impl Life {
    async fn run(mut self) {
        let mut at = self.rng.usize(..self.addresses.clients.len());
        loop {
            let since = self.since();
            match timeout(PATIENCE, self.connect(at, since)).await {
                Ok(Some(socket)) => match self.read(socket, since).await {
                    End::Back(pause) => {
                        self.shared.lock().expect("a record").connected = false;
                        sleep(pause).await;
                    }
                    End::Ghost(socket, pause) => {
                        tokio::spawn(async move {
                            sleep(pause).await;
                            drop(socket);
                        });
                    }
                },
                _ => sleep(Duration::from_millis(50 + self.rng.u64(..100))).await,
            }
            // What a balancer would do: any other node.
            at = (at + 1 + self.rng.usize(..2)) % self.addresses.clients.len();
        }
    }

    fn since(&self) -> Option<Id> {
        let last = self.shared.lock().expect("a record").last;
        (self.kind == Kind::Since && last != (0, 0)).then_some(last)
    }

    async fn connect(&mut self, at: usize, since: Option<Id>) -> Option<Socket> {
        let (user, client) = self.session;
        let mut url =
            format!("ws://127.0.0.1:{}/?userId=u{user}&clientId=c{client}", self.addresses.clients[at]);
        if let Some((ms, seq)) = since {
            url.push_str(&format!("&since={ms}-{seq}"));
        }
        let (socket, _) = connect_async(url).await.ok()?;
        Some(socket)
    }

    async fn read(&mut self, mut socket: Socket, since: Option<Id>) -> End {
        let mut after = Duration::ZERO;
        loop {
            let message = tokio::select! {
                message = socket.next() => message,
                order = self.orders.recv() => match order {
                    Some(Order::Break) | None => return End::Back(Duration::ZERO),
                    Some(Order::Ghost(pause)) => return End::Ghost(Box::new(socket), pause),
                    Some(Order::Deaf(pause)) => {
                        sleep(pause).await;
                        continue;
                    }
                    Some(Order::Away(pause)) => {
                        socket.close(None).await.ok();
                        return End::Back(pause);
                    }
                },
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    if let Some(pause) = self.take(&text, since) {
                        after = pause;
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map_or(1005, |frame| u16::from(frame.code));
                    if code < 1012 || (4000..4100).contains(&code) {
                        self.shared.lock().expect("a record").unwelcome.push(code);
                        after = Duration::from_millis(100);
                    }
                    socket.flush().await.ok();
                    return End::Back(after);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return End::Back(after),
            }
        }
    }

    /// Writes down what a frame says; of a `bye`, how long to stay away.
    fn take(&mut self, text: &str, since: Option<Id>) -> Option<Duration> {
        let frame: Frame<'_> = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
        let at_ms = now_ms();
        let mut shared = self.shared.lock().expect("a record");
        match frame.kind {
            "welcome" => {
                shared.connected = true;
                shared.node = frame.node.unwrap_or_default().to_owned();
                if shared.last == (0, 0) {
                    shared.last = id(frame.position);
                    shared.before = shared.last;
                }
                shared.seen.push(Seen::Welcome { since });
            }
            "event" => {
                let number =
                    serde_json::from_str::<Data>(frame.data.expect("data").get()).expect("a number").n;
                let id = frame.id.map(parse_id);
                shared.last = shared.last.max(id.unwrap_or_default());
                shared.seen.push(Seen::Event { id, number, at_ms });
            }
            "gap" => {
                let (since, position) = (id(frame.since), id(frame.position));
                // Fresh state was fetched, as of that position.
                shared.last = shared.last.max(position);
                shared.seen.push(Seen::Gap { since, position, at_ms });
            }
            "bye" => return frame.after_ms.map(Duration::from_millis),
            other => panic!("a frame of type {other} was not asked for: {text}"),
        }
        None
    }
}

fn id(text: Option<&str>) -> Id {
    parse_id(text.expect("an event id"))
}
