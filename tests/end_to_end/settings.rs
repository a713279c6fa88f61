//! Settings: flags, environment, `.env`, the old service's names, and what a mistake gets.

use std::process::Output;
use std::time::Duration;

use crate::support::node::two_ports;
use crate::support::process::Launch;
use crate::support::wait::same;
use crate::support::{BOUND, Client, Db, Node, NodeBuilder, RedisServer, eventually, http};

/// A start that is refused, or a help text, takes milliseconds.
const QUICK: Duration = Duration::from_secs(10);

/// Section 2's table: every setting is a flag and an environment variable.
const SETTINGS: [(&str, &str); 37] = [
    ("--mode", "SWITCHBOARD_MODE"),
    ("--node-id", "NODE_ID"),
    ("--bind", "BIND_ADDR"),
    ("--client-port", "CLIENT_SOCKET_PORT"),
    ("--worker-port", "WORKER_SOCKET_PORT"),
    ("--client-url", "CLIENT_SOCKET_URL"),
    ("--worker-url", "WORKER_SOCKET_URL"),
    ("--client-origin", "CLIENT_ORIGIN"),
    ("--api-server-url", "API_SERVER_URL"),
    ("--env", "NODE_ENV"),
    ("--log-level", "LOG_LEVEL"),
    ("--log-format", "LOG_FORMAT"),
    ("--redis-url", "REDIS_URL"),
    ("--redis-db", "REDIS_DB"),
    ("--redis-pool-size", "REDIS_POOL_SIZE"),
    ("--redis-ca", "REDIS_CA"),
    ("--redis-cert", "REDIS_CERT"),
    ("--redis-key", "REDIS_KEY"),
    ("--key-prefix", "KEY_PREFIX"),
    ("--auth", "AUTH_MODE"),
    ("--worker-token", "WORKER_TOKEN"),
    ("--session-ttl", "SESSION_TTL"),
    ("--node-ttl", "NODE_TTL"),
    ("--ping-interval", "PING_INTERVAL"),
    ("--pong-timeout", "PONG_TIMEOUT"),
    ("--hello-timeout", "HELLO_TIMEOUT"),
    ("--log-length", "LOG_LENGTH"),
    ("--log-ttl", "LOG_TTL"),
    ("--max-message", "MAX_MESSAGE"),
    ("--max-event", "MAX_EVENT"),
    ("--max-sessions-per-user", "MAX_SESSIONS_PER_USER"),
    ("--max-connections", "MAX_CONNECTIONS"),
    ("--client-rate", "CLIENT_RATE"),
    ("--send-queue", "SEND_QUEUE"),
    ("--uplink-length", "UPLINK_LENGTH"),
    ("--trusted-proxies", "TRUSTED_PROXIES"),
    ("--max-connection-age", "MAX_CONNECTION_AGE"),
];

async fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    Launch::of(args, env).output(QUICK).await
}

/// The lines of a refused start, each of which tells one mistake.
fn complaints(output: &Output) -> Vec<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "the exit status, with:\n{stderr}");
    stderr.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn all_mistakes_are_told_at_once_one_line_each() {
    let args = [
        "--client-port",
        "seventy",
        "--session-ttl",
        "ten",
        "--max-event",
        "lots",
        "--mode",
        "weird",
        "--log-length",
        "-3",
    ];
    let env = [("LOG_FORMAT", "xml"), ("NODE_ID", "not a name"), ("PING_INTERVAL", "often")];
    let output = run(&args, &env).await;
    let lines = complaints(&output);
    let mistakes = [
        ("--client-port", "seventy"),
        ("--session-ttl", "ten"),
        ("--max-event", "lots"),
        ("--mode", "weird"),
        ("--log-length", "-3"),
        ("--log-format", "xml"),
        ("--node-id", "not a name"),
        ("--ping-interval", "often"),
    ];
    for (flag, value) in mistakes {
        let about = lines.iter().filter(|line| line.contains(flag) && line.contains(value));
        assert_eq!(about.count(), 1, "one line with {flag} and {value} in:\n{}", lines.join("\n"));
    }
    let line = |flag: &str| lines.iter().find(|line| line.contains(flag)).unwrap();
    for allowed in ["local", "redis", "auto"] {
        assert!(line("--mode").contains(allowed), "what is allowed: {}", line("--mode"));
    }
    for allowed in ["text", "json"] {
        assert!(line("--log-format").contains(allowed), "what is allowed: {}", line("--log-format"));
    }
}

