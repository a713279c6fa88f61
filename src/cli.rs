//! The command line: the one place that knows how things are asked for. What they do is said elsewhere.

use clap::{Arg, ArgAction, ArgMatches, Command};
use clap_complete::Shell;

use crate::bench::flags as bench_flags;
use crate::command::bench::Bench;
use crate::command::check::Check;
use crate::command::publish::{Event, Publish};
use crate::command::status;
use crate::command::tail::Tail;
use crate::command::trace::Trace;
use crate::settings::dot_env;
use crate::settings::read::{self, Reader};
use crate::settings::table::{HIDDEN, SETTINGS, setting};
use crate::trace::LONGEST;

/// What to do.
pub enum Cli {
    /// Run a node with what was given.
    Serve(Reader),
    /// Ask a node whether it is alive.
    Health(Reader),
    /// Show the settings.
    Check(Reader, Check),
    /// Publish an event, or many.
    Publish(Reader, Box<Publish>),
    /// Measure.
    Bench(Reader, Bench),
    /// Connect as a user.
    Tail(Reader, Tail),
    /// Show nodes and streams.
    Status(Reader, status::Asked),
    /// Follow a user.
    Trace(Reader, Trace),
    /// Print a text, and that is all.
    Print(String),
}

const AFTER_HELP: &str = "Every setting is a flag and an environment variable: a flag wins over the environment, the \
environment over .env in the working directory. Secrets may come from files: <NAME>_FILE names one. Times are \
written 500ms, 10s, 5m; sizes 64KiB, 1MiB.\n\n\
Exit status: 0 after a drain, 1 where the node could not start, failed, lost its id to another, or was asked again \
while it drained, 2 where settings are off.";

/// Settings that matter to a subcommand, each with what it means there.
type Matter = &'static [(&'static str, &'static str)];

/// Where a command that is a client finds its node.
const CLIENT_PORT: Matter = &[
    ("client-url", "The node's client port: ws://, wss://, http:// or https://"),
    ("client-port", "Without a URL: the port, on this machine"),
    ("bind", "Without a URL: the address, on this machine"),
];

/// Where a command that asks a node finds it.
const WORKER_PORT: Matter = &[
    ("worker-url", "The node's worker port: ws://, wss://, http:// or https://"),
    ("worker-port", "Without a URL: the port, on this machine"),
    ("bind", "Without a URL: the address, on this machine"),
    ("worker-token", "The token that opens it; of several the first is brought"),
];

/// Where `health` finds its node: what workers are told is not the first to ask.
const HERE: Matter =
    &[("worker-url", "As a flag: its worker port, ws:// or http://"), WORKER_PORT[1], WORKER_PORT[2]];

fn command() -> Command {
    Command::new("switchboard")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A WebSocket relay: back ends publish events, users' sockets get them, wherever they are")
        .after_help(AFTER_HELP)
        .args(settings())
        .subcommand(subcommand("serve", None).about("Run a node (also without a subcommand)"))
        .subcommand(
            subcommand("health", Some(HERE))
                .about("Ask the node at --worker-url, or at --worker-port here, whether it is alive"),
        )
        .subcommand(publish())
        .subcommand(tail())
        .subcommand(status())
        .subcommand(trace())
        .subcommand(check())
        .subcommand(bench())
        .subcommand(completions())
}

/// A subcommand, whose help shows only the settings that matter to it; none: all. It takes the others too, and each but
/// `serve` a token, also where it has no use for one: a script gives the same flags to all of them.
fn subcommand(name: &'static str, matter: Option<Matter>) -> Command {
    let settings = settings().map(|arg| match matter {
        None => arg,
        Some(matter) => match matter.iter().find(|(flag, _)| *flag == arg.get_id().as_str()) {
            Some((flag, help)) => arg.help(described(flag, help)).help_heading("Where the node is"),
            None => arg.hide(true),
        },
    });
    let token =
        value("token", "TOKEN", "The worker token, like --worker-token").help_heading("Where the node is");
    let token = matter.map(|matter| token.hide(!matter.iter().any(|(flag, _)| *flag == "worker-token")));
    Command::new(name).args(settings).args(token)
}

