//! A Redis that says what a test wants: for what a real one does only now and then, or not where a test can see it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo, RedisError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::scripts::Timer;
use super::sentinel::Sentinels;
use super::server::{Options, Place, Server, Wait};
use super::wire::{Outcome, has_moved, is_outage};
use super::*;

/// Starts one that gives these answers, whole lines, to commands, words with spaces between; none ends the connection.
pub async fn fake(answer: impl FnMut(&str) -> Option<&'static str> + Send + 'static) -> ConnectionInfo {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(Mutex::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(serve(stream, move |command| answer.lock().unwrap()(command)));
        }
    });
    format!("redis://{address}").into_connection_info().unwrap()
}

/// None: the connection has ended.
async fn serve(stream: TcpStream, mut answer: impl FnMut(&str) -> Option<&'static str>) -> Option<()> {
    let mut stream = BufStream::new(stream);
    loop {
        let mut words = Vec::new();
        for _ in 0..number(&mut stream).await? {
            let mut word = vec![0; number(&mut stream).await?];
            stream.read_exact(&mut word).await.ok()?;
            words.push(String::from_utf8(word).unwrap());
            stream.read_line(&mut String::new()).await.ok()?;
        }
        stream.write_all(format!("{}\r\n", answer(&words.join(" "))?).as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
    }
}

/// How many words a command has, or how many bytes a word: a mark and a number.
async fn number(stream: &mut BufStream<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim_end().parse().ok()
}

/// What a node's parts share, trusted for an hour: on that Redis, of which nothing was asked yet.
pub fn context(place: ConnectionInfo, node_ttl: Duration) -> Arc<Context> {
    let long = Duration::from_secs(3600);
    let config = Config {
        node: "n".parse().unwrap(),
        boot: "boot".to_owned(),
        client_url: String::new(),
        worker_url: String::new(),
        key_prefix: String::new(),
        pool_size: 1,
        wait_replicas: 0,
        wait_timeout: Duration::ZERO,
        ingress: vec!["events".to_owned()],
        session_ttl: long,
        node_ttl,
        log_ttl: long,
        log_length: 8,
        max_sessions_per_user: 8,
        uplink_length: 8,
        max_event: 1024,
        drain_rate: 1,
    };
    let metrics = Arc::new(Metrics::new("n", SCRIPTS).unwrap());
    let context = RedisEngine::new(Topology::Server(place), Arc::default(), config, metrics).context.clone();
    context.link.trust(Instant::now() + long);
    context
}

/// A place where all that comes first is answered in these words, and the connection closed.
async fn turning_away(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Ok(1..) = stream.read(&mut [0; 4096]).await {
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    });
    address.to_string()
}

#[tokio::test]
async fn why_a_connection_is_turned_away_is_known_whatever_it_begins_with() {
    let full = ("-ERR max number of clients reached\r\n", "max number of clients reached");
    for (answer, reason) in [full, ("", "it closed the connection without an answer")] {
        let address = turning_away(answer).await;
        for (before, behind) in [("", ""), ("", "/3"), ("user:s3cret@", ""), (":s3cret@", "/3")] {
            let place = format!("redis://{before}{address}{behind}").into_connection_info().unwrap();
            let server = server(place, 1);
            let pooled = server.probe().await.unwrap_err();
            let dedicated = server.dedicated().await.err().unwrap();
            for error in [pooled.to_string(), dedicated.to_string()] {
                assert!(error.contains(reason) && !error.contains("s3cret"), "{before}{behind}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_connection_that_broke_under_a_command_for_a_moving_slot_is_not_used_again() {
    let mut breaks = true;
    let place = fake(move |command| match command {
        "ASKING" if std::mem::take(&mut breaks) => None,
        _ => Some("+OK"),
    });
    let server = server(place.await, 1);
    let mut command = redis::cmd("SMEMBERS");
    command.arg("user:42");
    server.ask(&command, false).await.unwrap_err();
    server.ask(&command, false).await.unwrap();
}

fn server(place: ConnectionInfo, pool_size: u32) -> Server {
    server_at(Place::Fixed(place), pool_size, 0)
}

fn server_at(place: Place, pool_size: u32, replicas: u32) -> Server {
    Server::new("fake", place, options(pool_size, replicas))
}

/// So many connections to each server, and so many replicas that must have an event.
pub fn options(pool_size: u32, replicas: u32) -> Options {
    Options {
        pool_size,
        wait: Wait { replicas, timeout: Duration::ZERO },
        timer: Arc::new(Timer::new(&Metrics::new("n", SCRIPTS).unwrap())),
        doubts: Arc::default(),
        login: Arc::default(),
    }
}

/// Tells a case again where the machine was too busy for its bounds.
async fn in_three_tries<T>(case: impl AsyncFn() -> Result<T, RedisError>) -> T {
    for _ in 0..2 {
        if let Ok(value) = case().await {
            return value;
        }
    }
    case().await.unwrap()
}

/// Three connections fall silent; what comes of asking once the first of them has failed.
async fn asked_after_silence() -> Result<(), RedisError> {
    let place = fake(|_| Some("+OK")).await;
    let (silence, way) = watch::channel(0);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = connection::at(&place, "127.0.0.1", listener.local_addr().unwrap().port());
    let behind = place.addr().to_string();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (mut way, behind) = (way.clone(), behind.clone());
            way.borrow_and_update();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(behind).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = way.changed() => std::future::pending().await, // still there, and without a word
                }
            });
        }
    });
    let server = server(front, 3);
    let (a, b, c) = tokio::join!(server.probe(), server.probe(), server.probe());
    a.and(b).and(c).unwrap();
    silence.send_replace(1);
    server.probe().await.unwrap_err();
    server.suspect();
    server.probe().await
}

