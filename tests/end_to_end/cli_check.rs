//! `switchboard check`: every setting, its value, where it came from; and the completions.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::support::NodeBuilder;
use crate::support::node::two_ports;
use crate::support::process::Launch;

const QUICK: Duration = Duration::from_secs(15);

/// Section 2's table: every setting and its default, as `check` writes it.
const DEFAULTS: [(&str, &str); 36] = [
    ("--mode", "local"), // auto, as understood without REDIS_URL
    ("--bind", "127.0.0.1"),
    ("--client-port", "4000"),
    ("--worker-port", "4001"),
    ("--client-url", "ws://127.0.0.1:4000"),
    ("--worker-url", "ws://127.0.0.1:4001"),
    ("--client-origin", "any in development"),
    ("--api-server-url", "none"),
    ("--env", "development"),
    ("--log-level", "info"),
    ("--log-format", "text"),
    ("--redis-url", "redis://127.0.0.1:6379"),
    ("--redis-db", "0, or the URL's"),
    ("--redis-pool-size", "4"),
    ("--redis-ca", "system roots"),
    ("--redis-cert", "none"),
    ("--redis-key", "none"),
    ("--key-prefix", "empty"),
    ("--auth", "none in development"),
    ("--worker-token", "none"),
    ("--session-ttl", "1m"),
    ("--node-ttl", "10s"),
    ("--ping-interval", "25s"),
    ("--pong-timeout", "10s"),
    ("--hello-timeout", "10s"),
    ("--log-length", "256"),
    ("--log-ttl", "10m"),
    ("--max-message", "65536 bytes"),
    ("--max-event", "1048576 bytes"),
    ("--max-sessions-per-user", "32"),
    ("--client-rate", "50"),
    ("--send-queue", "256"),
    ("--uplink-length", "100000"),
    ("--trusted-proxies", "none"),
    ("--max-connection-age", "off"),
    ("--drain-timeout", "20s"),
];

async fn run(args: &[&str], env: &[(&str, &str)], dotenv: Option<&str>) -> Output {
    Launch { dotenv: dotenv.map(str::to_owned), ..Launch::of(args, env) }.output(QUICK).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn every_setting_is_shown_with_where_it_came_from() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "geheim-aus-datei").unwrap();
    let file = secret.path().to_str().unwrap();
    let output = run(
        &["--session-ttl", "90s", "check", "--json", "--node-id", "a", "--worker-url", "ws://w:1/live"],
        &[("PING_INTERVAL", "7s"), ("WORKER_TOKEN_FILE", file), ("REDIS_URL", "redis://me:geheim@h:1/2")],
        Some("NODE_TTL=4s\nPING_INTERVAL=9s\n"),
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let told = text(&output.stdout) + &text(&output.stderr);
    assert!(!told.contains("geheim"), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |flag: &str| {
        let rows = report["settings"].as_array().unwrap();
        let row = rows.iter().find(|row| row["flag"] == flag).unwrap_or_else(|| panic!("{flag}: {report}"));
        (row["value"].as_str().unwrap().to_owned(), row["source"].as_str().unwrap().to_owned())
    };
    let shown = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(row("--session-ttl"), shown("1m 30s", "flag"));
    assert_eq!(row("--node-id"), shown("a", "flag"));
    assert_eq!(row("--ping-interval"), shown("7s", "environment"));
    assert_eq!(row("--node-ttl"), shown("4s", ".env"));
    assert_eq!(row("--worker-token"), shown("(not shown)", "file"));
    assert_eq!(row("--redis-url"), shown("redis://***@h:1/2", "environment"));
    assert_eq!(row("--mode"), shown("redis", "default"), "auto, as understood");
    assert!(row("--threads").0.parse::<usize>().is_ok_and(|threads| threads >= 1), "{:?}", row("--threads"));
    assert_eq!(row("--bind"), shown("127.0.0.1", "default"));
    assert_eq!(row("--worker-url"), shown("ws://w:1/live", "flag"));
    assert_eq!(row("--client-url"), shown("ws://127.0.0.1:4000", "default"));
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("--client-origin") && !warnings.contains("--worker-token"), "{warnings}");
}

#[tokio::test]
async fn what_nobody_has_set_is_as_documented() {
    let output = run(&["check", "--json"], &[], None).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["settings"].as_array().unwrap();
    let row = |flag: &str| {
        rows.iter().find(|row| row["flag"] == flag).unwrap_or_else(|| panic!("{flag}: {report}"))
    };
    for (flag, value) in DEFAULTS {
        assert_eq!((&row(flag)["value"], &row(flag)["source"]), (&value.into(), &"default".into()), "{flag}");
    }
    // These two are the machine's.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(row("--node-id")["value"], host.trim());
    let most = row("--max-connections")["value"].as_str().unwrap().parse::<u32>();
    assert!(most.is_ok_and(|most| most > 0), "{}", row("--max-connections"));
    for row in rows {
        assert_eq!(row["source"], "default", "{row}");
    }
}

