//! Several nodes leave at once: those who stay are not flooded, every client comes back, no event is lost.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::socket::Socket;
use crate::support::{BOUND, Client, Node, NodeBuilder, RedisServer, Scrape, eventually, http};

struct Plan {
    leaving: usize,
    staying: usize,
    /// Sessions on each leaving node, each of a user of its own.
    sessions: usize,
    drain_timeout: Duration,
    /// Clients a second for each staying node.
    drain_rate: u32,
    /// Events a second, to one user after the other.
    events: usize,
}

/// What became of it.
struct Figures {
    /// Since the signal: when each client was sent away, was told to come back, and was back.
    moves: Vec<Move>,
    refused: usize,
    published: usize,
    lost: usize,
    doubled: usize,
    disordered: usize,
}

#[derive(Clone, Copy)]
struct Move {
    sent: Duration,
    told: Duration,
    back: Duration,
}

/// What one client has seen.
struct Seen {
    moved: Move,
    /// How often the node that stays could not take it.
    refused: usize,
    events: Vec<u64>,
}

/// The most of `times` that lie within any second.
fn peak(times: impl Iterator<Item = Duration>) -> usize {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    let second = Duration::from_secs(1);
    let within = |from: usize| times[from..].iter().take_while(|at| **at < times[from] + second).count();
    (0..times.len()).map(within).max().unwrap_or_default()
}

impl Figures {
    fn share_back(&self, after: u64) -> usize {
        let back = self.moves.iter().filter(|it| it.back <= Duration::from_secs(after)).count();
        100 * back / self.moves.len()
    }

    fn tell(&self, plan: &Plan) {
        println!(
            "| {} of {} | {} | {} s | {} | {}, {}, {} % | {} | {} | {} | {}, {}, {} |",
            plan.leaving,
            plan.leaving + plan.staying,
            plan.leaving * plan.sessions,
            plan.drain_timeout.as_secs(),
            plan.drain_rate,
            self.share_back(5),
            self.share_back(15),
            self.share_back(30),
            peak(self.moves.iter().map(|it| it.back)),
            self.refused,
            self.published,
            self.lost,
            self.doubled,
            self.disordered,
        );
    }
}

/// A socket that is registered, and its welcome. A node that cannot take it now is asked again, as clients do.
async fn registered(url: &str, refused: &mut usize) -> (Socket, Value) {
    let start = Instant::now();
    loop {
        match Socket::open(url, None).await {
            Ok(mut socket) => {
                let welcome = socket.json("the welcome").await;
                assert_eq!(welcome["type"], "welcome", "{url}");
                return (socket, welcome);
            }
            Err(error) => {
                assert!(start.elapsed() < 4 * BOUND, "{url}: {error}");
                *refused += 1;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(100..300))).await;
            }
        }
    }
}

/// One client: comes back where it is told to, when it is told to, and notes every event until `last`.
async fn client(user: usize, first: String, then: String, start: Arc<std::sync::OnceLock<Instant>>) -> Seen {
    let query = format!("userId=u{user}&clientId=tab");
    // Some events are there already.
    let mut since = "0".to_owned();
    let url = format!("{first}/?{query}&since={since}");
    let place = CONNECTING.acquire().await.expect("a place");
    let (mut socket, _) = registered(&url, &mut 0).await;
    drop(place);
    let mut seen = Seen {
        moved: Move { sent: Duration::ZERO, told: Duration::ZERO, back: Duration::ZERO },
        refused: 0,
        events: Vec::new(),
    };
    loop {
        let frame = socket.json("events, and a bye").await;
        match frame["type"].as_str() {
            Some("event") => {
                since = frame["id"].as_str().expect("an id").to_owned();
                match frame["data"].as_u64() {
                    Some(number) => seen.events.push(number),
                    None => return seen,
                }
            }
            Some("bye") => {
                let since_start = || start.get().expect("nobody leaves before that").elapsed();
                let wait = Duration::from_millis(frame["afterMs"].as_u64().expect("when to come back"));
                seen.moved.sent = since_start();
                seen.moved.told = seen.moved.sent + wait;
                drop(socket);
                tokio::time::sleep(wait).await;
                let url = format!("{then}/?{query}&since={since}");
                let welcome;
                (socket, welcome) = registered(&url, &mut seen.refused).await;
                assert_eq!(welcome["recovered"], true, "{welcome}");
                seen.moved.back = since_start();
            }
            other => panic!("{other:?}: {frame}"),
        }
    }
}

