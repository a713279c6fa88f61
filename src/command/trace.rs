//! `switchboard trace`: follows one user over all nodes and prints every step of their events.

use std::fmt::Write;
use std::pin::pin;
use std::time::Duration;

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep, timeout};

use super::endpoint::Endpoint;
use super::{Failure, Outcome, print_aside, signals, wire};
use crate::logging::say;
use crate::ms::ms;
use crate::settings::read::Reader;
use crate::shutdown::Signals;

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
/// How long a node may take after an interrupt to do what it was asked last, and to hear that this is enough.
const GOODBYE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Page {
    steps: Vec<Step>,
}

/// By field.
type Step = Map<String, Value>;

/// Prints steps until it is interrupted or the time is over. Then the user is not followed any more.
///
/// # Errors
/// Where the node is not reached at first or at last, or refuses.
pub async fn run(mut reader: Reader, trace: Trace) -> Outcome {
    let to = Endpoint::worker(&mut reader)?;
    let path = format!("/users/{}/trace", utf8_percent_encode(&trace.user, NON_ALPHANUMERIC));
    // Before the node is asked to follow: whoever is interrupted leaves nothing behind.
    let mut signals = signals()?;
    let outcome = match settled(&mut signals, begin(&to, &path, trace.long)).await.transpose()? {
        None => Ok(()),
        Some(after) => {
            let words = humantime::format_duration(trace.long);
            let learnt = LEARNT.as_secs();
            say(format_args!("following {} for {words}; every node does within {learnt} s", trace.user));
            follow(&to, &path, after, &trace, &mut signals).await
        }
    };
    let leave = wire::http(&to, Method::DELETE, &path, None);
    if !matches!(timeout(GOODBYE, leave).await, Ok(Ok(_))) {
        say("the node has not heard that this is enough: it follows until the time is over");
    }
    outcome
}

/// Has the user followed from now on; answers with the place after which their steps come.
async fn begin(to: &Endpoint, path: &str, long: Duration) -> Result<String, Failure> {
    let body = format!(r#"{{"forMs":{}}}"#, ms(long));
    let begun = wire::http(to, Method::PUT, path, Some(body)).await?;
    let begun: Value = serde_json::from_slice(&begun).unwrap_or_default();
    Ok(begun["after"].as_str().unwrap_or("0").to_owned())
}

/// What a node was asked, once it has answered; none where an interrupt comes first. Also then it gets a moment: what is
/// given up halfway it may do after what it is asked next.
async fn settled<T>(signals: &mut Signals, asked: impl Future<Output = T>) -> Option<T> {
    let mut asked = pin!(asked);
    tokio::select! {
        answered = &mut asked => Some(answered),
        () = signals.next() => {
            let _ = timeout(GOODBYE, asked).await;
            None
        }
    }
}

/// Prints steps until it is interrupted or the time is over. A node that cannot be asked, or has no Redis, may be on its
/// way back; what was written down meanwhile comes then.
async fn follow(
    to: &Endpoint,
    path: &str,
    mut after: String,
    trace: &Trace,
    signals: &mut Signals,
) -> Outcome {
    let end = Instant::now() + trace.long;
    let mut told = String::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let is_over = ms(left) == 0;
        match settled(signals, look(to, path, &after, left)).await {
            None => return Ok(()),
            Some(Ok(steps)) => {
                told.clear();
                if let Some(last) = steps.last().and_then(|step| step["place"].as_str()) {
                    after = last.to_owned();
                    tokio::select! {
                        () = signals.next() => return Ok(()),
                        printed = print_aside(lines(steps, trace.json)) => printed?,
                    }
                    continue; // there may be more
                }
            }
            Some(Err(Failure::Failed(reason))) if !is_over => {
                if told != reason {
                    say(&reason);
                    told = reason;
                }
            }
            Some(Err(failure)) => return Err(failure),
        }
        if is_over {
            return Ok(());
        }
        tokio::select! {
            () = signals.next() => return Ok(()),
            () = sleep(EVERY.min(left)) => {}
        }
    }
}

/// The steps after a place, as they were written down. For the time that is left the user is followed on: whoever else
/// did so may have ended it, and a Redis that was started anew knows of nobody.
async fn look(to: &Endpoint, path: &str, after: &str, left: Duration) -> Result<Vec<Step>, Failure> {
    if ms(left) > 0 {
        begin(to, path, left).await?;
    }
    let page = wire::http(to, Method::GET, &format!("{path}?after={after}"), None).await?;
    let page: Page = serde_json::from_slice(&page)
        .map_err(|error| Failure::Failed(format!("{to} answered with something else than steps: {error}")))?;
    Ok(page.steps)
}

/// Nodes write down what they saw a moment later; when it happened is what counts here.
fn lines(mut steps: Vec<Step>, json: bool) -> String {
    steps.sort_by_key(|step| micros(step.get("at")));
    let mut lines = String::new();
    for step in steps {
        lines += &if json { Value::Object(step).to_string() } else { line(&step) };
        lines.push('\n');
    }
    lines
}

/// Unix µs of `<ms>.<µs>`.
fn micros(at: Option<&Value>) -> u64 {
    let digits = at.and_then(Value::as_str).unwrap_or_default().replace('.', "");
    digits.parse().unwrap_or_default()
}

fn line(step: &Step) -> String {
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
