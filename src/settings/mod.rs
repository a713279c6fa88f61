//! Settings: from what was given to what the program runs with.
//!
//! A flag wins over the environment, the environment over `.env`. All mistakes are reported at once, before
//! anything is opened.

mod access;
pub mod bounds;
pub mod dot_env;
pub mod read;
pub mod redis;
pub mod table;
pub mod understood;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::auth;
use crate::auth::origin::Origins;
use crate::auth::remote::port;
use crate::id::NodeId;
use crate::session::Limits;
use access::Access;
use bounds::Bounds;
use read::{BARE, DAY, Mistake, Reader, Secrets, duration, is_bare};
use redis::Redis;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines, one object a line.
    Json,
}

/// The settings of a node, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Redis, or none in local mode.
    pub redis: Option<Redis>,
    /// This node's id.
    pub node_id: NodeId,
    /// Not production: conveniences are on, and what is open by default is open.
    pub development: bool,
    /// What is logged.
    pub log_level: String,
    /// How it looks.
    pub log_format: LogFormat,
    /// Address of both listeners.
    pub bind: IpAddr,
    /// Where clients connect.
    pub client_port: u16,
    /// Where workers connect.
    pub worker_port: u16,
    /// The address that clients are told, where it is not bind and port.
    pub client_url: Option<String>,
    /// The address that workers are told, where it is not bind and port.
    pub worker_url: Option<String>,
    /// Where browsers may connect from.
    pub origins: Origins,
    /// Where browsers may reach the worker port from.
    pub worker_origins: Origins,
    /// Who may connect.
    pub auth: auth::Config,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Tokens that open the worker port; none leaves it open.
    pub worker_tokens: Secrets,
    /// How long a user's keys outlive the last heartbeat.
    pub session_ttl: Duration,
    /// How long a node counts as alive after its last heartbeat.
    pub node_ttl: Duration,
    /// What sessions need.
    pub limits: Limits,
    /// Events kept per user.
    pub log_length: usize,
    /// How long a log outlives its last event.
    pub log_ttl: Duration,
    /// Largest event, bytes.
    pub max_event: usize,
    /// Sessions of one user, over all nodes.
    pub max_sessions_per_user: usize,
    /// Clients on this node.
    pub max_connections: usize,
    /// Workers' sockets on this node.
    pub max_workers: usize,
    /// Files that this process may have open.
    pub open_files: usize,
    /// Connections on each port that may be between requests, and requests with a body that may be under way.
    pub waiting_connections: usize,
    /// Events that may wait for one slow socket.
    pub send_queue: usize,
    /// Entries kept on `uplink`, `presence` and `events:dead`.
    pub uplink_length: usize,
    /// What has no setting of its own.
    pub bounds: Bounds,
    /// Threads that serve.
    pub threads: usize,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Clients a second that one node takes from nodes that leave.
    pub drain_rate: u64,
}

impl Settings {
    /// Makes settings of what was given.
    ///
    /// # Errors
    /// Every mistake there is.
    pub fn parse(mut reader: Reader) -> Result<Self, Vec<Mistake>> {
        Self::understand(&mut reader).ok_or(reader.mistakes)
    }

    /// The same for whoever goes on with the reader: it has the mistakes then, and what each value comes to.
    pub fn understand(reader: &mut Reader) -> Option<Self> {
        let settings = Self::read(reader)?;
        reader.mistakes.is_empty().then_some(settings)
    }