#[tokio::test]
async fn each_kind_of_mistake_is_found() {
    let cases = [
        ("--client-port", "65536"),
        ("--worker-port", "-1"),
        ("--bind", "everywhere"),
        ("--redis-db", "first"),
        ("--redis-pool-size", "0"),
        ("--threads", "0"),
        ("--node-ttl", "10 parsecs"),
        ("--max-message", "64XB"),
        ("--max-sessions-per-user", "many"),
        ("--auth", "magic"),
        ("--env", "staging?"),
        ("--trusted-proxies", "10.0.0.0/99"),
        ("--node-id", ""),
        ("--client-url", "ws://a relay"),
        ("--redis-ca", "Cargo.toml"),
        ("--redis-cert", "/nowhere/cert.pem"),
        ("--redis-key", "/nowhere/key.pem"),
        ("--redis-url", "redis+cluster://"),
        ("--redis-url", "redis+sentinel://h1,h2"),
        ("--redis-url", "redis://h:x"),
    ];
    for (flag, value) in cases {
        let argument = format!("{flag}={value}");
        let lines = complaints(&run(&[&argument], &[]).await);
        let told = lines.iter().any(|line| line.contains(flag) && line.contains(value));
        assert!(told, "{argument} got:\n{}", lines.join("\n"));
    }
    let lines = complaints(&run(&["--redis-key=/nowhere/key.pem"], &[]).await);
    assert!(lines.iter().any(|line| line.contains("No such file")), "{}", lines.join("\n"));
    // The one value that may hold a password: whether it is shown, masked or left out is left open.
    let lines = complaints(&run(&["--redis-url=http://relay:s3cret@localhost"], &[]).await);
    assert!(lines.iter().any(|line| line.contains("--redis-url")), "{}", lines.join("\n"));
    assert!(!lines.iter().any(|line| line.contains("s3cret")), "{}", lines.join("\n"));
}

#[tokio::test]
async fn an_unknown_flag_is_a_mistake() {
    let lines = complaints(&run(&["--frobnicate", "yes"], &[]).await);
    assert!(lines.iter().any(|line| line.contains("--frobnicate")), "{}", lines.join("\n"));
}

#[tokio::test]
async fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let ports = NodeBuilder::bare("unused").unset("--node-id");
    let from_file = ports.dotenv("NODE_ID=from-file\nPING_INTERVAL=7s\n");
    let from_env = from_file.clone().env("NODE_ID", "from-env");
    let from_flag = from_env.clone().set("--node-id", "from-flag");
    for (builder, id) in [(from_file, "from-file"), (from_env, "from-env"), (from_flag, "from-flag")] {
        let node = builder.start().await;
        let client = Client::as_user(&node, "42", "tab-1").await;
        assert_eq!(client.welcomed("nodeId"), id);
        assert_eq!(client.welcome["pingInterval"], 7000, "the file's, where nobody else says so");
    }
}

#[tokio::test]
async fn the_old_services_names_still_work() {
    let (client_port, worker_port) = two_ports();
    let builder = NodeBuilder::bare("unused");
    let node = ["--client-port", "--worker-port", "--bind", "--log-format", "--node-id"]
        .into_iter()
        .fold(builder, NodeBuilder::unset)
        .env("CLIENT_SOCKET_PORT", &client_port.to_string())
        .env("WORKER_SOCKET_PORT", &worker_port.to_string())
        .env("BIND_ADDR", "127.0.0.1")
        .env("LOG_FORMAT", "json")
        .env("LOG_LEVEL", "info")
        .env("NODE_ENV", "development")
        .env("CLIENT_ORIGIN", "https://app.example.com")
        .env("API_SERVER_URL", "http://127.0.0.1:9")
        .start()
        .await;
    assert_eq!(node.client_url, format!("ws://127.0.0.1:{client_port}"));
    assert_eq!(node.worker_url, format!("ws://127.0.0.1:{worker_port}"));
    let url = node.client_ws("userId=42");
    let allowed = http::upgrade(&url, &[("origin", "https://app.example.com")]).await;
    assert_eq!(allowed.status, 101, "{allowed:?}");
    let refused = http::upgrade(&url, &[("origin", "https://evil.example")]).await;
    assert_eq!(refused.refused(403), "origin_not_allowed");
}

#[tokio::test]
async fn without_a_node_id_it_is_the_host_name() {
    let node = NodeBuilder::bare("unused").unset("--node-id").start().await;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let client = Client::as_user(&node, "42", "tab-1").await;
    assert_eq!(client.welcomed("nodeId"), host.trim());
}

#[tokio::test]
async fn production_refuses_to_start_until_each_lock_is_set_or_opened_by_name() {
    let lines =
        complaints(&run(&["--client-port", "0", "--worker-port", "0"], &[("NODE_ENV", "production")]).await);
    for flag in ["--auth", "--worker-token", "--client-origin"] {
        let told = lines.iter().filter(|line| line.contains(flag)).count();
        assert!(told >= 1, "{flag} in:\n{}", lines.join("\n"));
    }
    // One lock that is missing is enough.
    let locked = ["--auth", "none", "--client-origin", "*", "--client-port", "0", "--worker-port", "0"];
    let lines = complaints(&run(&locked, &[("NODE_ENV", "production")]).await);
    assert!(lines.iter().any(|line| line.contains("--worker-token")), "{}", lines.join("\n"));
    assert!(!lines.iter().any(|line| line.contains("--client-origin")), "{}", lines.join("\n"));
}