fn settings() -> impl Iterator<Item = Arg> {
    SETTINGS.iter().map(|setting| {
        Arg::new(setting.flag)
            .long(setting.flag)
            .value_name(setting.value)
            .help(described(setting.flag, setting.help))
            .help_heading(setting.heading)
            .hide(setting.heading == HIDDEN)
            .allow_hyphen_values(true)
            .global(true)
    })
}

fn described(flag: &str, help: &str) -> String {
    let setting = setting(flag);
    let default = setting.default.unwrap_or(setting.default_words);
    format!("{help} [env: {}] [default: {default}]", setting.env)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn value(name: &'static str, what: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(what).help(help)
}

fn publish() -> Command {
    subcommand("publish", Some(WORKER_PORT))
        .about("Publish an event, or lines of JSON from standard input")
        .args([
            value("user", "ID", "To every session of this user"),
            value("users", "IDS", "To several users, comma-separated"),
            switch("broadcast", "To every client that is connected now"),
            value("client", "ID", "With --user: to that session alone"),
            value("except-client", "ID", "With --user: to every session but that one"),
            value("event", "NAME", "The event's name"),
            value("data", "JSON", "Its data, any JSON; null where left out").allow_hyphen_values(true),
            value("key", "KEY", "Idempotency key: published once per user and key"),
            value("collapse-key", "KEY", "A newer event with this key and target takes its place in the log"),
            switch("transient", "To whoever is connected now, without a place in the log"),
            Arg::new("lines").value_name("-").value_parser(["-"]).help("Read standard input, a terminal or not"),
        ])
        .after_help(
            "Without an event's flags, lines of JSON are read from standard input, each with the fields of a worker's frame; \
             the answers go to standard output, one a line, in the same order.

Exit status: 0, 1 where anything was refused or the node not reached, 2 where the command line is off.

Examples:
  switchboard publish --user 42 --event progress --data '{\"percent\":40}'
  switchboard publish --broadcast --event notice --worker-url wss://relay.example.com
  echo '{\"userId\":\"42\",\"event\":\"done\",\"key\":\"job-7\"}' | switchboard publish",
        )
}

/// What `publish` was asked for.
fn published(flags: &ArgMatches) -> Publish {
    let text = |name: &str| flags.get_one::<String>(name).cloned();
    Publish {
        event: Event {
            user: text("user"),
            users: text("users").map(|users| users.split(',').map(|user| user.trim().to_owned()).collect()),
            broadcast: flags.get_flag("broadcast"),
            client: text("client"),
            except: text("except-client"),
            event: text("event"),
            data: text("data"),
            collapse_key: text("collapse-key"),
            key: text("key"),
            transient: flags.get_flag("transient"),
        },
        lines: flags.contains_id("lines"),
    }
}

fn tail() -> Command {
    subcommand("tail", Some(CLIENT_PORT))
        .about("Connect as a user and print every frame, one a line; come back and resume")
        .args([
            value("user", "ID", "As this user").required(true),
            value("client", "ID", "As this session; one is made up where it is left out"),
            value("since", "ID", "First what came after this event; 0: all that is kept"),
        ])
        .mut_arg("token", |arg| arg.help("The client's credentials, where --auth asks for them").hide(false))
        .after_help(
            "Frames go to standard output, what happens to the connection to standard error. It is opened again, after \
             the last event that was printed, where it breaks, the node asks for that, or refuses by 429 or 5xx.

Exit status: 0 after an interrupt, 1 where the node refuses otherwise, closes for good, or is not reached at first.

Examples:
  switchboard tail --user 42
  switchboard tail --user 42 --since 0 --client-url wss://relay.example.com | jq -c 'select(.type==\"event\")'",
        )
}

fn status() -> Command {
    subcommand("status", Some(WORKER_PORT))
        .about("Show nodes, sessions, streams, and what waits in them")
        .args([
            switch("json", "Print JSON: one object, or with --watch one a line"),
            switch("watch", "Look again every two seconds, until interrupted"),
        ])
        .after_help(
            "LAG: entries of the node's inbox that it has not read; PENDING: read and not done. A user with sessions on two \
             nodes counts on both.

Examples:
  switchboard status --watch
  switchboard status --json | jq '.nodes[] | select(.ready != true)'",
        )
}

fn trace() -> Command {
    let time = |text: &str| match read::duration(text) {
        Some(time) if !time.is_zero() && time <= LONGEST => Ok(time),
        _ => Err("a time like 90s, 10m or 2h, up to 1day"),
    };
    subcommand("trace", Some(WORKER_PORT))
        .about("Follow one user over all nodes: every step of each of their events, with its time")
        .args([
            value("user", "ID", "Whom").required(true),
            value("for", "TIME", "For how long").default_value("10m").value_parser(time),
            switch("json", "Print JSON, one object a line"),
        ])
        .after_help(
            "Ends at an interrupt, or when the time is over; then the user is not followed any more. No payload is shown.

Examples:
  switchboard trace --user 42
  switchboard trace --user 42 --for 1h --json > steps.ndjson",
        )
}

fn check() -> Command {
    subcommand("check", Some(&[]))
        .about("Show every setting as understood, and where it came from")
        .arg(switch("json", "Print one JSON object"))
        .after_help(
            "Takes every flag of `switchboard serve`. Secrets are masked. Exit status: 0, or 2 where a node would not \
             start with these settings.

Examples:
  switchboard check
  NODE_ENV=production switchboard check --json",
        )
}

fn bench() -> Command {
    let flags = bench_flags::FLAGS.iter().map(|flag| match (flag.value, flag.default) {
        (None, _) => switch(flag.name, flag.help),
        (Some(value), default) => {
            let default = default.map_or_else(String::new, |default| format!(" [default: {default}]"));
            let arg = Arg::new(flag.name).long(flag.name).value_name(value).allow_hyphen_values(true);
            arg.help(format!("{}{default}", flag.help))
        }
    });
    subcommand("bench", Some(bench_flags::NODES))
        .about("Load nodes and measure: connects and events a second, latency, losses, what it costs")
        .args(flags)
        .after_help(bench_flags::HELP)
}

fn bench_of(flags: &ArgMatches) -> Bench {
    let given = bench_flags::FLAGS.iter().filter_map(|flag| match flag.value {
        Some(_) => Some((flag.name, flags.get_one::<String>(flag.name)?.clone())),
        None => flags.get_flag(flag.name).then(|| (flag.name, String::new())),
    });
    Bench { flags: given.collect() }
}

fn completions() -> Command {
    subcommand("completions", Some(&[]))
        .about("Print completions for a shell")
        .arg(Arg::new("shell").required(true).value_parser(clap::value_parser!(Shell)).help("The shell"))
        .after_help(
            "Examples:
  switchboard completions bash > /etc/bash_completion.d/switchboard
  switchboard completions fish > ~/.config/fish/completions/switchboard.fish",
        )
}

/// Reads the command line, the environment and `.env`. Ends the process at `--help`, and at flags that do not exist
/// (exit status 2).
pub fn parse() -> Cli {
    let matches = command().get_matches();
    let dot_env = dot_env::read();
    let (subcommand, flags) = match matches.subcommand() {
        Some((name, flags)) => (name, flags),
        None => ("serve", &matches),
    };
    let given = |flag: &str| match flag {
        "worker-token" => flag_of(flags, flag).or_else(|| worker_token(subcommand, flags)),
        _ => flag_of(flags, flag),
    };
    let mut reader = Reader::new(given, |name| std::env::var(name).ok(), &dot_env.variables);
    reader.refuse_what_is_no_text(std::env::vars_os());
    reader.refuse_lines(dot_env.mistakes);
    match subcommand {
        "health" => Cli::Health(reader),
        "check" => Cli::Check(reader, Check { json: flags.get_flag("json") }),
        "publish" => Cli::Publish(reader, Box::new(published(flags))),
        "bench" => Cli::Bench(reader, bench_of(flags)),
        "tail" => Cli::Tail(
            reader,
            Tail {
                user: flag_of(flags, "user").unwrap_or_default(),
                client: flag_of(flags, "client"),
                since: flag_of(flags, "since"),
                token: flag_of(flags, "token"),
            },
        ),
        "status" => Cli::Status(
            reader,
            status::Asked { json: flags.get_flag("json"), watch: flags.get_flag("watch") },
        ),
        "trace" => Cli::Trace(
            reader,
            Trace {
                user: flag_of(flags, "user").unwrap_or_default(),
                long: flags.get_one("for").copied().unwrap_or_default(),
                json: flags.get_flag("json"),
            },
        ),
        "completions" => Cli::Print(completions_for(flags.get_one("shell"))),
        _ => Cli::Serve(reader),
    }
}

/// `--token` as the worker token; `tail`'s is a client's, and `serve` has none.
fn worker_token(subcommand: &str, flags: &ArgMatches) -> Option<String> {
    (!matches!(subcommand, "serve" | "tail")).then(|| flag_of(flags, "token")).flatten()
}

fn flag_of(flags: &ArgMatches, flag: &str) -> Option<String> {
    flags.get_one::<String>(flag).cloned()
}

fn completions_for(shell: Option<&Shell>) -> String {
    let mut script = Vec::new();
    if let Some(shell) = shell {
        clap_complete::generate(*shell, &mut command(), "switchboard", &mut script);
    }
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_help_names_every_setting() {
        command().debug_assert();
        let help = command().render_long_help().to_string();
        for setting in SETTINGS.iter().filter(|setting| setting.heading != HIDDEN) {
            assert!(help.contains(&format!("--{}", setting.flag)), "{}", setting.flag);
            assert!(help.contains(setting.env), "{}", setting.env);
        }
    }

    #[test]
    fn every_subcommand_takes_a_token_by_both_names() {
        for asking in command().get_subcommands().filter(|it| it.get_name() != "serve") {
            let required = asking.get_arguments().filter(|arg| arg.is_required_set());
            let value_of = |arg: &Arg| if arg.is_positional() { "bash" } else { "--user=42" };
            let required: Vec<_> = required.map(value_of).collect();
            for token in ["--token=t", "--worker-token=t"] {
                let line =
                    ["switchboard", asking.get_name(), token].into_iter().chain(required.iter().copied());
                let matches = command().try_get_matches_from(line).unwrap();
                let (name, flags) = matches.subcommand().unwrap();
                let opens = flag_of(flags, "worker-token").or_else(|| worker_token(name, flags));
                assert_eq!(opens.is_none(), (name, token) == ("tail", "--token=t"), "a client's is another");
            }
        }
    }

    #[test]
    fn a_subcommand_shows_what_matters_to_it_and_takes_every_setting() {
        let mut all = command();
        all.build();
        let health = all.find_subcommand_mut("health").unwrap();
        let help = health.render_long_help().to_string();
        assert!(help.contains("--worker-url") && !help.contains("--session-ttl"), "{help}");
        for before in [true, false] {
            let setting = ["--session-ttl", "7s"];
            let (head, tail) = if before { (&setting[..], &[][..]) } else { (&[][..], &setting[..]) };
            let line = ["switchboard"].iter().chain(head).chain(&["check"]).chain(tail);
            let matches = command().try_get_matches_from(line).unwrap();
            let (_, flags) = matches.subcommand().unwrap();
            assert_eq!(flag_of(flags, "session-ttl").as_deref(), Some("7s"), "before: {before}");
        }
    }
}