    /// None where anything is off; by then each mistake is noted, because nothing here returns early.
    fn read(r: &mut Reader) -> Option<Self> {
        let ms = Duration::from_millis;
        let env = r.choice("env", &[("development", true), ("test", true), ("production", false)]);
        let development = env.unwrap_or(true);
        let usual = if development { LogFormat::Text } else { LogFormat::Json };
        let log_format = r.or("log-format", usual, |r, flag| {
            r.choice(flag, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
        });
        let log_level =
            r.value("log-level", "error, warn, info, debug, trace, or a tracing filter", log_filter);
        let node_id = node_id(r);
        let usual = if development { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        let bind = r.or("bind", IpAddr::V4(usual), Reader::ip);
        let client_port = r.number("client-port", 0, u16::MAX);
        let worker_port = r.number("worker-port", 0, u16::MAX);
        if client_port.is_some_and(|port| port != 0) && client_port == worker_port {
            r.mistake("worker-port", "another port than --client-port");
        }
        let client_url = url(r, "client-url");
        let worker_url = url(r, "worker-url");
        let redis = redis::read(r);
        let access = access::read(r, development);
        let session_ttl = r.time("session-ttl", ms(300));
        let node_ttl = r.time("node-ttl", ms(300));
        let limits = limits(r);
        let log_length = r.number("log-length", 1, 100_000);
        let log_ttl = r.time("log-ttl", ms(1000));
        let max_event = r.size("max-event", 1024, 64 << 20);
        let max_sessions_per_user = r.number("max-sessions-per-user", 1, 10_000);
        let files = open_files();
        let waiting_connections = (files / 32).clamp(LEAST_WAITING, MOST_WAITING);
        let eighth = (files / 8).clamp(LEAST_WORKERS, MOST_WORKERS);
        let max_workers = r.or("max-workers", eighth, |r, flag| r.number(flag, 1, 1_000_000));
        let others = files_for_others(waiting_connections, max_workers.unwrap_or_default());
        let rest = files.saturating_sub(others).max(1);
        let max_connections = r.or("max-connections", rest, |r, flag| r.number(flag, 1, 10_000_000));
        let bounds = bounds::read(r);
        let send_queue = r.number("send-queue", 1, 1_000_000);
        let uplink_length = r.number("uplink-length", 1, 1_000_000_000);
        let threads = r.or("threads", half_of_the_cores(), |r, flag| r.number(flag, 1, 1024));
        let drain_timeout = r.time("drain-timeout", ms(0));
        let drain_rate = r.number("drain-rate", 1, 1_000_000);

        let Access { auth, origins, worker_origins, trusted_proxies, worker_tokens } = access?;
        Some(Self {
            redis: redis?,
            node_id: node_id?,
            development,
            log_level: log_level?,
            log_format: log_format?,
            bind: bind?,
            client_port: client_port?,
            worker_port: worker_port?,
            client_url: client_url?,
            worker_url: worker_url?,
            auth,
            origins,
            worker_origins,
            trusted_proxies,
            worker_tokens: Secrets(worker_tokens),
            session_ttl: session_ttl?,
            node_ttl: node_ttl?,
            limits: limits?,
            log_length: log_length?,
            log_ttl: log_ttl?,
            max_event: max_event?,
            max_sessions_per_user: max_sessions_per_user?,
            max_connections: max_connections?,
            max_workers: max_workers?,
            open_files: files,
            waiting_connections,
            send_queue: send_queue?,
            uplink_length: uplink_length?,
            bounds: bounds?,
            threads: threads?,
            drain_timeout: drain_timeout?,
            drain_rate: drain_rate?,
        })
    }
}

/// Files the node needs besides its clients' and workers' sockets and what waits on its ports: Redis, listeners, the
/// API server's 64.
const SPARE_FILES: usize = 128;
/// Enough for the back ends of one node where files are few.
const LEAST_WORKERS: usize = 64;
/// Enough for hundreds of back ends on every node. Each may have 16 MiB on their way.
const MOST_WORKERS: usize = 1024;
/// Enough for a browser's and a balancer's idle connections where files are few.
const LEAST_WAITING: usize = 32;
/// Enough where files are many: healthy connections wait for milliseconds.
const MOST_WAITING: usize = 512;

/// Files that are not for clients: others wait on both ports, and bring bodies on one.
fn files_for_others(waiting: usize, workers: usize) -> usize {
    SPARE_FILES + 3 * waiting + workers
}

/// Raises this process's limit on open files as far as it may, and says what it is.
pub fn open_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let limit = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.or(current).unwrap_or(1 << 20).min(1 << 20),
        Err(_) => current.unwrap_or(1 << 20),
    };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Each thread costs CPU time, two do nearly all that one Redis can, and the system and Redis need cores, too.
fn half_of_the_cores() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, 1024)
}

fn log_filter(text: &str) -> Option<String> {
    let words = ["error", "warn", "info", "debug", "trace", "off"];
    let filter = text.parse::<tracing_subscriber::EnvFilter>().ok()?;
    // A lone word that is no level would silently name a module instead.
    let lone = !text.contains(['=', ',', '[']);
    (!lone || words.contains(&text.to_ascii_lowercase().as_str())).then(|| filter.to_string())
}

fn node_id(r: &mut Reader) -> Option<NodeId> {
    if r.given("node-id").is_some() {
        return r.value("node-id", "1 to 64 of A-Z a-z 0-9 . _ -", |text| text.parse().ok());
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let node = host.parse().ok();
    if node.is_none() {
        r.mistake(
            "node-id",
            &format!("given, because the host name {host:?} is not 1 to 64 of A-Z a-z 0-9 . _ -"),
        );
    }
    node
}

/// The outer option is none where it is off, the inner where it is not set.
fn url(r: &mut Reader, flag: &str) -> Option<Option<String>> {
    let schemes = ["ws://", "wss://", "http://", "https://"];
    let allowed = format!(
        "a URL without spaces that begins with {}, with a port from 1 to 65535 if any and an IPv6 address in brackets, {BARE}",
        schemes.join(", ")
    );
    r.optional(flag, &allowed, |text| {
        let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme))?;
        let whole = !rest.is_empty() && !rest.contains(char::is_whitespace);
        // Which port is the standard one does not matter here.
        let host = rest.split(['/', '?', '#']).next().filter(|host| port(host, 80).is_some());
        let host = host.filter(|host| host.starts_with('[') || host.matches(':').count() <= 1);
        (whole && host.is_some() && is_bare(text)).then(|| text.to_owned())
    })
}

fn limits(r: &mut Reader) -> Option<Limits> {
    let ms = Duration::from_millis;
    let ping_interval = r.time("ping-interval", ms(50));
    let pong_timeout = r.time("pong-timeout", ms(50));
    let hello_timeout = r.time("hello-timeout", ms(50));
    let client_rate = r.number("client-rate", 1, 1_000_000);
    let max_message = r.size("max-message", 256, 64 << 20);
    let max_connection_age = match r.given("max-connection-age") {
        None | Some("off") => Some(None),
        Some(_) => r
            .value("max-connection-age", "off, or a time like 30m, from 1s to 365days", |text| {
                duration(text).filter(|age| (Duration::from_secs(1)..=365 * DAY).contains(age))
            })
            .map(Some),
    };
    Some(Limits {
        ping_interval: ping_interval?,
        pong_timeout: pong_timeout?,
        hello_timeout: hello_timeout?,
        client_rate: client_rate?,
        max_message: max_message?,
        max_connection_age: max_connection_age?,
    })
}

#[cfg(test)]
mod tests;