/// At first not all clients come at once: that is another test's subject.
static CONNECTING: Semaphore = Semaphore::const_new(200);

/// Publishes numbers to each of `users` in turn, until `stop`; gives how many each got.
async fn publisher(url: String, users: usize, per_second: usize, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut published = vec![0; users];
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut next = 0;
    while !stop.load(Ordering::SeqCst) {
        ticks.tick().await;
        let mut items = Vec::new();
        for _ in 0..per_second / 10 {
            items.push(item(next, "e", published[next].into()));
            published[next] += 1;
            next = (next + 1) % users;
        }
        publish(&url, items).await;
    }
    for chunk in (0..users).collect::<Vec<_>>().chunks(500) {
        let last = |user: &usize| item(*user, "last", Value::Null);
        publish(&url, chunk.iter().map(last).collect()).await;
    }
    published
}

/// With a key, so that it may be sent again.
fn item(user: usize, event: &str, data: Value) -> Value {
    json!({"userId": format!("u{user}"), "event": event, "key": format!("{event}{data}"), "data": data, "ref": "r"})
}

/// Publishes all of them, and again what nobody could take.
async fn publish(url: &str, mut items: Vec<Value>) {
    let start = Instant::now();
    while !items.is_empty() {
        let answer = http::post(url, &Value::from(items.clone()).to_string()).await.json();
        let answers = answer.as_array().unwrap_or_else(|| panic!("no answers: {answer}"));
        let mut answers = answers.iter().map(|answer| answer["type"] == "ack");
        items.retain(|_| !answers.next().expect("an answer to each"));
        assert!(start.elapsed() < 4 * BOUND, "{answer}");
    }
}