#[tokio::test]
async fn where_a_node_listens_on_all_addresses_its_own_urls_are_shown() {
    let (client, worker) = two_ports();
    let ports = [("--client-port", client.to_string()), ("--worker-port", worker.to_string())];
    let mut node = NodeBuilder::bare("solo").set("--mode", "local").set("--bind", "0.0.0.0");
    for (flag, port) in &ports {
        node = node.set(flag, port);
    }
    let node = node.start().await;
    let args = ["check", "--json", "--bind=0.0.0.0", ports[0].0, &ports[0].1, ports[1].0, &ports[1].1];
    let report: Value = serde_json::from_slice(&run(&args, &[], None).await.stdout).unwrap();
    for (flag, url) in [("--client-url", &node.client_url), ("--worker-url", &node.worker_url)] {
        let mut rows = report["settings"].as_array().unwrap().iter();
        let row = rows.find(|row| row["flag"] == flag).unwrap();
        assert_eq!(row["value"], **url, "{report}");
    }
}

#[tokio::test]
async fn mistakes_end_with_2_and_are_all_told_beside_the_table() {
    let output =
        run(&["check", "--client-port", "70000", "--redis-db=first"], &[("LOG_FORMAT", "xml")], None).await;
    assert_eq!(output.status.code(), Some(2));
    let (table, mistakes) = (text(&output.stdout), text(&output.stderr));
    for flag in ["--client-port", "--redis-db", "--log-format"] {
        assert_eq!(mistakes.lines().filter(|line| line.contains(flag)).count(), 1, "{mistakes}");
    }
    let line = table.lines().find(|line| line.contains("--client-port")).expect("a row of it");
    assert!(line.contains("70000") && line.contains("flag"), "{line}");
}

#[tokio::test]
async fn whom_to_trust_is_told_by_its_file_where_that_is_of_no_use() {
    let cut_off = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(cut_off.path(), "-----BEGIN CERTIFICATE-----\nMIIB\n").unwrap();
    let cut_off = cut_off.path().to_str().unwrap();
    let ways = [
        ("--redis-ca", &["--redis-url", "rediss://h"][..]),
        ("--jwt-jwks", &["--auth", "jwt", "--jwt-jwks", "https://localhost:1/"]),
        ("--api-server-url", &["--auth", "api", "--api-server-url", "https://localhost:1/"]),
    ];
    for (flag, args) in ways {
        for command in ["check", "serve"] {
            for (file, why) in [("/nowhere", "No such file"), (cut_off, "cut off")] {
                let output = run(&[&[command], args].concat(), &[("SSL_CERT_FILE", file)], None).await;
                let told = text(&output.stderr);
                assert_eq!(output.status.code(), Some(2), "{command} {flag}: {told}");
                let line = told.lines().find(|line| line.contains(flag)).unwrap_or_else(|| panic!("{told}"));
                assert!(
                    line.contains("SSL_CERT_FILE") && line.contains(file) && line.contains(why),
                    "{line}"
                );
            }
        }
        let outcome = async |env: &[(&str, &str)]| {
            let output = run(&[&["check"], args].concat(), env, None).await;
            (output.status.code(), text(&output.stderr))
        };
        assert_eq!(outcome(&[("SSL_CERT_FILE", "")]).await, outcome(&[]).await, "empty is not set");
    }
}

#[tokio::test]
async fn a_value_makes_no_rows_of_its_own() {
    let forged = "a\n--worker-token  WORKER_TOKEN  flag  \x1b[2Jset";
    let output = run(&["check", "--client-origin", forged], &[], None).await;
    let table = text(&output.stdout);
    assert_eq!(table.lines().filter(|line| line.starts_with("--worker-token ")).count(), 1, "{table}");
    assert!(table.contains(r"a\n--worker-token") && !table.contains('\x1b'), "{table}");
}

#[tokio::test]
async fn the_help_of_a_command_is_about_that_command() {
    for command in ["check", "health", "completions"] {
        let help = text(&run(&[command, "--help"], &[], None).await.stdout);
        assert!(!help.contains("--session-ttl"), "{command}: {help}");
    }
    let serve = text(&run(&["serve", "--help"], &[], None).await.stdout);
    assert!(serve.contains("--session-ttl"), "{serve}");
}

#[tokio::test]
async fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell], &[], None).await;
        assert_eq!(output.status.code(), Some(0));
        let script = text(&output.stdout);
        assert!(script.contains("switchboard") && script.contains("session-ttl"), "{shell}: {script}");
    }
    assert_eq!(run(&["completions", "tcsh"], &[], None).await.status.code(), Some(2));
}
