//! `switchboard bench`: how many, how fast, and whether all of it arrives.
//!
//! | file | what it is |
//! |---|---|
//! | `flags`, `plan` | how a run is asked for; the same, checked |
//! | `share`, `load` | one process's share of the load, on one thread; what its parts have in common |
//! | `session`, `ledger` | a socket that counts what it reads; what it should have read |
//! | `publisher`, `worker`, `http`, `feed`, `pacer` | the ways in, and sending when an event is due |
//! | `event` | its data: its number, its run, its time |
//! | `wire` | WebSocket frames and handshake, as little of them as will do |
//! | `watch`, `report` | what the measured processes cost; what a run found |
//!
//! The load comes from processes of their own, as many as the limit on open files makes necessary: this program, with
//! the same flags, and a share to do in its environment. This one starts them, has them go through the steps together, and adds up.

mod event;
mod feed;
pub mod flags;
mod http;
mod ledger;
mod load;
mod pacer;
pub mod plan;
mod publisher;
pub mod report;
mod session;
pub mod share;
mod watch;
mod wire;
mod worker;

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use load::Count;
use plan::{Pace, Plan};
use report::{Connect, Latency, Report, grouped};
use share::{Told, merged};
use watch::{Cost, Sample};

use crate::logging;

/// What in its environment makes a process do a share: `<number>/<run>`.
pub const SHARE: &str = "SWITCHBOARD_BENCH_SHARE";

/// Longest silence of a process: connecting and draining tell of their progress all the while.
const SILENCE: Duration = Duration::from_secs(120);

/// A share's number and its run, from the value of that.
pub fn share_of(value: &str) -> Option<(usize, String)> {
    let (number, run) = value.split_once('/')?;
    Some((number.parse().ok()?, run.to_owned()))
}

/// The processes that make the load.
struct Shares {
    children: Vec<(Child, ChildStdin)>,
    told: mpsc::Receiver<(usize, Told)>,
    /// Told before it was awaited: one may be done before another has begun to measure.
    early: Vec<Told>,
    /// Progress of each: delivered, sockets.
    progress: Vec<(u64, usize)>,
    terminal: bool,
    started: Instant,
}

impl Drop for Shares {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            // One that has ended by itself is only waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Shares {
    fn start(processes: usize, quiet: bool, secrets: &[(&str, String)]) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("a process for the load cannot be started: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let run = format!("{:08x}", fastrand::u32(..));
        let (sender, told) = mpsc::channel();
        let mut children = Vec::new();
        for number in 0..processes {
            let mut child = Command::new(&program)
                .args(std::env::args_os().skip(1))
                .env(SHARE, format!("{number}/{run}"))
                // A file may be a pipe, which can be read once.
                .envs(secrets.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(failed)?;
            let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
                return Err("a process for the load has no pipes".to_owned());
            };
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(from).lines() {
                    let Ok(line) = line else { break };
                    let told = serde_json::from_str(&line).unwrap_or(Told::Failed(line));
                    if sender.send((number, told)).is_err() {
                        return;
                    }
                }
                let _ = sender.send((number, Told::Failed("a process for the load ended".to_owned())));
            });
            children.push((child, to));
        }
        let terminal = !quiet && std::io::stderr().is_terminal();
        let progress = vec![(0, 0); processes];
        Ok(Self { children, told, early: Vec::new(), progress, terminal, started: Instant::now() })
    }

    fn say(&mut self, step: &str) {
        for (_, to) in &mut self.children {
            // One that has gone has said why, or its silence says so.
            let _ = writeln!(to, "{step}");
        }
        self.started = Instant::now();
    }

    /// Waits until `take` has taken something from every process. What it hands back is kept for the next step.
    fn all<T>(&mut self, mut take: impl FnMut(Told) -> Result<T, Told>) -> Result<Vec<T>, String> {
        let mut taken = Vec::new();
        for told in std::mem::take(&mut self.early) {
            match take(told) {
                Ok(wanted) => taken.push(wanted),
                Err(told) => self.early.push(told),
            }
        }
        while taken.len() < self.children.len() {
            match self.told.recv_timeout(SILENCE) {
                Ok((_, Told::Failed(reason))) => return Err(reason),
                Ok((number, Told::Progress(delivered, sockets))) => {
                    self.progress[number] = (delivered, sockets);
                    self.show();
                }
                Ok((_, told)) => match take(told) {
                    Ok(wanted) => taken.push(wanted),
                    Err(told) => self.early.push(told),
                },
                Err(_) => return Err("a process for the load does not answer".to_owned()),
            }
        }
        Ok(taken)
    }

    fn show(&self) {
        if self.terminal {
            let (delivered, sockets) = self.progress.iter().fold((0, 0), |(d, s), p| (d + p.0, s + p.1));
            logging::show(&format!(
                "\r\x1b[K{:>4} s   {} sockets   {} delivered",
                self.started.elapsed().as_secs(),
                grouped(sockets as f64),
                grouped(delivered as f64)
            ));
        }
    }

    fn clear(&self) {
        if self.terminal {
            logging::show("\r\x1b[K");
        }
    }
}

/// The watched processes over a run.
struct Watch {
    pids: Vec<u32>,
    /// Before the sockets, with them idle, when measuring began, and when it was over.
    looks: Vec<Vec<Sample>>,
}

impl Watch {
    fn look(&mut self) -> Result<(), String> {
        let looks = match self.looks.last() {
            None => self.pids.iter().map(|pid| watch::look(*pid)).collect::<Result<_, _>>()?,
            Some(last) => watch::look_again(&self.pids, last),
        };
        self.looks.push(looks);
        Ok(())
    }

