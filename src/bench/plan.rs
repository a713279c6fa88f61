//! What a run is asked to do: its [flags](super::flags), read and checked.

use std::time::Duration;

use serde_json::Value;

use super::flags::FLAGS;
use super::wire::Address;

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

/// Files that a process needs besides its sockets.
const OTHER_FILES: usize = 100;

/// Least size of an event's data: its number and its time must fit.
pub const LEAST_PAYLOAD: usize = 64;

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

    fn count(&mut self, name: &str, least: usize) -> usize {
        let count = self.parsed(name, &format!("a number from {least} is allowed"), |text| {
            text.parse().ok().filter(|count| *count >= least)
        });
        count.unwrap_or(least)
    }

    fn time(&mut self, name: &str) -> Duration {
        self.parsed(name, "a time such as 10s or 500ms is allowed", |text| {
            humantime::parse_duration(text).ok()
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
        let window = flags.count("window", 1);
        let pace =
            flags.parsed("rate", "a number of events a second, 0 or max is allowed", |text| match text {
                "max" => Some(Pace::Window(window as u64)),
                rate => match rate.parse::<f64>().ok()? {
                    0.0 => Some(Pace::Idle),
                    rate if rate > 0.0 && rate.is_finite() => Some(Pace::Rate(rate)),
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
        let watch = flags.parsed("watch-pid", "process ids with commas are allowed", |text| {
            text.split([',', ' ']).filter(|pid| !pid.is_empty()).map(|pid| pid.parse().ok()).collect()
        });
        let (users, sessions) = (flags.count("users", 1), flags.count("sessions", 1));
        let needed = (users * sessions).div_ceil(open_files.saturating_sub(OTHER_FILES).max(1));
        let processes = if flags.given("processes") { flags.count("processes", 1) } else { needed };
        let plan = Self {
            clients: flags.addresses("client-url"),
            workers: flags.addresses("worker-url"),
            token: (value)("worker-token")
                .and_then(|tokens| Some(tokens.split(',').next()?.trim().to_owned())),
            users,
            sessions,
            pace: pace.unwrap_or(Pace::Idle),
            payload: flags.count("payload", LEAST_PAYLOAD),
            duration: flags.time("duration"),
            warm_up: flags.time("warm-up"),
            settle: flags.time("settle"),
            via: via.unwrap_or(Via::Worker),
            publishers: flags.count("publishers", 1),
            answers: flags.given("answers"),
            reconnect: flags.given("reconnect"),
            connecting: flags.count("connecting", 1),
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
        let nodes = self.clients.len();
        let many = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        format!(
            "{}, {} each, {} nodes, {pace} of {} bytes{via}",
            many(self.users, "user"),
            many(self.sessions, "session"),
            nodes,
            self.payload
        )
        .replace(" 1 nodes", " 1 node")
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
        assert_eq!(plan.pace, Pace::Window(2048));
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
}
