//! A private redis-server: own port, own directory, gone with its test.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::db::Db;
use super::ports::free_port;
use super::wait::{BOUND, eventually};

/// Nothing is kept on disk but what `SAVE` asks for.
const IN_MEMORY: &[&str] = &["--save", ""];
/// Ports that a server tries.
const TRIES: u32 = 10;

/// A redis-server, or a Sentinel, that may be running. Killed when dropped.
pub struct RedisServer {
    port: u16,
    child: Option<Child>,
    /// Kept over restarts, with what the server keeps at all.
    dir: TempDir,
    args: Vec<String>,
}

impl RedisServer {
    /// A running, empty server that keeps nothing on disk.
    pub async fn start() -> Self {
        Self::start_with(IN_MEMORY).await
    }

    /// A running, empty server that has every acknowledged write on disk.
    pub async fn start_persistent() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]).await
    }

    /// A running, empty server that keeps everything on disk, at the speed of one that does not: a killed process loses
    /// nothing either way.
    #[allow(dead_code)] // for tests/chaos
    pub async fn start_durable() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]).await
    }

    /// A running, empty server with these arguments.
    pub async fn start_with(args: &[&str]) -> Self {
        Self::start_in(new_dir(), args).await
    }

    /// A running server whose directory holds something already.
    pub async fn start_in(dir: TempDir, args: &[&str]) -> Self {
        let mut server = Self::stopped_in(dir, args);
        // Another process may have taken the port since, or that of a Cluster's bus.
        for _ in 0..TRIES {
            if server.launch().await {
                return server;
            }
            server.port = free_port();
        }
        panic!("redis-server ends at once, with {:?}", server.args);
    }

    /// A server that has a port but does not run yet.
    pub fn stopped() -> Self {
        Self::stopped_in(new_dir(), IN_MEMORY)
    }

    fn stopped_in(dir: TempDir, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { port: free_port(), child: None, dir, args }
    }

    /// Starts a stopped server, on the port and in the directory that it always had.
    pub async fn start_again(&mut self) {
        assert!(self.launch().await, "redis-server did not start on port {}", self.port);
    }

    /// Whether it was started, and not killed since.
    #[allow(dead_code)] // for tests/topologies
    pub fn is_running(&self) -> bool {
        self.child.is_some()
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

    /// Where it keeps its files.
    #[allow(dead_code)] // for tests/topologies
    pub fn dir(&self) -> &Path {
        self.dir.path()
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
        Db::new(self.connection(number).await.expect("connecting to the private redis-server"))
    }

    /// A connection to one of its databases; it need not be running.
    pub async fn connection(&self, db: u32) -> Result<MultiplexedConnection, RedisError> {
        // The library's half a second is too short for a machine that runs two load tests at once.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(5)))
            .set_response_timeout(Some(BOUND));
        let client = redis::Client::open(format!("{}/{db}", self.url()))?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Starts the process and waits until it answers; false where it ended instead.
    async fn launch(&mut self) -> bool {
        let mut command = Command::new(program());
        // What is given comes first: a Sentinel's configuration file has to.
        command.args(&self.args).args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("starting redis-server: is it installed?");
        let pid = child.id();
        self.child = Some(child);
        eventually(BOUND, "an answer from redis-server", async || {
            let child = self.child.as_mut().expect("it was started");
            if child.try_wait().expect("asking for the exit status").is_some() {
                return Ok(false);
            }
            let info = async {
                let mut connection = self.connection(0).await?;
                redis::cmd("INFO").query_async::<String>(&mut connection).await
            };
            let info = info.await.map_err(|error| error.to_string())?;
            // Somebody else's server on the same port would answer as well.
            if !info.contains(&format!("process_id:{pid}\r")) {
                return Err("a server with another process id".to_owned());
            }
            if info.contains("loading:1") { Err("it reads what it has on disk".to_owned()) } else { Ok(true) }
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

fn new_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}