    fn costs(&self, delivered: u64) -> Vec<Cost> {
        let [before, idle, from, end] = self.looks.as_slice() else { return Vec::new() };
        let costs = self.pids.iter().enumerate().map(|(at, pid)| {
            // Nobody knows what one that ended took after it was last seen.
            let cpu_seconds = (!end[at].ended).then(|| end[at].cpu - from[at].cpu);
            let over = |kib: fn(&Sample) -> u64| [&before[at], &idle[at], &end[at]].map(kib);
            Cost {
                pid: *pid,
                name: end[at].name.clone(),
                ended: end[at].ended,
                cpu_seconds,
                cpu_seconds_per_100_000: per_100_000(cpu_seconds, delivered),
                resident_kib: over(|sample| sample.resident),
                anonymous_kib: over(|sample| sample.anonymous),
            }
        });
        costs.collect()
    }
}

/// The first trouble, and what else has to be said.
fn troubles(first: Option<String>, counts: &[Box<Count>]) -> Option<String> {
    let first = first.or_else(|| counts.iter().find_map(|count| count.trouble.clone()));
    let unanswered: u64 = counts.iter().map(|count| count.unanswered).sum();
    let unanswered =
        (unanswered > 0).then(|| format!("{} events were not answered", grouped(unanswered as f64)));
    let all: Vec<String> = first.into_iter().chain(unanswered).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn per_100_000(cpu_seconds: Option<f64>, delivered: u64) -> Option<f64> {
    cpu_seconds.filter(|_| delivered > 0).map(|seconds| seconds * 1e5 / delivered as f64)
}

/// Measures. Takes as long as the plan says, and blocks its thread for that. `secrets` are what was read from files, by
/// the names that they have in the environment.
///
/// # Errors
/// What kept it from measuring, in words.
pub fn run(plan: &Plan, secrets: &[(&str, String)]) -> Result<Report, String> {
    let mut watch = Watch { pids: plan.watch.clone(), looks: Vec::new() };
    let mut shares = Shares::start(plan.processes, plan.json, secrets)?;
    shares.all(|told| if matches!(told, Told::Ready) { Ok(()) } else { Err(told) })?;
    watch.look()?;

    shares.say("connect");
    let mut connect = Connect::default();
    let mut trouble = None;
    let connected = shares.all(|told| match told {
        Told::Connected { sockets, failed, seconds, trouble } => Ok((sockets, failed, seconds, trouble)),
        other => Err(other),
    })?;
    for (sockets, failed, seconds, its_trouble) in connected {
        connect.sockets += sockets;
        connect.failed += failed;
        connect.seconds = connect.seconds.max(seconds);
        trouble = trouble.or(its_trouble);
    }
    if connect.sockets == 0 {
        return Err(trouble.unwrap_or_else(|| "no socket got in".to_owned()));
    }
    connect.per_second = connect.sockets as f64 / connect.seconds.max(1e-6);
    std::thread::sleep(plan.settle);
    watch.look()?;

    shares.say("go");
    shares.all(|told| if matches!(told, Told::Measuring) { Ok(()) } else { Err(told) })?;
    watch.look()?;
    shares.all(|told| if matches!(told, Told::Measured) { Ok(()) } else { Err(told) })?;
    watch.look()?;
    let counts = shares.all(|told| match told {
        Told::Done(count) => Ok(count),
        other => Err(other),
    })?;
    shares.clear();
    sum(plan, connect, trouble, &counts, &watch).map_err(|error| error.to_string())
}

fn sum(
    plan: &Plan,
    connect: Connect,
    trouble: Option<String>,
    counts: &[Box<Count>],
    watch: &Watch,
) -> Result<Report, hdrhistogram::CreationError> {
    let total = |of: fn(&Count) -> u64| counts.iter().map(|count| of(count)).sum::<u64>();
    let seconds = plan.duration.as_secs_f64();
    let rate = |events: u64| if seconds > 0.0 { events as f64 / seconds } else { 0.0 };
    let measured = total(|count| count.measured);
    let watched = watch.costs(measured);
    let cpu: Option<f64> = watched.iter().map(|cost| cost.cpu_seconds).sum();
    let grown: i64 = watched
        .iter()
        .map(|cost| cost.anonymous_kib[1].cast_signed() - cost.anonymous_kib[0].cast_signed())
        .sum();
    Ok(Report {
        what: plan.words(),
        published: total(|count| count.published),
        published_per_second: rate(total(|count| count.published_measured)),
        refused: total(|count| count.refused),
        delivered: total(|count| count.delivered),
        delivered_per_second: rate(measured),
        latency_ms: Latency::of(&merged(counts.iter().map(|count| &count.latencies))?),
        answer_ms: Latency::of(&merged(counts.iter().map(|count| &count.answers))?),
        lost: total(|count| count.lost),
        duplicated: total(|count| count.duplicated),
        out_of_order: total(|count| count.out_of_order),
        of_other_runs: total(|count| count.of_other_runs),
        gaps: total(|count| count.gaps),
        broken: total(|count| count.broken),
        away_ms: Latency::of(&merged(counts.iter().map(|count| &count.returns))?),
        cpu_seconds_per_100_000: (!watched.is_empty() && plan.pace != Pace::Idle)
            .then(|| per_100_000(cpu, measured))
            .flatten(),
        idle_kib_per_session: (!watched.is_empty()).then(|| grown as f64 / connect.sockets as f64),
        watched,
        trouble: troubles(trouble, counts),
        connect,
    })
}
