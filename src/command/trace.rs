//! `switchboard trace`: follows one user over all nodes and prints every step of their events.

use std::fmt::Write;
use std::time::Duration;

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::endpoint::Endpoint;
use super::{Failure, Outcome, print, signals, wire};
use crate::logging::say;
use crate::ms::ms;
use crate::settings::read::Reader;

/// What was asked for.
#[derive(Debug)]
pub struct Trace {
    /// Whom.
    pub user: String,
    /// For how long.
    pub long: Duration,
    /// For machines.
    pub json: bool,
}

/// Between two looks: a step is a while on its way anyhow.
const EVERY: Duration = Duration::from_millis(300);
/// Nodes look up who is followed at least this often.
const LEARNT: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Page {
    steps: Vec<Map<String, Value>>,
}

/// Prints steps until it is interrupted or the time is over. Then the user is not followed any more.
///
/// # Errors
/// Where the node is not reached, or refuses.
pub async fn run(mut reader: Reader, trace: Trace) -> Outcome {
    let to = Endpoint::worker(&mut reader)?;
    let path = format!("/users/{}/trace", utf8_percent_encode(&trace.user, NON_ALPHANUMERIC));
    // Before the node is asked to follow: whoever is interrupted leaves nothing behind.
    let mut signals = signals()?;
    let long = ms(trace.long);
    let begin = wire::http(&to, Method::PUT, &path, Some(format!(r#"{{"forMs":{long}}}"#))).await?;
    let begin: Value = serde_json::from_slice(&begin).unwrap_or_default();
    let mut after = begin["after"].as_str().unwrap_or("0").to_owned();
    let words = humantime::format_duration(trace.long);
    let learnt = LEARNT.as_secs();
    say(format_args!("following {} for {words}; every node does within {learnt} s", trace.user));
    let end = Instant::now() + trace.long;
    let outcome = loop {
        match look(&to, &path, &mut after, trace.json).await {
            Ok(()) => {}
            Err(failure) => break Err(failure),
        }
        if Instant::now() >= end {
            break Ok(());
        }
        tokio::select! {
            () = signals.next() => break Ok(()),
            () = sleep(EVERY) => {}
        }
    };
    // Where this fails it lapses by itself.
    let left = wire::http(&to, Method::DELETE, &path, None).await.map(drop);
    outcome.and(left)
}

/// Prints the steps after `after`.
async fn look(to: &Endpoint, path: &str, after: &mut String, json: bool) -> Outcome {
    loop {
        let page = wire::http(to, Method::GET, &format!("{path}?after={after}"), None).await?;
        let mut page: Page = serde_json::from_slice(&page).map_err(|error| {
            Failure::Failed(format!("{to} answered with something else than steps: {error}"))
        })?;
        let Some(last) = page.steps.last().and_then(|step| step["place"].as_str()) else { return Ok(()) };
        *after = last.to_owned();
        // Nodes write down what they saw a moment later; when it happened is what counts here.
        page.steps.sort_by_key(|step| micros(step.get("at")));
        let mut lines = String::new();
        for step in page.steps {
            lines += &if json { Value::Object(step).to_string() } else { line(&step) };
            lines.push('\n');
        }
        print(&lines)?;
    }
}

/// Unix µs of `<ms>.<µs>`.
fn micros(at: Option<&Value>) -> u64 {
    let digits = at.and_then(Value::as_str).unwrap_or_default().replace('.', "");
    digits.parse().unwrap_or_default()
}

fn line(step: &Map<String, Value>) -> String {
    let text = |name: &str| step.get(name).and_then(Value::as_str).unwrap_or("-");
    let at = std::time::UNIX_EPOCH + Duration::from_micros(micros(step.get("at")));
    let clock = humantime::format_rfc3339_micros(at).to_string();
    let clock = clock.get(11..26).unwrap_or(&clock);
    let mut line = format!("{clock}  {:12}  {:12}", text("node"), text("step"));
    if step.contains_key("id") {
        let _ = write!(line, "  {}", text("id"));
    }
    for (name, value) in step {
        if !["at", "id", "node", "place", "step"].contains(&name.as_str()) {
            let _ = write!(line, "  {name}={}", value.as_str().unwrap_or("-"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_line_with_its_time_node_and_event() {
        let step = serde_json::json!({"place": "9-0", "at": "1732360000001.234", "node": "node-a", "step": "written",
            "id": "1732360000000-0", "client": "tab-1"});
        let line = line(step.as_object().unwrap());
        assert_eq!(line, "11:06:40.001234  node-a        written       1732360000000-0  client=tab-1");
    }
}
