//! A running node: started with ports of its own choice, found through its log.

use std::ops::{Deref, DerefMut};

use serde_json::Value;

use super::process::{Launch, Process};
use super::redis_server::RedisServer;
use super::wait::{BOUND, eventually, same};
use super::{http, ports};

/// What a node is started with; local mode unless [`NodeBuilder::redis`] says otherwise.
#[derive(Clone)]
pub struct NodeBuilder {
    id: String,
    launch: Launch,
}

/// A node that listens. Killed when dropped.
pub struct Node {
    pub id: String,
    /// `ws://…`, without a slash at the end.
    pub client_url: String,
    /// `ws://…`, without a slash at the end.
    pub worker_url: String,
    process: Process,
}

impl NodeBuilder {
    /// A node in local mode.
    pub fn local(id: &str) -> Self {
        Self::bare(id).set("--mode", "local")
    }

    /// A node that works with this Redis.
    pub fn redis(id: &str, redis: &RedisServer) -> Self {
        Self::redis_at(id, &redis.url())
    }

    /// A node that works with whatever Redis is there.
    pub fn redis_at(id: &str, url: &str) -> Self {
        Self::bare(id).set("--mode", "redis").set("--redis-url", url)
    }

    /// A node with only what a test cannot do without: its name, its ports, readable logs.
    pub fn bare(id: &str) -> Self {
        let builder = Self { id: id.to_owned(), launch: Launch::default() };
        // Whatever the machine has, some nodes are one thread and some are two. By the environment: an older program
        // that serves beside them may not know the flag.
        builder
            .env("THREADS", if id.ends_with('a') { "1" } else { "2" })
            .set("--client-port", "0")
            .set("--worker-port", "0")
            .set("--bind", "127.0.0.1")
            .set("--log-format", "json")
            .set("--node-id", id)
    }

    /// Puts a subcommand before the flags.
    pub fn subcommand(mut self, name: &str) -> Self {
        self.launch.args.insert(0, name.to_owned());
        self
    }

    /// Adds a flag with its value, in place of the one that it had.
    pub fn set(mut self, flag: &str, value: &str) -> Self {
        self = self.unset(flag);
        self.launch.args.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Adds flags with their values.
    pub fn with(self, settings: &[(&str, &str)]) -> Self {
        settings.iter().fold(self, |builder, (flag, value)| builder.set(flag, value))
    }

    /// Takes a flag and its value away.
    pub fn unset(mut self, flag: &str) -> Self {
        if let Some(at) = self.launch.args.iter().position(|arg| arg == flag) {
            self.launch.args.drain(at..at + 2);
        }
        self
    }

    /// Sets an environment variable: the process gets none but these and `PATH`.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.launch.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts another program than the one that was just built.
    #[allow(dead_code)] // for tests/chaos
    pub fn program(mut self, path: &str) -> Self {
        self.launch.program = Some(path.to_owned());
        self
    }

    /// Limits the process to this many open files.
    pub fn open_files(mut self, most: u32) -> Self {
        self.launch.open_files = Some(most);
        self
    }

    /// Writes a `.env` file into the working directory.
    pub fn dotenv(mut self, text: &str) -> Self {
        self.launch.dotenv = Some(text.to_owned());
        self
    }

    /// Starts the process and waits for nothing.
    pub fn spawn(&self) -> Process {
        self.launch.spawn(&self.id)
    }

    /// Starts a node and waits until it listens on both ports, ready or not.
    pub async fn start_listening(&self) -> Node {
        self.listening(self.spawn()).await
    }

    /// Waits until a process started by [`NodeBuilder::spawn`] listens on both ports.
    pub async fn listening(&self, mut process: Process) -> Node {
        let what = format!("the two log lines of {} that say `listening`", self.id);
        let (client_url, worker_url) = eventually(BOUND, &what, async || {
            let lines = process.lines();
            if let Some(status) = process.try_exit() {
                panic!("{} ended with {status} before it listened:\n{}", self.id, lines.join("\n"));
            }
            listening_urls(&lines).ok_or_else(|| lines.join("\n"))
        })
        .await;
        Node { id: self.id.clone(), client_url, worker_url, process }
    }

    /// Starts a node and waits until it says that it is ready.
    pub async fn start(&self) -> Node {
        let node = self.start_listening().await;
        node.ready().await;
        node
    }
}

impl Node {
    /// Waits until `/readyz` answers 200 on both ports.
    pub async fn ready(&self) {
        for url in [self.worker_http("/readyz"), self.client_http("/readyz")] {
            http::answers(&url, 200, BOUND).await;
        }
    }

    /// Waits until the node says that a user is offline.
    pub async fn offline(&self, user: &str) {
        let url = self.worker_http(&format!("/users/{user}"));
        eventually(BOUND, &format!("{user} to be offline"), async || {
            same(http::try_get(&url).await?.json()["online"].clone(), Value::Bool(false))
        })
        .await;
    }

    /// Address of a client's upgrade with this query string (which may be empty).
    pub fn client_ws(&self, query: &str) -> String {
        format!("{}/?{query}", self.client_url)
    }

    /// Address of an HTTP resource on the client port.
    pub fn client_http(&self, path: &str) -> String {
        http_url(&self.client_url, path)
    }

    /// Address of an HTTP resource on the worker port.
    pub fn worker_http(&self, path: &str) -> String {
        http_url(&self.worker_url, path)
    }

    /// Host and port of the client port, for plain TCP.
    pub fn client_address(&self) -> &str {
        self.client_url.trim_start_matches("ws://")
    }

    /// Host and port of the worker port, for plain TCP.
    pub fn worker_address(&self) -> &str {
        self.worker_url.trim_start_matches("ws://")
    }

    /// Both of these.
    pub fn addresses(&self) -> [&str; 2] {
        [self.client_address(), self.worker_address()]
    }
}

/// A node is its process: signals, exit status and log lines are asked of it directly.
impl Deref for Node {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The client's and the worker's address out of a node's log, once both are there.
///
/// The one place that knows the form of these lines: JSON with `fields.message` containing `listening`,
/// `fields.port` = `client` or `worker`, and `fields.url`.
fn listening_urls(lines: &[String]) -> Option<(String, String)> {
    let url_of = |port: &str| {
        lines.iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = line.get("fields").unwrap_or(&line);
            let listening = fields["message"].as_str()?.contains("listening");
            let url = fields["url"].as_str()?.trim_end_matches('/');
            (listening && fields["port"] == port).then(|| url.to_owned())
        })
    };
    Some((url_of("client")?, url_of("worker")?))
}

fn http_url(ws_url: &str, path: &str) -> String {
    format!("{}{path}", ws_url.replacen("ws://", "http://", 1))
}

/// Two free ports, for the tests that are about the port settings themselves.
pub fn two_ports() -> (u16, u16) {
    (ports::free_port(), ports::free_port())
}
