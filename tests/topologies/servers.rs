//! Redis servers with any arguments, alone, as a Cluster, or watched by Sentinels. Gone with their test.

use std::process::{Command, Stdio};
use std::time::Duration;

use redis::{FromRedisValue, RedisError, cmd};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::access::{documented_addition, documented_rule};
use crate::support::ports::free_port;
use crate::support::redis_server::program;
use crate::support::{BOUND, RedisServer, eventually};

/// One test with many servers at a time.
static PLACES: Semaphore = Semaphore::const_new(1);

impl RedisServer {
    /// Whether the server knows these arguments: not each is built with everything.
    pub fn takes(args: &[&str]) -> bool {
        let mut command = Command::new(program());
        // Ends at once, one way or the other: by the arguments, or by a port that nobody can have.
        command.args(args).args(["--port", "1", "--bind", "192.0.2.1", "--daemonize", "no"]);
        let output = command.stdin(Stdio::null()).output().expect("starting redis-server: is it installed?");
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        !["Bad directive", "Failed finding TLS support"].iter().any(|unknown| told.contains(unknown))
    }

    /// Lets the user `switchboard` in by a rule of the handbook, with the password that tests look for in logs.
    pub async fn allow(&self, rule: &str) {
        let rule = rule.replace("<password>", "geheim");
        let words: Vec<_> = rule.split_ascii_whitespace().collect();
        self.ask::<String>(&words).await;
    }

    /// Runs a command.
    pub async fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, RedisError> {
        let mut connection = self.connection(0).await?;
        cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }

    /// Runs a command that must succeed.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).await.unwrap_or_else(|error| panic!("{words:?} got {error}"))
    }

    /// Waits until it is a replica that is in step with its master.
    pub async fn in_step(&self) {
        eventually(BOUND, "a replica in step", async || self.is_in_step().await).await;
    }

    /// Whether it is one; what it says of itself where it is not.
    pub async fn is_in_step(&self) -> Result<(), String> {
        let info: String = self.ask(&["INFO", "replication"]).await;
        if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
    }
}

/// Three masters, and three replicas or none.
pub struct Cluster {
    pub servers: Vec<RedisServer>,
    /// Who nodes come as, with what follows in an address.
    user: &'static str,
    _place: SemaphorePermit<'static>,
}

/// Short, so that a failover takes seconds. With two cores less would take a busy server for a dead one.
const NODE_TIMEOUT_MS: &str = "1500";

impl Cluster {
    /// A Cluster that has all its slots and all its replicas.
    pub async fn start() -> Self {
        Self::of(6).await
    }

    /// Masters alone: where one is away nobody takes its place, and the others go on.
    pub async fn of_masters() -> Self {
        Self::of(3).await
    }

    async fn of(count: usize) -> Self {
        let place = PLACES.acquire().await.expect("a place");
        let mut servers = Vec::new();
        let bus_may_be_anywhere = RedisServer::takes(&["--cluster-port", "1"]); // else 10,000 above: Redis 6.2
        for _ in 0..count {
            let bus = free_port().to_string();
            let mut args = vec!["--save", "", "--cluster-enabled", "yes"];
            if bus_may_be_anywhere {
                args.extend(["--cluster-port", &bus]);
            }
            args.extend(["--cluster-node-timeout", NODE_TIMEOUT_MS, "--repl-diskless-sync-delay", "0"]);
            args.extend(["--cluster-require-full-coverage", if count > 3 { "yes" } else { "no" }]);
            servers.push(RedisServer::start_with(&args).await);
        }
        let cluster = Self { servers, user: "", _place: place };
        let addresses: Vec<_> =
            cluster.servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(&addresses);
        let replicas = if count > 3 { "1" } else { "0" };
        create.args(["--cluster-replicas", replicas, "--cluster-yes"]).stdin(Stdio::null());
        let output = create.output().expect("starting redis-cli");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        for server in &cluster.servers {
            eventually(BOUND, "a Cluster in order", async || {
                let info: String = server.ask(&["CLUSTER", "INFO"]).await;
                let replication: String = server.ask(&["INFO", "replication"]).await;
                let joined = ["master_link_status:up", "connected_slaves:1"];
                let joined = count == 3 || joined.iter().any(|line| replication.contains(line));
                if info.contains("cluster_state:ok") && joined { Ok(()) } else { Err(info) }
            })
            .await;
        }
        cluster
    }

    /// Begins to move the slot of `key` to the master at `to`.
    pub async fn begin_move(&self, key: &str, to: usize) -> Move {
        let from = self.holders(key).await[0];
        let slot = self.servers[from].ask::<i64>(&["CLUSTER", "KEYSLOT", key]).await.to_string();
        let from_id: String = self.servers[from].ask(&["CLUSTER", "MYID"]).await;
        let to_id: String = self.servers[to].ask(&["CLUSTER", "MYID"]).await;
        self.servers[to].ask::<String>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        self.servers[from].ask::<String>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
        Move { from, to, slot, to_id }
    }

    /// The address that nodes are given: two members.
    pub fn url(&self) -> String {
        let user = self.user;
        format!(
            "redis+cluster://{user}127.0.0.1:{},127.0.0.1:{}",
            self.servers[0].port(),
            self.servers[self.servers.len() - 2].port()
        )
    }

    /// Lets nodes in by a rule of the handbook, and not otherwise.
    pub async fn allow(&mut self, rule: &str) {
        for server in &self.servers {
            server.allow(rule).await;
        }
        self.user = "switchboard:geheim@";
    }

