//! Whoever reads the log may stall, or go: that costs the log, and nobody else.

use std::io::{BufRead, BufReader};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::process::Launch;
use crate::support::{BOUND, http, within};

/// Each session writes two lines: more of them than a pipe holds.
const SESSIONS: usize = 600;

async fn sessions(client_url: &str, count: usize) {
    let serve = async {
        for user in 0..count {
            let url = format!("{client_url}/ws?userId={user}");
            assert_eq!(http::upgrade(&url, &[]).await.status, 101);
        }
    };
    within(6 * BOUND, "the sessions", serve).await;
}

#[tokio::test]
async fn a_reader_that_stalls_or_goes_costs_the_log_alone() {
    let args = ["--mode", "local", "--client-port", "0", "--worker-port", "0", "--log-format", "json"];
    let more = ["--bind", "127.0.0.1", "--drain-timeout", "1s"];
    let (log, both) = std::io::pipe().unwrap();
    let mut node = Launch::of(&[&args[..], &more].concat(), &[]).spawn_into("solo", both);
    let mut log = BufReader::new(log);
    let (mut client, mut worker) = (String::new(), String::new());
    while client.is_empty() || worker.is_empty() {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
        let line: Value = serde_json::from_str(&line).unwrap();
        let fields = &line["fields"];
        if fields["message"] == "listening" {
            let url = fields["url"].as_str().unwrap().to_owned();
            *(if fields["port"] == "client" { &mut client } else { &mut worker }) = url;
        }
    }

    let [health, ready] =
        ["healthz", "readyz"].map(|path| format!("{}/{path}", worker.replace("ws://", "http://")));
    http::answers(&ready, 200, BOUND).await;
    sessions(&client, SESSIONS).await;
    assert_eq!(within(BOUND, "an answer", http::get(&health)).await.status, 200);

    drop(log);
    sessions(&client, 10).await;
    assert_eq!(within(BOUND, "an answer", http::get(&health)).await.status, 200);
    node.signal(Signal::TERM);
    assert_eq!(node.exit(2 * BOUND).await.code(), Some(0), "a drain");
}
