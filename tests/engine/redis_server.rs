//! A private redis-server: an own directory, a socket in it, nothing on disk; gone with its test.

use std::env;
use std::ffi::OsString;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Client, Connection};
use switchboard::engine::redis::connection::Topology;
use tempfile::TempDir;

/// The longest that anything is waited for.
pub const BOUND: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
pub const LOOK: Duration = Duration::from_millis(5);

/// A running redis-server. Killed when dropped.
pub struct RedisServer {
    child: Child,
    dir: TempDir,
}

impl RedisServer {
    /// A running, empty server. It listens on a Unix socket alone, so that no two tests can want the same port.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(program());
        command.args(["--port", "0", "--save", ""]).arg("--dir").arg(dir.path());
        command.arg("--unixsocket").arg(dir.path().join("redis.sock"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("starting redis-server: is it installed?");
        let server = Self { child, dir };
        let start = Instant::now();
        while server.client().get_connection().and_then(|mut it| redis::cmd("PING").exec(&mut it)).is_err() {
            assert!(start.elapsed() < BOUND, "redis-server does not answer");
            thread::sleep(LOOK);
        }
        server
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::open(format!("unix://{}", self.dir.path().join("redis.sock").display())).unwrap()
    }

    /// The address that engines are given.
    pub fn topology(&self) -> Topology {
        Topology::Server(self.client().get_connection_info().clone())
    }

    /// A connection for the test's own questions.
    pub fn db(&self) -> Connection {
        self.client().get_connection().unwrap()
    }
}

/// The server that is tested with: the one on the `PATH`, or the one that `REDIS_SERVER` names.
fn program() -> OsString {
    env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
