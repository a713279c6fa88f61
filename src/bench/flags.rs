//! The flags of `switchboard bench`, and what its help says.

/// A flag of `switchboard bench`.
#[derive(Debug)]
pub struct Flag {
    /// Its name.
    pub name: &'static str,
    /// What its value is; none where it has none.
    pub value: Option<&'static str>,
    /// Where it is left out.
    pub default: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
}

const fn flag(
    name: &'static str,
    value: Option<&'static str>,
    default: Option<&'static str>,
    help: &'static str,
) -> Flag {
    Flag { name, value, default, help }
}

/// Every flag of its own, in the order of the help.
pub const FLAGS: &[Flag] = &[
    flag("users", Some("COUNT"), Some("1000"), "Users, named <user-prefix>0 and so on"),
    flag(
        "sessions",
        Some("COUNT"),
        Some("1"),
        "Sessions (sockets) of each user, on one node after the other",
    ),
    flag(
        "rate",
        Some("EVENTS"),
        Some("1000"),
        "Events a second, sent when they are due whatever came of those before; `max`: as many as --window allows; 0: \
         none, sockets are held only",
    ),
    flag("window", Some("EVENTS"), Some("2048"), "With --rate max: events that may be on their way at once"),
    flag("payload", Some("BYTES"), Some("200"), "Size of an event's data"),
    flag("duration", Some("TIME"), Some("10s"), "How long to publish, or to hold the sockets"),
    flag("warm-up", Some("TIME"), Some("2s"), "How long to publish before that without measuring"),
    flag(
        "settle",
        Some("TIME"),
        Some("1s"),
        "Rest between connecting and publishing; memory is read at its end",
    ),
    flag(
        "via",
        Some("WAY"),
        Some("worker"),
        "How events are published: worker (WebSocket), http (POST /publish, on connections that each wait for every \
         answer) or xadd",
    ),
    flag(
        "publishers",
        Some("COUNT"),
        Some("1"),
        "Connections that publish, to each node and from each process; with --via http, sixteen times as many",
    ),
    flag(
        "answers",
        None,
        None,
        "Ask for an answer to every event and measure those too (worker; http and xadd always do)",
    ),
    flag(
        "reconnect",
        None,
        None,
        "Sockets that break come back, to the next node, with the last id as `since`",
    ),
    flag("connecting", Some("COUNT"), Some("256"), "Sockets that each process has on their way in at once"),
    flag("processes", Some("COUNT"), None, "Processes that make the load [default: as open files require]"),
    flag("user-prefix", Some("TEXT"), Some("bench-"), "What the users' names begin with"),
    flag("watch-pid", Some("PIDS"), None, "Processes whose CPU time and memory are reported, with commas"),
    flag("protocol", Some("NAME"), Some("switchboard"), "What clients speak: switchboard or socket.io"),
    flag("json", None, None, "Print one JSON object"),
];

/// Settings that say where the nodes are, and how they are put in the help.
pub const NODES: &[(&str, &str)] = &[
    ("client-url", "Where clients connect: one address for each node, with commas"),
    ("worker-url", "Where workers connect: one address for each node, in the same order"),
    ("client-port", "Without a URL: the port of one node's clients, on this machine"),
    ("worker-port", "Without a URL: the port of its workers, on this machine"),
    ("bind", "Without a URL: the address of both, on this machine"),
    ("worker-token", "The first of these opens the worker port"),
    ("redis-url", "With --via xadd: where the streams are"),
    ("key-prefix", "With --via xadd: what stands before their keys"),
    ("ingress", "With --via xadd: the streams, with commas; all events of a user go onto one of them"),
];

/// Prints after the flags.
pub const HELP: &str = "Each session is a socket of its own. User n has its first session on node n (counted round), and \
its events are published at the node after that, so that with two nodes every event travels between them. Sockets to \
loopback addresses come from 127.0.0.1 to 127.0.0.250, 1,000 from each.

With a rate, latency counts from when an event was due, not from when it could be sent: a relay that falls behind \
cannot hide that. Events are numbered per user, so every lost, doubled or disordered one is seen; what has not come 15 s \
after the last that came is lost.

  switchboard bench --users 1000 --rate 2000
  switchboard bench --client-url ws://10.0.0.1:4000,ws://10.0.0.2:4000 --worker-url ws://10.0.0.1:4001,ws://10.0.0.2:4001
  switchboard bench --users 20000 --rate 0 --duration 60s --watch-pid \"$(pidof switchboard)\"
  switchboard bench --users 1000 --rate max --watch-pid \"$(pidof redis-server switchboard)\" --json";
