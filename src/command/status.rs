//! `switchboard status`: nodes, streams, and what waits in them.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};
use tokio::signal::ctrl_c;
use tokio::time::{sleep, timeout};

use super::endpoint::Endpoint;
use super::{Failure, Outcome, columns, print, print_aside, wire};
use crate::listener::http::NODE_HEADER;
use crate::logging::say;
use crate::settings::read::Reader;

/// What was asked for.
#[derive(Debug, Default)]
pub struct Asked {
    /// For machines.
    pub json: bool,
    /// Again and again.
    pub watch: bool,
}

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// How long a node may take to say whether it is ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks one node for all, and each node whether it is ready.
///
/// # Errors
/// Where the node is not reached, or refuses; with `watch` it is asked again.
pub async fn run(mut reader: Reader, asked: Asked) -> Outcome {
    let to = Endpoint::worker(&mut reader)?;
    if asked.watch {
        return tokio::select! {
            _ = ctrl_c() => Ok(()),
            failure = watch(&to, asked.json) => Err(failure),
        };
    }
    let report = look(&to).await?;
    print(&if asked.json { format!("{report:#}\n") } else { table(&report) })
}

/// Looks again and again, until what it sees cannot be shown. A node that cannot be asked may be on its way back: who
/// watches wants to see that.
async fn watch(to: &Endpoint, json: bool) -> Failure {
    let clear = if !json && std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    loop {
        match look(to).await {
            Ok(report) => {
                let text = if json { format!("{report}\n") } else { format!("{clear}{}", table(&report)) };
                if let Err(failure) = print_aside(text).await {
                    return failure;
                }
            }
            Err(Failure::Usage(reason) | Failure::Failed(reason)) => say(reason),
            Err(Failure::Told | Failure::Unread) => {}
        }
        sleep(EVERY).await;
    }
}

async fn look(to: &Endpoint) -> Result<Value, Failure> {
    let body = wire::http(to, Method::GET, "/status", None).await?;
    let mut report: Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::Failed(format!("{to} answered with something else than JSON: {error}")))?;
    // Some of them may be null, and without the others that would read as a node that has nothing to tell.
    if let Some(missing) = ["time", "nodes", "streams"].iter().find(|field| report.get(field).is_none()) {
        let told = format!("{to} answered with something else than a node's status: it has no `{missing}`");
        return Err(Failure::Failed(told));
    }
    if let Some(nodes) = report["nodes"].as_array_mut() {
        let asked = nodes.iter().map(|node| {
            let [url, id] = ["workerUrl", "nodeId"].map(|name| node[name].as_str().unwrap_or_default());
            is_ready(url, id)
        });
        let ready = join_all(asked).await;
        for (node, (ready, reason)) in nodes.iter_mut().zip(ready) {
            node["ready"] = json!(ready);
            node["reason"] = json!(reason);
        }
    }
    Ok(report)
}

/// Whether the node at a URL should get clients, if it says so, and else why.
async fn is_ready(url: &str, node: &str) -> (Option<bool>, Option<String>) {
    if url.is_empty() {
        return (None, Some("its worker URL cannot be read".into()));
    }
    let Some(to) = Endpoint::at(url) else { return (None, Some("its worker URL is no address".into())) };
    match timeout(PATIENCE, wire::ask(&to, Method::GET, "/readyz", None)).await {
        // A node of an older release does not say who it is.
        Ok(Ok(answer)) if answer.headers().get(NODE_HEADER).is_some_and(|other| other != node) => {
            (None, Some(format!("from here, {url} is another node")))
        }
        Ok(Ok(answer)) if answer.status().is_success() => (Some(true), None),
        Ok(Ok(answer)) => {
            let body = String::from_utf8_lossy(answer.body());
            let reason = body.trim().trim_start_matches("not ready: ");
            (Some(false), Some(reason.chars().take(80).collect()))
        }
        Ok(Err(Failure::Failed(told))) => {
            let why = told.split_once(&format!("{to}: ")).map_or(told.as_str(), |(_, why)| why);
            (None, Some(format!("not reached from here at {url}: {why}")))
        }
        _ => (None, Some(format!("not reached from here at {url}"))),
    }
}