#[tokio::test]
async fn production_starts_once_the_locks_are_opened_by_name() {
    let opened = [("--auth", "none"), ("--worker-token", "none"), ("--client-origin", "*")];
    let node = NodeBuilder::bare("node-a").with(&opened).env("NODE_ENV", "production").start().await;
    Client::as_user(&node, "42", "tab-1").await;
}

#[tokio::test]
async fn production_logs_json_by_itself() {
    let opened = [("--auth", "none"), ("--worker-token", "none"), ("--client-origin", "*")];
    let builder = NodeBuilder::bare("node-a").with(&opened).unset("--log-format");
    let node = builder.env("NODE_ENV", "production").start().await;
    for line in node.lines() {
        serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[tokio::test]
async fn in_development_the_log_is_text_and_names_the_port_that_the_system_gave() {
    let node = NodeBuilder::local("node-a").unset("--log-format").spawn();
    for (port, only_there) in [("client", "/client.js"), ("worker", "/metrics")] {
        let fits = |line: &str| line.contains(" listening ") && line.contains(&format!("port=\"{port}\""));
        let line = node.log_line(BOUND, &format!("where the {port} port is"), fits).await;
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_err(), "no text: {line}");
        let (_, url) = line.split_once("url=ws://").unwrap_or_else(|| panic!("no address: {line}"));
        let address = url.split(' ').next().unwrap();
        assert_eq!(http::get(&format!("http://{address}{only_there}")).await.status, 200, "{line}");
    }
}

#[tokio::test]
async fn help_lists_every_flag_and_environment_name() {
    let output = run(&["--help"], &[]).await;
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    let words = |text: &str| {
        help.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c))).any(|word| word == text)
    };
    let drain = [("--drain-timeout", "DRAIN_TIMEOUT")];
    for (flag, env) in SETTINGS.iter().chain(&drain) {
        assert!(words(flag), "{flag} is not in the help:\n{help}");
        assert!(words(env), "{env} is not in the help:\n{help}");
    }
    for default in ["4000", "4001", "25s", "64KiB", "1MiB", "256", "100000"] {
        assert!(help.contains(default), "the default {default} is not in the help:\n{help}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn so_many_threads_serve_as_were_asked_for() {
    for threads in [1, 5] {
        let node = NodeBuilder::local("solo").set("--threads", &threads.to_string()).start().await;
        let _client = Client::as_user(&node, "42", "tab-1").await;
        // One writes the log. Where there are several, the first one only waits for their end; others come and go for
        // blocking work.
        let serving = node.threads();
        let wanted = if threads == 1 { 2..=4 } else { threads + 2..=threads + 4 };
        assert!(wanted.contains(&serving), "{serving} threads where {threads} were asked for");
    }
}

/// Connections to Redis, the test's own included, after many questions at once.
async fn connections(node: &Node, db: &mut Db) -> usize {
    // Not those about users, which keep to half of them.
    let url = node.worker_http("/nodes");
    let ask = |_| {
        let url = url.clone();
        tokio::spawn(async move { http::get(&url).await })
    };
    let asked: Vec<_> = (0..60).map(ask).collect();
    for answer in asked {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    db.run::<String>(redis::cmd("CLIENT").arg("LIST")).await.lines().count()
}

#[tokio::test]
async fn of_shared_connections_to_redis_there_are_no_more_than_were_asked_for() {
    let mut with_one = None;
    for (size, default) in [("1", false), ("4", true), ("8", false)] {
        let redis = RedisServer::start().await;
        let builder = NodeBuilder::redis("node-b", &redis);
        let node = if default { builder } else { builder.set("--redis-pool-size", size) }.start().await;
        let mut db = redis.db().await;
        let most: usize = size.parse().unwrap();
        db.xadd("events", &[("user", "42"), ("event", "e")]).await;
        eventually(BOUND, "an event that was read, and so every reader's connection", async || {
            same(db.log_ids("42").await.len(), 1)
        })
        .await;
        // Beside those that are shared a node has some of its own, for what waits.
        let own = *with_one.get_or_insert(connections(&node, &mut db).await) - 1;
        eventually(BOUND, &format!("{own} connections and {size}"), async || {
            let there = connections(&node, &mut db).await;
            assert!(there <= own + most, "{there} connections, {own} of which are not shared: of {size}");
            same(there, own + most)
        })
        .await;
    }
}

#[tokio::test]
async fn serve_is_the_same_as_no_subcommand() {
    let node = NodeBuilder::bare("solo").subcommand("serve").set("--mode", "local").start().await;
    let client = Client::as_user(&node, "42", "tab-1").await;
    assert_eq!(client.welcomed("nodeId"), "solo");
    let lines = complaints(&run(&["serve", "--mode", "weird"], &[]).await);
    let told = lines.iter().any(|line| line.contains("--mode") && line.contains("weird"));
    assert!(told, "{}", lines.join("\n"));
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_the_port() {
    let node = NodeBuilder::local("solo").start().await;
    let port = node.client_url.rsplit(':').next().unwrap().to_owned();
    let output = run(&["--mode", "local", "--client-port", &port, "--worker-port", "0"], &[]).await;
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&port), "which port it was: {text}");
}
