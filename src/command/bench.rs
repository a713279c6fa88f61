//! `switchboard bench`: load and latency.

use std::collections::HashMap;

use super::endpoint::{Endpoint, worker_token};
use super::{Failure, Outcome, print};
use crate::bench::plan::{Plan, Via};
use crate::bench::{self, share};
use crate::settings;
use crate::settings::read::{Reader, Source};
use crate::settings::redis::Redis;
use crate::settings::table::SETTINGS;

/// What was asked for: flags and their values; those that have none have an empty one.
#[derive(Debug, Default)]
pub struct Bench {
    /// By name, without dashes.
    pub flags: HashMap<&'static str, String>,
}

/// Measures and prints what came of it; or, in a process that another one started, does its share.
///
/// # Errors
/// Where flags are off, or nothing could be measured.
pub fn run(mut reader: Reader, asked: &Bench) -> Outcome {
    let here = here(&mut reader)?;
    let value = |name: &str| match asked.flags.get(name) {
        Some(value) => Some(value.clone()),
        None => here.get(name).cloned().or_else(|| reader.given(name).map(str::to_owned)),
    };
    let plan =
        Plan::read(&value, settings::open_files()).map_err(|mistakes| Failure::Usage(mistakes.join("\n")))?;
    let redis = match plan.via {
        Via::Xadd => Some(redis(&mut reader)?),
        Via::Worker | Via::Http => worker_token(&mut reader).map(|_| None)?, // the plan has it
    };
    if let Ok(share) = std::env::var(bench::SHARE) {
        let (number, run) = bench::share_of(&share).ok_or(Failure::Told)?;
        // A thread of its own, because a runtime of its own.
        let served = std::thread::spawn(move || share::serve(plan, number, run, redis)).join();
        return served.map_err(|_| Failure::Told)?.map_err(|error| Failure::Failed(error.to_string()));
    }
    let report = bench::run(&plan, &from_files(&reader)).map_err(Failure::Failed)?;
    print(&if plan.json {
        serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
    } else {
        report.to_string()
    })
}

/// The ports of the node on this machine, for those that no URL names.
fn here(reader: &mut Reader) -> Result<HashMap<&'static str, String>, Failure> {
    let mut here = HashMap::new();
    // A URL may be several, with commas.
    if !Endpoint::is_by_url(reader, "client-url", "client-port") {
        here.insert("client-url", format!("ws://{}", Endpoint::client(reader, None)?.authority()));
    }
    if !Endpoint::is_by_url(reader, "worker-url", "worker-port") {
        here.insert("worker-url", format!("ws://{}", Endpoint::worker(reader)?.authority()));
    }
    Ok(here)
}

/// The secrets that files hold, by the names that they have in the environment.
fn from_files(reader: &Reader) -> Vec<(&'static str, String)> {
    let of_files = SETTINGS.iter().filter(|setting| reader.source(setting.flag) == Source::File);
    of_files.filter_map(|setting| Some((setting.env, reader.given(setting.flag)?.to_owned()))).collect()
}

/// Where the ingress streams are.
fn redis(reader: &mut Reader) -> Result<Redis, Failure> {
    let redis = reader.checked(settings::redis::read).map_err(Failure::Usage)?;
    redis.ok_or_else(|| Failure::Usage("--via xadd needs --redis-url".to_owned()))
}