fn number(value: &Value) -> String {
    value.as_u64().map_or("-".to_owned(), |number| number.to_string())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn table(report: &Value) -> String {
    let nodes = report["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows = vec![
        ["NODE", "READY", "SESSIONS", "USERS", "UPTIME", "VERSION", "LAG", "PENDING"].map(str::to_owned),
    ];
    for node in nodes {
        let ready = match (node["ready"].as_bool(), node["reason"].as_str()) {
            (Some(true), _) => "yes".to_owned(),
            (Some(false), reason) => format!("no: {}", reason.unwrap_or_default()),
            (None, _) => "unknown".to_owned(),
        };
        let age =
            report["time"].as_u64().zip(node["started"].as_u64()).map(|(now, then)| now.saturating_sub(then));
        rows.push([
            text(&node["nodeId"]),
            ready,
            number(&node["sessions"]),
            number(&node["users"]),
            age.map_or("-".to_owned(), uptime),
            text(&node["version"]),
            number(&node["inbox"]["lag"]),
            number(&node["inbox"]["pending"]),
        ]);
    }
    if report["nodes"].is_null() {
        rows.push(["-"; 8].map(str::to_owned));
    }
    let mut table = columns(&rows);
    let sum = |field: &str| {
        let known: Vec<u64> = nodes.iter().filter_map(|node| node[field].as_u64()).collect();
        let sum: u64 = known.iter().sum();
        match report["nodes"].is_array() && known.len() == nodes.len() {
            true => sum.to_string(),
            false if known.is_empty() => "-".to_owned(),
            false => format!("at least {sum}"),
        }
    };
    let _ = writeln!(
        table,
        "\nonline       {} users (counted on each node), {} sessions",
        sum("users"),
        sum("sessions")
    );
    match &report["streams"] {
        Value::Null => table + "local mode: no streams\n",
        streams => table + &streams_waiting(streams),
    }
}

/// What waits in the streams, one a line.
fn streams_waiting(streams: &Value) -> String {
    let mut lines = Vec::new();
    for stream in streams["ingress"].as_array().into_iter().flatten() {
        let reader = match stream["reader"].as_str() {
            Some(node) => format!("read by {node}"),
            None if stream["lag"].is_null() => "reader unknown".to_owned(),
            None => "nobody reads it now".to_owned(),
        };
        let (lag, pending) = (number(&stream["lag"]), number(&stream["pending"]));
        lines.push((text(&stream["name"]), format!("{lag} unread, {pending} pending, {reader}")));
    }
    for (name, field) in [("events:dead", "dead"), ("uplink", "uplink"), ("presence", "presence")] {
        lines.push((name.to_owned(), format!("{} entries", number(&streams[field]))));
    }
    // A name may have 64 characters; the few that are as usual stand under one another.
    lines.iter().map(|(name, line)| format!("{name:11}  {line}\n")).collect()
}

/// The two largest units of a time in ms.
fn uptime(ms: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(ms / 1000)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_node_and_says_what_waits() {
        let node = |id: &str, ready: Value| {
            json!({"nodeId": id, "ready": ready, "reason": "draining", "sessions": 3, "users": 2, "version": "0.1.0",
                "started": 1000, "inbox": {"length": 9, "lag": 7, "pending": 2}})
        };
        let report = json!({
            "time": 3_723_000, "nodes": [node("node-a", json!(true)), node("b", json!(false)), node("c", Value::Null)],
            "streams": {
                "ingress": [
                    {"name": "events", "lag": 5, "pending": 4, "reader": "b"},
                    {"name": "events:2", "lag": 0, "pending": 0, "reader": null},
                ],
                "dead": 1, "uplink": 0, "presence": 8,
            },
        });
        let table = table(&report);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "NODE    READY         SESSIONS  USERS  UPTIME  VERSION  LAG  PENDING");
        assert_eq!(lines[1], "node-a  yes           3         2      1h 2m   0.1.0    7    2");
        assert!(lines[2].contains("no: draining") && lines[3].contains("unknown"), "{table}");
        assert!(table.contains("online       6 users (counted on each node), 9 sessions"), "{table}");
        assert!(table.contains("events       5 unread, 4 pending, read by b"), "{table}");
        assert!(table.contains("events:2     0 unread, 0 pending, nobody reads it now"), "{table}");
    }

    #[test]
    fn what_could_not_be_read_is_a_dash_and_no_number() {
        let streams = json!({
            "ingress": [{"name": "events", "length": null, "lag": null, "pending": null, "reader": null}],
            "dead": null, "uplink": 3, "presence": 0,
        });
        let unread = json!({"nodeId": "b", "ready": null, "sessions": null, "users": null, "version": null,
            "started": null, "inbox": null});
        let read = json!({"nodeId": "a", "ready": true, "sessions": 2, "users": 1, "version": "1", "started": 0,
            "inbox": {"length": 0, "lag": 0, "pending": 0}});
        let lines = |nodes: Value| {
            let table = table(&json!({"time": 1000, "nodes": nodes, "streams": streams}));
            table
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        let some = lines(json!([read, unread]));
        assert_eq!(some[1..3], ["a yes 2 1 1s 1 0 0", "b unknown - - - - - -"]);
        assert_eq!(some[4], "online at least 1 users (counted on each node), at least 2 sessions");
        assert_eq!(some[5], "events - unread, - pending, reader unknown");
        assert_eq!(some[6..8], ["events:dead - entries", "uplink 3 entries"]);
        let none = lines(Value::Null);
        assert_eq!(none[1], "- - - - - - - -");
        assert_eq!(none[3], "online - users (counted on each node), - sessions");
    }
}