#[tokio::test]
async fn connections_that_have_fallen_silent_are_given_up_for_new_ones() {
    // There is a second for giving up two, which takes 600 ms, and for a new one.
    in_three_tries(asked_after_silence).await;
}

/// What a Sentinel says that names this port.
fn named(port: u16) -> &'static str {
    let port = port.to_string();
    Box::leak(format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}", port.len()).into_boxed_str())
}

/// A Redis that answers `SET` once it is let to, and says that it was asked.
async fn holding() -> (ConnectionInfo, Arc<AtomicBool>, mpsc::Sender<()>) {
    let (asked, (let_go, may_go)) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
    let says = asked.clone();
    let place = fake(move |command| {
        if command.starts_with("SET ") {
            says.store(true, Ordering::Release);
            tokio::task::block_in_place(|| may_go.recv()).ok();
        }
        Some("+OK")
    });
    (place.await, asked, let_go)
}

fn write() -> redis::Pipeline {
    let mut write = redis::pipe();
    write.cmd("SET").arg("key").arg(1);
    write
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_master_confirms_after_another_has_taken_its_place_does_not_count() {
    let (place, asked, let_go) = holding().await;
    let port = place.addr().to_string().rsplit(':').next().unwrap().parse().unwrap();
    let (here, elsewhere) = (named(port), named(1));
    let sentinel = fake(move |command| match command.starts_with("SENTINEL") {
        true if asked.load(Ordering::Acquire) => Some(elsewhere),
        true => Some(here),
        false => Some("+OK"),
    });
    let sentinels = Sentinels::new(vec![sentinel.await], "mymaster".to_owned(), place, Arc::default());
    let server = server_at(Place::Sentinel(sentinels), 1, 0);
    server.probe().await.unwrap();
    let moves = async {
        server.moved().await;
        let_go.send(()).unwrap();
    };
    let write = write();
    let (outcomes, ()) = tokio::join!(server.send(&write, false), moves);
    let error = outcomes[0].as_ref().unwrap_err();
    assert!(error.to_string().contains("another server has become the master"), "{error}");
}

/// What comes of a write whose answer waits until another has found its connection busy.
async fn write_on_a_busy_connection() -> Outcome {
    let (place, _, let_go) = holding().await;
    let server = server(place, 1);
    let (write, other) = (write(), redis::pipe().cmd("PING").to_owned());
    let next = async {
        let outcomes = server.send(&other, false).await;
        let_go.send(()).unwrap();
        outcomes
    };
    let (mut first, outcomes) = tokio::join!(server.send(&write, false), next);
    let error = outcomes[0].as_ref().unwrap_err();
    assert!(error.to_string().contains("busy") && !is_outage(error), "{error}");
    first.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_all_connections_are_busy_is_no_outage() {
    // The other waits for one second, and the answer may take two.
    in_three_tries(write_on_a_busy_connection).await;
}

#[tokio::test]
async fn that_replicas_cannot_be_waited_for_is_an_outage_only_where_the_master_is_none() {
    let answers = [
        ("-NOPERM this user has no permissions to run the 'wait' command", false),
        ("-ERR WAIT cannot be used with replica instances.", true),
        (":0", false),
    ];
    for (answer, is_away) in answers {
        let place = fake(move |command| match command {
            command if command.starts_with("WAIT") => Some(answer),
            command if command.starts_with("DEL") => Some("-MOVED 1 127.0.0.1:1"),
            _ => Some("+OK"),
        });
        let server = server_at(Place::Fixed(place.await), 1, 1);
        let mut both = write();
        both.cmd("DEL").arg("elsewhere");
        let outcomes = server.send(&both, true).await;
        let error = outcomes[0].as_ref().unwrap_err();
        assert_eq!(is_outage(error), is_away, "{answer}: {error}");
        assert!(has_moved(outcomes[1].as_ref().unwrap_err()), "{answer}: {outcomes:?}");
    }
}
