//! What a run is asked to do: its [flags](super::flags), read and checked.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use super::flags::FLAGS;
use super::http::CONNECTIONS;
use super::wire::Address;
use crate::settings::read::{DAY, duration, first_token};

/// How events come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A worker's WebSocket.
    Worker,
    /// `POST /publish`, one event each.
    Http,
    /// The ingress stream.
    Xadd,
}

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Events a second, over all processes.
    Rate(f64),
    /// As fast as so many on their way allow, over all processes.
    Window(u64),
    /// Not at all.
    Idle,
}

/// What clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// This relay's frames; a service that sends plain JSON frames of the same form will do.
    Switchboard,
    /// Socket.IO 4 over WebSocket.
    SocketIo,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where clients connect, one for each node.
    pub clients: Vec<Address>,
    /// Where workers connect, one for each node.
    pub workers: Vec<Address>,
    /// Opens the worker port.
    pub token: Option<String>,
    /// Users, over all processes.
    pub users: usize,
    /// Sessions of each.
    pub sessions: usize,
    /// How fast.
    pub pace: Pace,
    /// Bytes of an event's data.
    pub payload: usize,
    /// Of the measured part.
    pub duration: Duration,
    /// Before it.
    pub warm_up: Duration,
    /// Before that.
    pub settle: Duration,
    /// How events come in.
    pub via: Via,
    /// Connections to each node that publish.
    pub publishers: usize,
    /// Every event is answered.
    pub answers: bool,
    /// Sockets that break come back.
    pub reconnect: bool,
    /// Sockets on their way in at once.
    pub connecting: usize,
    /// Processes that make the load.
    pub processes: usize,
    /// Before a user's number.
    pub user_prefix: String,
    /// Processes that are watched.
    pub watch: Vec<u32>,
    /// What clients speak.
    pub protocol: Protocol,
    /// For machines.
    pub json: bool,
}

/// Files that a process needs besides its sockets and the connections that publish.
const OTHER_FILES: usize = 40;
/// What is set aside for all of these, at least.
const SET_ASIDE: usize = 100;

/// Least size of an event's data: its number, its run and its time must fit.
pub const LEAST_PAYLOAD: usize = 64;
/// Largest: no node can be set to take more.
const MOST_PAYLOAD: usize = 64 << 20;
/// Sockets of a run, all told: more than the ports and the memory of one machine are good for.
const MOST_SOCKETS: usize = 10_000_000;
/// Connections that publish to a node, from each process; by HTTP each of them stands for sixteen.
const MOST_PUBLISHERS: usize = 1_000;
/// Processes of a run: far more than a machine has cores, and the starter has a thread for each.
const MOST_PROCESSES: usize = 1_000;
/// Events a second, and events on their way at once: more than a machine can make.
const MOST_EVENTS: u32 = 10_000_000;

/// Reads flags one by one and gathers what is wrong with them.
struct Reading<'a> {
    value: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<String>,
}

impl Reading<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let default = || FLAGS.iter().find(|flag| flag.name == name)?.default.map(str::to_owned);
        (self.value)(name).or_else(default)
    }

    fn parsed<T>(&mut self, name: &str, allowed: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let parsed = parse(text.trim());
        if parsed.is_none() {
            self.mistakes.push(format!("--{name} {text:?}: {allowed}"));
        }
        parsed
    }

    fn count(&mut self, name: &str, least: usize, most: usize) -> usize {
        let count = self.parsed(name, &format!("a number from {least} to {most} is allowed"), |text| {
            text.parse().ok().filter(|count| (least..=most).contains(count))
        });
        count.unwrap_or(least)
    }

    fn time(&mut self, name: &str) -> Duration {
        self.parsed(name, "a time such as 10s or 500ms, up to 1day, is allowed", |text| {
            duration(text).filter(|time| *time <= DAY)
        })
        .unwrap_or_default()
    }

    fn given(&self, name: &str) -> bool {
        (self.value)(name).is_some()
    }

    fn addresses(&mut self, name: &str) -> Vec<Address> {
        let urls = (self.value)(name).unwrap_or_default();
        let found: Result<Vec<Address>, String> =
            urls.split(',').map(|url| Address::find(url.trim())).collect();
        found.unwrap_or_else(|mistake| {
            self.mistakes.push(format!("--{name}: {mistake}"));
            Vec::new()
        })
    }
}

