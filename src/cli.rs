//! The command line: the one place that knows how things are asked for. What they do is said elsewhere.

use std::collections::HashMap;

use clap::{Arg, ArgAction, ArgMatches, Command};
use clap_complete::Shell;

use crate::command::check::Check;
use crate::settings::read::Reader;
use crate::settings::table::SETTINGS;

/// What to do.
pub enum Cli {
    /// Run a node with what was given.
    Serve(Reader),
    /// Ask a node whether it is alive.
    Health(Reader),
    /// Show the settings.
    Check(Reader, Check),
    /// Print a text, and that is all.
    Print(String),
}

const AFTER_HELP: &str = "Every setting is a flag and an environment variable: a flag wins over the environment, the \
environment over .env in the working directory. Secrets may come from files: <NAME>_FILE names one. Times are \
written 500ms, 10s, 5m; sizes 64KiB, 1MiB.

Exit status: 0 after a drain, 1 where the node could not start or lost its id to another, 2 where settings are off.";

fn command() -> Command {
    Command::new("switchboard")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A WebSocket relay: back ends publish events, users' sockets get them, wherever they are")
        .after_help(AFTER_HELP)
        .args(settings(|_| true))
        .subcommand(subcommand("serve", None).about("Run a node (also without a subcommand)"))
        .subcommand(
            subcommand("health", Some(&["worker-url", "bind", "worker-port"]))
                .about("Ask the node at --worker-url, or at --worker-port here, whether it is alive"),
        )
        .subcommand(check())
        .subcommand(completions())
}

/// A subcommand, whose help shows only the settings that matter to it; none: all. It takes the others too.
fn subcommand(name: &'static str, matter: Option<&'static [&'static str]>) -> Command {
    Command::new(name).args(settings(|flag| matter.is_none_or(|matter| matter.contains(&flag))))
}

fn settings(shown: impl Fn(&str) -> bool) -> impl Iterator<Item = Arg> {
    SETTINGS.iter().map(move |setting| {
        let default = setting.default.unwrap_or(setting.default_words);
        let help = format!("{} [env: {}] [default: {default}]", setting.help, setting.env);
        Arg::new(setting.flag)
            .long(setting.flag)
            .value_name(setting.value)
            .help(help)
            .help_heading(setting.heading)
            .allow_hyphen_values(true)
            .global(true)
            .hide(!shown(setting.flag))
    })
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
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
    let dot_env = read_dot_env();
    let (subcommand, flags) = match matches.subcommand() {
        Some((name, flags)) => (name, flags),
        None => ("serve", &matches),
    };
    let reader = Reader::new(|flag| flag_of(flags, flag), |name| std::env::var(name).ok(), &dot_env);
    match subcommand {
        "health" => Cli::Health(reader),
        "check" => Cli::Check(reader, Check { json: flags.get_flag("json") }),
        "completions" => Cli::Print(completions_for(flags.get_one("shell"))),
        _ => Cli::Serve(reader),
    }
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

/// The variables of `.env` in the working directory; none where there is no such file.
fn read_dot_env() -> HashMap<String, String> {
    match dotenvy::from_path_iter(".env") {
        Ok(pairs) => pairs
            .filter_map(|pair| match pair {
                Ok(pair) => Some(pair),
                Err(error) => {
                    eprintln!("switchboard: a line of .env cannot be read and is left out: {error}");
                    None
                }
            })
            .collect(),
        Err(error) if error.not_found() => HashMap::new(),
        Err(error) => {
            eprintln!("switchboard: .env cannot be read: {error}");
            HashMap::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_help_names_every_setting() {
        command().debug_assert();
        let help = command().render_long_help().to_string();
        for setting in SETTINGS {
            assert!(help.contains(&format!("--{}", setting.flag)), "{}", setting.flag);
            assert!(help.contains(setting.env), "{}", setting.env);
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