    /// Places of the servers that hold a key: its master, and the master's replicas.
    pub async fn holders(&self, key: &str) -> Vec<usize> {
        let alive = self.servers.iter().find(|server| server.is_running()).expect("a living server");
        let slot: i64 = alive.ask(&["CLUSTER", "KEYSLOT", key]).await;
        let ranges: Vec<Vec<redis::Value>> = alive.ask(&["CLUSTER", "SLOTS"]).await;
        for range in ranges {
            let [first, last, members @ ..] = &range[..] else { panic!("a range without members") };
            let number = |value: &redis::Value| redis::from_redis_value_ref::<i64>(value).expect("a slot");
            if (number(first)..=number(last)).contains(&slot) {
                let ports = members.iter().map(|member| {
                    let redis::Value::Array(parts) = member else { panic!("no member") };
                    redis::from_redis_value_ref::<u16>(&parts[1]).expect("a port")
                });
                let place =
                    |port| self.servers.iter().position(|server| server.port() == port).expect("ours");
                return ports.map(place).collect();
            }
        }
        panic!("nobody holds {key}");
    }

    /// Runs a command where its key is.
    pub async fn ask<T: FromRedisValue>(&self, key: &str, words: &[&str]) -> T {
        let master = self.holders(key).await[0];
        self.servers[master].ask(words).await
    }

    /// The states that `presence` tells of a user, oldest first.
    pub async fn presence(&self, user: &str) -> Vec<String> {
        let entries: redis::streams::StreamRangeReply =
            self.ask("presence", &["XRANGE", "presence", "-", "+"]).await;
        let field =
            |entry: &redis::streams::StreamId, name: &str| entry.get::<String>(name).expect("a field");
        let of_user = entries.ids.iter().filter(|entry| field(entry, "user") == user);
        of_user.map(|entry| field(entry, "state")).collect()
    }

    /// Every key on every master, in order.
    pub async fn keys(&self) -> Vec<String> {
        let mut all = Vec::new();
        for server in &self.servers {
            let role: Vec<redis::Value> = server.ask(&["ROLE"]).await;
            if role[0] == redis::Value::BulkString(b"master".to_vec()) {
                all.extend(server.ask::<Vec<String>>(&["KEYS", "*"]).await);
            }
        }
        all.sort();
        all
    }
}

/// A slot on its way.
pub struct Move {
    from: usize,
    to: usize,
    slot: String,
    to_id: String,
}

impl Move {
    /// Moves what is in it, and makes it the other master's.
    pub async fn finish(self, cluster: &Cluster) {
        let (from, to) = (&cluster.servers[self.from], &cluster.servers[self.to]);
        let port = to.port().to_string();
        loop {
            let keys: Vec<String> = from.ask(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "100"]).await;
            if keys.is_empty() {
                break;
            }
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            from.ask::<String>(&migrate).await;
        }
        for server in [to, from] {
            server.ask::<String>(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.to_id]).await;
        }
    }
}

/// A master, its replica, and three Sentinels; each server has a password, and the Sentinels another.
pub struct Watched {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<RedisServer>,
    _place: SemaphorePermit<'static>,
}

impl Watched {
    /// Running and in order. The first server is the master.
    pub async fn start() -> Self {
        let place = PLACES.acquire().await.expect("a place");
        // The default user stays open to the test; nodes and Sentinels come as others.
        let start = async |replica_of: &str| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let rule = documented_rule().replace("<password>", "geheim");
            let conf = format!(
                "{}\nuser watch on >geheim2 ~* &* +@all\n\
                 masteruser watch\nmasterauth geheim2\nrepl-diskless-sync-delay 0\n{replica_of}",
                rule.replace("ACL SETUSER ", "user ")
            );
            std::fs::write(dir.path().join("redis.conf"), conf).expect("writing the configuration");
            RedisServer::start_in(dir, &["redis.conf", "--save", ""]).await
        };
        let master = start("").await;
        let replica = start(&format!("replicaof 127.0.0.1 {}\n", master.port())).await;
        let servers = vec![master, replica];
        servers[1].in_step().await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let conf = format!(
                "sentinel monitor mymaster 127.0.0.1 {} 2\n\
                 sentinel auth-user mymaster watch\n\
                 sentinel auth-pass mymaster geheim2\n\
                 sentinel down-after-milliseconds mymaster 1500\n\
                 sentinel failover-timeout mymaster 6000\n\
                 user seeker on >geheim3 {}\n",
                servers[0].port(),
                documented_addition("Sentinels need")
            );
            std::fs::write(dir.path().join("sentinel.conf"), conf).expect("writing the configuration");
            sentinels.push(RedisServer::start_in(dir, &["sentinel.conf", "--sentinel"]).await);
        }
        for sentinel in &sentinels {
            eventually(BOUND, "Sentinels that know each other and the replica", async || {
                let info: String = sentinel.ask(&["INFO", "sentinel"]).await;
                if info.contains("status=ok") && info.contains("slaves=1,sentinels=3") {
                    Ok(())
                } else {
                    Err(info)
                }
            })
            .await;
        }
        Self { servers, sentinels, _place: place }
    }

    /// Waits until the second server is the master.
    pub async fn promoted(&self) {
        eventually(Duration::from_secs(40), "another master", async || {
            // Whoever is promoted cuts off everyone who is connected.
            let info = self.servers[1].try_ask::<String>(&["INFO", "replication"]).await;
            let info = info.map_err(|error| error.to_string())?;
            if info.contains("role:master") { Ok(()) } else { Err(info) }
        })
        .await;
    }

    /// The address that nodes are given.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|it| format!("127.0.0.1:{}", it.port())).collect();
        format!(
            "redis+sentinel://switchboard:geheim@{}/mymaster?sentinel_user=seeker&sentinel_password=geheim3",
            hosts.join(",")
        )
    }
}