impl Plan {
    /// Reads flags; those without a value are there where they have any. Where the nodes are, somebody has to say: the
    /// URLs have no default here. `open_files` is how many a process may have.
    ///
    /// # Errors
    /// One line for each mistake.
    pub fn read(value: &dyn Fn(&str) -> Option<String>, open_files: usize) -> Result<Self, Vec<String>> {
        let mut flags = Reading { value, mistakes: Vec::new() };
        let window = flags.count("window", 1, MOST_EVENTS as usize);
        let allowed = format!("a number of events a second up to {MOST_EVENTS}, 0 or max is allowed");
        let pace = flags.parsed("rate", &allowed, |text| match text {
            "max" => Some(Pace::Window(window as u64)),
            rate => match rate.parse::<f64>().ok()? {
                0.0 => Some(Pace::Idle),
                rate if rate > 0.0 && rate <= f64::from(MOST_EVENTS) => Some(Pace::Rate(rate)),
                _ => None,
            },
        });
        let via = flags.parsed("via", "worker, http and xadd are allowed", |text| match text {
            "worker" => Some(Via::Worker),
            "http" => Some(Via::Http),
            "xadd" => Some(Via::Xadd),
            _ => None,
        });
        let protocol = flags.parsed("protocol", "switchboard and socket.io are allowed", |text| match text {
            "switchboard" => Some(Protocol::Switchboard),
            "socket.io" => Some(Protocol::SocketIo),
            _ => None,
        });
        let watch = flags.parsed("watch-pid", "one or more process ids with commas are allowed", |text| {
            let pids = text.split([',', ' ']).filter(|pid| !pid.is_empty()).map(|pid| pid.parse().ok());
            let mut pids: Vec<u32> = pids.collect::<Option<_>>()?;
            let mut seen = HashSet::new();
            pids.retain(|pid| seen.insert(*pid));
            Some(pids).filter(|pids| !pids.is_empty())
        });
        let (users, sessions) =
            (flags.count("users", 1, MOST_SOCKETS), flags.count("sessions", 1, MOST_SOCKETS));
        let sockets = users.saturating_mul(sessions);
        if sockets > MOST_SOCKETS {
            flags.mistakes.push(format!(
                "--users {users} and --sessions {sessions}: {MOST_SOCKETS} sockets, all told, are allowed"
            ));
        }
        let publishers = flags.count("publishers", 1, MOST_PUBLISHERS);
        let of_each = if via == Some(Via::Http) { CONNECTIONS } else { 1 };
        let nodes = value("worker-url").map_or(1, |urls| urls.split(',').count());
        let others = SET_ASIDE.max(OTHER_FILES + publishers * nodes * of_each);
        let processes = if flags.given("processes") {
            flags.count("processes", 1, MOST_PROCESSES)
        } else {
            sockets.min(MOST_SOCKETS).div_ceil(open_files.saturating_sub(others).max(1))
        };
        if processes > MOST_PROCESSES {
            flags.mistakes.push(format!(
                "--users {users} and --sessions {sessions}: with {open_files} open files each, that takes {processes} \
                 processes, and {MOST_PROCESSES} are allowed"
            ));
        }
        let plan = Self {
            clients: flags.addresses("client-url"),
            workers: flags.addresses("worker-url"),
            token: value("worker-token").as_deref().and_then(first_token).map(str::to_owned),
            users,
            sessions,
            pace: pace.unwrap_or(Pace::Idle),
            payload: flags.count("payload", LEAST_PAYLOAD, MOST_PAYLOAD),
            duration: flags.time("duration"),
            warm_up: flags.time("warm-up"),
            settle: flags.time("settle"),
            via: via.unwrap_or(Via::Worker),
            publishers,
            answers: flags.given("answers"),
            reconnect: flags.given("reconnect"),
            connecting: flags.count("connecting", 1, MOST_SOCKETS),
            processes: processes.clamp(1, users),
            user_prefix: flags.text("user-prefix").unwrap_or_default(),
            watch: watch.unwrap_or_default(),
            protocol: protocol.unwrap_or(Protocol::Switchboard),
            json: flags.given("json"),
        };
        if plan.clients.len() != plan.workers.len() && !plan.clients.is_empty() && !plan.workers.is_empty() {
            flags.mistakes.push(format!(
                "--client-url names {} nodes and --worker-url {}: give one address of each for every node",
                plan.clients.len(),
                plan.workers.len()
            ));
        }
        // The last is the longest.
        if let Err(invalid) = plan.user(users - 1).parse::<crate::id::UserId>() {
            let prefix = &plan.user_prefix;
            flags
                .mistakes
                .push(format!("--user-prefix {prefix:?}: with a user's number after it, {invalid}"));
        }
        if flags.mistakes.is_empty() { Ok(plan) } else { Err(flags.mistakes) }
    }

    /// A user's name.
    pub fn user(&self, number: usize) -> String {
        format!("{}{number}", self.user_prefix)
    }

    /// The same as JSON: a quote or a backslash is allowed in it.
    pub fn user_json(&self, number: usize) -> String {
        Value::from(self.user(number)).to_string()
    }

    /// The users of one of [`Plan::processes`] shares.
    pub fn share(&self, share: usize) -> std::ops::Range<usize> {
        let at = |share: usize| self.users * share / self.processes;
        at(share)..at(share + 1)
    }

