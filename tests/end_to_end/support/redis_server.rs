//! A private redis-server: own port, own directory, gone with its test.

use std::env;
use std::ffi::OsString;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::db::Db;
use super::ports::free_port;
use super::wait::{BOUND, eventually};

/// A redis-server that may be running. Killed when dropped.
pub struct RedisServer {
    port: u16,
    child: Option<Child>,
    /// Kept over restarts where the server persists at all.
    dir: TempDir,
    persistent: bool,
    /// When what is written reaches the disk; a killed process loses nothing either way.
    fsync: &'static str,
}

impl RedisServer {
    /// A running, empty server that keeps nothing on disk.
    pub async fn start() -> Self {
        // Another process may take the port between the look and the start: then try the next one.
        for _ in 0..5 {
            let mut server = Self::stopped();
            if server.launch().await {
                return server;
            }
        }
        panic!("redis-server did not start on any of five ports");
    }

    /// A running, empty server that has every acknowledged write on disk.
    pub async fn start_persistent() -> Self {
        let mut server = Self::stopped();
        server.persistent = true;
        server.start_again().await;
        server
    }

    /// A running, empty server that keeps everything on disk, at the speed of one that does not.
    #[allow(dead_code)] // for tests/chaos
    pub async fn start_durable() -> Self {
        let mut server = Self::stopped();
        (server.persistent, server.fsync) = (true, "everysec");
        server.start_again().await;
        server
    }

    /// A server that has a port but does not run yet.
    pub fn stopped() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { port: free_port(), child: None, dir, persistent: false, fsync: "always" }
    }

    /// Starts a stopped server, on the port that it always had.
    pub async fn start_again(&mut self) {
        assert!(self.launch().await, "redis-server did not start on port {}", self.port);
    }

    /// `kill -9`: connections break, and what is not on disk is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().expect("waiting for redis-server");
        }
    }

    /// Sends a signal to the running server: `STOP` freezes it, `CONT` lets it go on.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running redis-server");
        rustix::process::kill_process(Pid::from_child(child), signal).expect("sending a signal");
    }

    /// `kill -9`, and what is on disk is gone as well.
    #[allow(dead_code)] // for tests/chaos
    pub fn lose_data(&mut self) {
        self.kill();
        let parts = ["appendonlydir", "appendonly.aof", "dump.rdb"];
        for path in parts.map(|part| self.dir.path().join(part)) {
            // One of the two, as the server's version has it.
            std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path)).ok();
        }
    }

    /// The port, whether anybody listens there or not.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address that nodes are given.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection for the test's own questions.
    pub async fn db(&self) -> Db {
        self.db_number(0).await
    }

    /// The same, to another of the server's databases.
    pub async fn db_number(&self, number: u32) -> Db {
        let connection = connect(&format!("{}/{number}", self.url())).await;
        Db::new(connection.expect("connecting to the private redis-server"))
    }

    /// Starts the process and waits until it answers; false where it ended instead.
    async fn launch(&mut self) -> bool {
        let mut command = Command::new(program());
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.arg("--dir").arg(self.dir.path());
        if self.persistent {
            command.args(["--appendonly", "yes", "--appendfsync", self.fsync]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("starting redis-server: is it installed?");
        let pid = child.id().to_string();
        let child = self.child.insert(child);
        let url = format!("redis://127.0.0.1:{}", self.port);
        eventually(BOUND, "an answer from redis-server", async || {
            if child.try_wait().expect("asking for the exit status").is_some() {
                return Ok(false);
            }
            let mut connection = connect(&url).await?;
            let info: String = redis::cmd("INFO")
                .arg("server")
                .query_async(&mut connection)
                .await
                .map_err(|error| error.to_string())?;
            // Somebody else's server on the same port would answer as well.
            if info.contains(&format!("process_id:{pid}\r")) {
                Ok(true)
            } else {
                Err("a server with another process id".to_owned())
            }
        })
        .await
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The server that is tested with: the one on the `PATH`, or the one that `REDIS_SERVER` names.
pub fn program() -> OsString {
    env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

async fn connect(url: &str) -> Result<MultiplexedConnection, String> {
    // The library's half a second is too short for a machine that runs two load tests at once.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(5)))
        .set_response_timeout(Some(BOUND));
    let client = redis::Client::open(url).map_err(|error| error.to_string())?;
    let connection = client.get_multiplexed_async_connection_with_config(&config).await;
    connection.map_err(|error| error.to_string())
}
