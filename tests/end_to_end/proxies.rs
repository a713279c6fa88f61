//! nginx and HAProxy for real, with the configurations of `scripts/`: upgrades, idle sockets, a drain.
//!
//! Run by `scripts/check-proxies`, which installs the two. Ports and addresses are put in place of those in the
//! files, and their timeout of 75 s is made shorter, so that being cut can be seen.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::cmd;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::ports::free_port;
use crate::support::socket::Socket;
use crate::support::stream::EventStream;
use crate::support::{BOUND, NodeBuilder, Pair, RedisServer, Scrape, Worker, eventually, http};

const NGINX: &str = include_str!("../../scripts/nginx.conf");
const HAPROXY: &str = include_str!("../../scripts/haproxy.cfg");

#[derive(Clone, Copy, Debug)]
enum Kind {
    Nginx,
    Haproxy,
}

/// A running proxy before one or two nodes. Killed when dropped.
struct Proxy {
    url: String,
    child: Child,
    dir: TempDir,
}

impl Proxy {
    /// With `idle` in place of the timeout for sockets on which nothing happens.
    async fn start(kind: Kind, a: &str, b: &str, idle: &str) -> Self {
        let (dir, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
        let mut text = match kind {
            Kind::Nginx => NGINX,
            Kind::Haproxy => HAPROXY,
        }
        .to_owned();
        let mut put = |is: &str, new: &str| {
            assert!(text.contains(is), "{kind:?}: no {is:?}");
            text = text.replace(is, new);
        };
        put("relay-a:4000", a);
        put("relay-b:4000", b);
        put("75s", idle);
        let file = dir.path().join("proxy.conf");
        let mut command = match kind {
            Kind::Nginx => {
                put("worker_rlimit_nofile 65536;", "");
                put("worker_connections 30000;", "worker_connections 500;");
                put("listen 8000", &format!("listen 127.0.0.1:{port}"));
                let main = format!("daemon off; pid {0}/pid; error_log {0}/log;", dir.path().display());
                let mut command = Command::new("nginx");
                command.args(["-e", "log", "-g", &main]);
                command.arg("-p").arg(dir.path()).arg("-c").arg(&file);
                command
            }
            Kind::Haproxy => {
                // More than a test process may open.
                put("maxconn 50000", "maxconn 500");
                put("bind :8000", &format!("bind 127.0.0.1:{port}"));
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(&file);
                command
            }
        };
        std::fs::write(&file, text).expect("writing the configuration");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child =
            child.unwrap_or_else(|error| panic!("{kind:?} is needed, see scripts/check-proxies: {error}"));
        let proxy = Self { url: format!("ws://127.0.0.1:{port}"), child, dir };
        http::answers(&format!("http://127.0.0.1:{port}/readyz"), 200, BOUND).await;
        proxy
    }

    /// Connects through the proxy; gives the socket and the node that it leads to.
    async fn connect(&self, user: usize) -> (Socket, String) {
        let url = format!("{}/?userId=u{user}&clientId=tab", self.url);
        let mut socket = Socket::open(&url, None).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let welcome = socket.json("the welcome").await;
        (socket, welcome["nodeId"].as_str().expect("a node").to_owned())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // By a signal that it takes for its workers too.
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), Signal::TERM).ok();
        self.child.wait().ok();
    }
}

fn address(url: &str) -> &str {
    url.trim_start_matches("ws://")
}