async fn leave_at_once(plan: &Plan) -> Figures {
    let redis = RedisServer::start().await;
    let timeout = format!("{}ms", plan.drain_timeout.as_millis());
    let start = async |id: String| {
        let mut node = NodeBuilder::redis(&id, &redis).set("--drain-timeout", &timeout);
        if let Ok(program) = env::var("FLEET_PROGRAM") {
            node = node.program(&program);
        }
        node.set("--drain-rate", &plan.drain_rate.to_string())
            .set("--log-level", "warn,switchboard::relay=info")
            .start()
            .await
    };
    let (mut leaving, mut staying) = (Vec::new(), Vec::new());
    for number in 0..plan.leaving {
        leaving.push(start(format!("leaving-{number}")).await);
    }
    for number in 0..plan.staying {
        staying.push(start(format!("staying-{number}")).await);
    }
    let signalled = Arc::new(std::sync::OnceLock::new());
    let users = plan.leaving * plan.sessions;
    let stop = Arc::new(AtomicBool::new(false));
    let url = staying[0].worker_http("/publish");
    let publishing = tokio::spawn(publisher(url, users, plan.events, stop.clone()));
    let mut clients = JoinSet::new();
    for user in 0..users {
        let first = leaving[user % leaving.len()].client_url.clone();
        let then = staying[user % staying.len()].client_url.clone();
        let signalled = signalled.clone();
        clients.spawn(async move { (user, client(user, first, then, signalled).await) });
    }
    for node in &leaving {
        eventually(4 * BOUND, "all sessions", async || {
            let sessions = Scrape::of(node).await.get("sessions");
            if sessions == plan.sessions as f64 { Ok(()) } else { Err(sessions.to_string()) }
        })
        .await;
    }
    signalled.set(Instant::now()).expect("once");
    leaving.iter().for_each(|node| node.signal(Signal::TERM));
    for node in &mut leaving {
        assert_eq!(node.exit(plan.drain_timeout + BOUND).await.code(), Some(0));
    }
    eventually(4 * BOUND, "all sessions on the nodes that stay", async || {
        let mut sessions = 0.0;
        for node in &staying {
            sessions += Scrape::of(node).await.get("sessions");
        }
        if sessions == users as f64 { Ok(()) } else { Err(sessions.to_string()) }
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    let published = publishing.await.expect("the publisher");
    let mut figures =
        Figures { moves: Vec::new(), refused: 0, published: 0, lost: 0, doubled: 0, disordered: 0 };
    while let Some(client) = clients.join_next().await {
        let (user, seen) = client.expect("a client");
        let mut once = seen.events.clone();
        once.sort_unstable();
        once.dedup();
        figures.moves.push(seen.moved);
        figures.refused += seen.refused;
        figures.published += published[user] as usize;
        figures.lost += published[user] as usize - once.len();
        figures.doubled += seen.events.len() - once.len();
        figures.disordered += usize::from(!seen.events.is_sorted());
    }
    figures
}

#[tokio::test]
async fn three_of_four_leave_and_share_one_budget() {
    let plan = Plan {
        leaving: 3,
        staying: 1,
        sessions: 80,
        drain_timeout: Duration::from_secs(2),
        drain_rate: 60,
        events: 200,
    };
    let figures = leave_at_once(&plan).await;
    figures.tell(&plan);
    assert_eq!((figures.lost, figures.doubled, figures.disordered), (0, 0, 0));
    // 240 clients at 60 a second: the last of them is due after 4 s, though all closes are within 2 s.
    let late = |it: &&Move| it.told > Duration::from_millis(3300);
    let late = figures.moves.iter().filter(late).count();
    assert!(late >= 30, "only {late} of 240 were told to come back after 3.3 s");
    // Each was told a time of its own: what comes in any one second is the budget, give or take the jitter.
    let told = peak(figures.moves.iter().map(|it| it.told));
    assert!(told <= 100, "{told} were told to come back within one second, at 60 a second");
    let longest = figures.moves.iter().map(|it| it.told - it.sent).max().unwrap();
    assert!(longest <= plan.drain_timeout + Duration::from_secs(1), "one was told to wait {longest:?}");
}

#[tokio::test]
async fn sockets_that_grow_old_move_to_a_new_node() {
    let redis = RedisServer::start().await;
    let old = NodeBuilder::redis("old", &redis).set("--max-connection-age", "2s").start().await;
    let users = 40;
    let mut clients = Vec::new();
    for user in 0..users {
        clients.push(Client::as_user(&old, &format!("u{user}"), "tab").await);
    }
    let new = NodeBuilder::redis("new", &redis).set("--max-connection-age", "10m").start().await;
    let counted = async |node: &Node| Scrape::of(node).await.get("sessions");
    // A balancer gives every other one to the new node.
    let mut moving = JoinSet::new();
    let (old_url, new_url) = (old.client_url.clone(), new.client_url.clone());
    for (user, mut client) in clients.into_iter().enumerate() {
        let url = if user % 2 == 0 { old_url.clone() } else { new_url.clone() };
        moving.spawn(async move {
            let closed = client.closed().await;
            let bye = closed.bye.expect("a bye");
            assert_eq!((closed.code, closed.reason.as_str()), (1012, "age"));
            assert_eq!((&bye["reconnect"], &bye["afterMs"]), (&true.into(), &0.into()));
            Socket::open(&format!("{url}/?userId=u{user}&clientId=tab"), None).await.expect("again")
        });
    }
    let again = moving.join_all().await;
    eventually(BOUND, "half of the sessions on the new node", async || {
        let sessions = counted(&new).await;
        if sessions == users as f64 / 2.0 { Ok(()) } else { Err(sessions.to_string()) }
    })
    .await;
    assert!(Scrape::of(&old).await.get("disconnects_total{reason=\"age\"}") >= users as f64);
    drop(again);
}

/// The figures of `src/docs/fleet.md`, run by hand with `--release`, or with a release build in `FLEET_PROGRAM`: a line
/// of its table each, one at a time.
async fn line(drain_timeout: u64, drain_rate: u32) {
    static ALONE: Semaphore = Semaphore::const_new(1);
    let _alone = ALONE.acquire().await.expect("a place");
    let drain_timeout = Duration::from_secs(drain_timeout);
    let plan = Plan { leaving: 3, staying: 2, sessions: 1000, drain_timeout, drain_rate, events: 500 };
    leave_at_once(&plan).await.tell(&plan);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: it measures"]
async fn figures_for_the_handbook_in_20_s() {
    line(20, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute: it measures"]
async fn figures_for_the_handbook_in_5_s() {
    line(5, 1000).await;
    line(5, 250).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute: it measures"]
async fn figures_for_the_handbook_in_2_s_without_a_limit() {
    line(2, 1_000_000).await;
}