    /// What is measured, in words.
    pub fn words(&self) -> String {
        let pace = match self.pace {
            Pace::Rate(rate) => format!("{rate} events a second"),
            Pace::Window(window) => format!("as many events as {window} on their way allow"),
            Pace::Idle => "no events".to_owned(),
        };
        let via = match self.via {
            _ if self.pace == Pace::Idle => "",
            Via::Worker if self.answers => " by worker socket, answered",
            Via::Worker => " by worker socket",
            Via::Http => " by HTTP",
            Via::Xadd => " by XADD",
        };
        let many = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        format!(
            "{}, {} each, {}, {pace} of {} bytes{via}",
            many(self.users, "user"),
            many(self.sessions, "session"),
            many(self.clients.len(), "node"),
            self.payload
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&str, &str)]) -> Result<Plan, Vec<String>> {
        let nodes = [("client-url", "ws://127.0.0.1:4000"), ("worker-url", "ws://127.0.0.1:4001")];
        let value = |name: &str| {
            flags.iter().chain(&nodes).find(|(flag, _)| *flag == name).map(|(_, value)| (*value).to_owned())
        };
        Plan::read(&value, 1100)
    }

    #[test]
    fn defaults_do_and_shares_are_whole() {
        let plan = read(&[]).unwrap();
        assert_eq!((plan.users, plan.sessions, plan.processes), (1000, 1, 1));
        assert_eq!((plan.pace, plan.via), (Pace::Rate(1000.0), Via::Worker));
        let plan = read(&[("users", "1001"), ("sessions", "2"), ("rate", "max")]).unwrap();
        assert_eq!(plan.processes, 3, "1,000 sockets fit into a process");
        let flags = [("users", "1000"), ("via", "http"), ("publishers", "10")];
        assert_eq!(read(&flags).unwrap().processes, 2, "160 connections publish besides");
        assert_eq!(read(&[("watch-pid", "5,6 5")]).unwrap().watch, [5, 6]);
        assert!(read(&[("watch-pid", "")]).unwrap_err()[0].contains("one or more"));
        assert_eq!(plan.pace, Pace::Window(2048));
        let token = |tokens| read(&[("worker-token", tokens)]).unwrap().token;
        assert_eq!(token("first-one, second").as_deref(), Some("first-one"));
        assert_eq!(token(" ,abc").as_deref(), Some("abc"), "as other commands read it");
        assert_eq!(token("none"), None);
        let shares: Vec<usize> = (0..3).flat_map(|share| plan.share(share)).collect();
        assert_eq!(shares, (0..1001).collect::<Vec<_>>());
    }

    #[test]
    fn every_mistake_is_told_with_what_is_allowed() {
        let mistakes = read(&[
            ("users", "0"),
            ("rate", "-1"),
            ("payload", "10"),
            ("duration", "soon"),
            ("via", "mail"),
            ("protocol", "x"),
            ("watch-pid", "a"),
            ("client-url", "wss://x:1"),
            ("user-prefix", "a b"),
        ])
        .unwrap_err();
        assert_eq!(mistakes.len(), 9, "{mistakes:?}");
        assert!(mistakes[8].contains("printable ASCII"), "{mistakes:?}");
        let long = "u".repeat(127);
        assert!(read(&[("user-prefix", &long), ("users", "10")]).is_ok());
        assert!(read(&[("user-prefix", &long), ("users", "11")]).is_err(), "the last has two digits");
        let uneven = read(&[("client-url", "ws://127.0.0.1:1,ws://127.0.0.1:2")]).unwrap_err();
        assert!(uneven[0].contains("every node"), "{uneven:?}");
    }
    #[test]
    fn nothing_is_asked_for_that_would_never_end() {
        let huge = "99999999999";
        for (flag, value, allowed) in [
            ("users", huge, "from 1 to 10000000"),
            ("sessions", huge, "from 1 to 10000000"),
            ("window", "18446744073709551615", "from 1 to 10000000"),
            ("connecting", "18446744073709551615", "from 1 to 10000000"),
            ("publishers", huge, "from 1 to 1000"),
            ("processes", huge, "from 1 to 1000"),
            ("payload", huge, "from 64 to 67108864"),
            ("rate", "1e300", "up to 10000000"),
            ("rate", "inf", "up to 10000000"),
            ("duration", "99999999999d", "up to 1day"),
            ("warm-up", "25h", "up to 1day"),
            ("settle", "25h", "up to 1day"),
        ] {
            let mistakes = read(&[(flag, value)]).unwrap_err().join("\n");
            assert!(mistakes.starts_with(&format!("--{flag} {value:?}: ")), "{mistakes}");
            assert!(mistakes.contains(allowed) && !mistakes.contains('\n'), "{mistakes}");
        }
        let most = [("duration", "1d"), ("payload", "67108864"), ("rate", "10000000"), ("users", "1000000")];
        assert_eq!(read(&most).unwrap().processes, 1000);
        let product =
            read(&[("users", "10000000"), ("sessions", "10000000"), ("processes", "1")]).unwrap_err();
        assert!(product[0].contains("--users 10000000 and --sessions 10000000: "), "{product:?}");
        let processes = read(&[("users", "1000001")]).unwrap_err();
        assert!(processes[0].contains("takes 1001 processes"), "{processes:?}");
    }
}