async fn idle_sockets_are_kept_by_pings(kind: Kind) {
    let redis = RedisServer::start().await;
    let node =
        async |id, interval| NodeBuilder::redis(id, &redis).set("--ping-interval", interval).start().await;
    let (lively, silent) = (node("lively", "500ms").await, node("silent", "10m").await);

    let proxy = Proxy::start(kind, address(&lively.client_url), address(&lively.client_url), "2s").await;
    let (mut socket, _) = proxy.connect(1).await;
    // Twice as long as the proxy keeps a socket on which nothing happens.
    eventually(BOUND, "eight pings", async || {
        let seen = socket.pings();
        if seen >= 8 { Ok(()) } else { Err(format!("{seen} pings")) }
    })
    .await;
    socket.send(r#"{"type":"ping"}"#).await;
    assert_eq!(socket.json("a pong").await["type"], "pong");

    let proxy = Proxy::start(kind, address(&silent.client_url), address(&silent.client_url), "2s").await;
    let (_socket, _) = proxy.connect(2).await;
    eventually(BOUND, "the proxy to cut a socket without pings", async || {
        let gone = Scrape::of(&silent).await.get("disconnects_total{reason=\"gone\"}");
        if gone == 1.0 { Ok(()) } else { Err(gone.to_string()) }
    })
    .await;
}

async fn a_drain_moves_clients_to_the_other_node(kind: Kind) {
    let mut pair = Pair::with(&[("--drain-timeout", "2s")]).await;
    let proxy = Proxy::start(kind, address(&pair.a.client_url), address(&pair.b.client_url), "75s").await;
    let mut on_a = Vec::new();
    let mut on_b = Vec::new();
    for user in 0..20 {
        let (socket, node) = proxy.connect(user).await;
        match node.as_str() {
            "node-a" => on_a.push((user, socket)),
            _ => on_b.push(socket),
        }
    }
    assert!(on_a.len() >= 5 && on_b.len() >= 5, "{} and {} of 20", on_a.len(), on_b.len());
    pair.a.signal(Signal::TERM);
    http::answers(&pair.a.client_http("/readyz"), 503, Duration::from_secs(5)).await;
    // Whoever comes now is not led to the node that leaves, not even before the proxy has noticed.
    for user in 20..30 {
        assert_eq!(proxy.connect(user).await.1, "node-b");
    }
    let mut worker = Worker::open(&pair.b).await;
    for (user, mut socket) in on_a {
        let closed = socket.closed().await;
        assert_eq!(closed.code, 1012, "the node's own close comes through: {closed:?}");
        let id = worker.event(&format!("u{user}"), "1").await;
        let (mut again, node) = proxy.connect(user).await;
        assert_eq!(node, "node-b");
        assert_eq!(again.json("what was missed").await["id"], *id);
    }
    assert_eq!(pair.a.exit(BOUND).await.code(), Some(0));
}

async fn a_user_who_is_refused_everywhere_keeps_nobody_else_out(kind: Kind) {
    let pair = Pair::start().await;
    let mut redis = pair.redis.db().await;
    redis.run::<()>(cmd("SET").arg("user:u1").arg("no set")).await;
    let proxy = Proxy::start(kind, address(&pair.a.client_url), address(&pair.b.client_url), "75s").await;
    for user in 2..12 {
        let refused = Socket::open(&format!("{}/?userId=u1", proxy.url), None).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("503")));
        proxy.connect(user).await;
    }
}

async fn an_event_stream_is_not_held_back(kind: Kind) {
    let mut node = NodeBuilder::local("a").start().await;
    let proxy = Proxy::start(kind, address(&node.client_url), address(&node.client_url), "75s").await;
    node.client_url.clone_from(&proxy.url);
    let mut events = EventStream::open(&node, "userId=u1").await;
    let mut worker = Worker::open(&node).await;
    let began = Instant::now();
    for _ in 0..20 {
        let id = worker.event("u1", "1").await;
        assert_eq!(events.block("the event").await.id, Some(id));
    }
    // A proxy that waits for more to send along takes 200 ms for each.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
#[ignore = "needs nginx: scripts/check-proxies"]
async fn nginx_keeps_idle_sockets() {
    idle_sockets_are_kept_by_pings(Kind::Nginx).await;
}

#[tokio::test]
#[ignore = "needs nginx: scripts/check-proxies"]
async fn nginx_leads_away_from_a_draining_node() {
    a_drain_moves_clients_to_the_other_node(Kind::Nginx).await;
}

#[tokio::test]
#[ignore = "needs nginx: scripts/check-proxies"]
async fn nginx_logs_no_token_though_no_node_is_there() {
    let node = NodeBuilder::local("a").start().await;
    let proxy = Proxy::start(Kind::Nginx, address(&node.client_url), address(&node.client_url), "75s").await;
    drop(node);
    let url = proxy.url.replace("ws://", "http://");
    http::answers(&format!("{url}/?userId=u1&token=hunter2"), 502, BOUND).await;
    let log = std::fs::read_to_string(proxy.dir.path().join("log")).expect("nginx's log");
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
#[ignore = "needs HAProxy: scripts/check-proxies"]
async fn haproxy_keeps_idle_sockets() {
    idle_sockets_are_kept_by_pings(Kind::Haproxy).await;
}

#[tokio::test]
#[ignore = "needs HAProxy: scripts/check-proxies"]
async fn haproxy_leads_away_from_a_draining_node() {
    a_drain_moves_clients_to_the_other_node(Kind::Haproxy).await;
}

#[tokio::test]
#[ignore = "needs nginx: scripts/check-proxies"]
async fn nginx_keeps_nobody_out_for_a_user_who_is_refused() {
    a_user_who_is_refused_everywhere_keeps_nobody_else_out(Kind::Nginx).await;
}

#[tokio::test]
#[ignore = "needs nginx: scripts/check-proxies"]
async fn nginx_sends_events_of_a_stream_at_once() {
    an_event_stream_is_not_held_back(Kind::Nginx).await;
}

#[tokio::test]
#[ignore = "needs HAProxy: scripts/check-proxies"]
async fn haproxy_keeps_nobody_out_for_a_user_who_is_refused() {
    a_user_who_is_refused_everywhere_keeps_nobody_else_out(Kind::Haproxy).await;
}

#[tokio::test]
#[ignore = "needs HAProxy: scripts/check-proxies"]
async fn haproxy_sends_events_of_a_stream_at_once() {
    an_event_stream_is_not_held_back(Kind::Haproxy).await;
}
