//! The command line: `serve` (also where no subcommand is given) and `health`.

use std::collections::HashMap;

use clap::{Arg, ArgMatches, Command};

use crate::settings::read::Reader;
use crate::settings::table::SETTINGS;

/// What to do.
pub enum Cli {
    /// Run a node with what was given.
    Serve(Reader),
    /// Ask a node whether it is alive.
    Health(Reader),
}

const AFTER_HELP: &str = "Every setting is a flag and an environment variable: a flag wins over the environment, the \
environment over .env in the working directory. Secrets may come from files: <NAME>_FILE names one. Times are \
written 500ms, 10s, 5m; sizes 64KiB, 1MiB.

Exit status: 0 after a drain, 1 where the node could not start or lost its id to another, 2 where settings are off.";

fn command() -> Command {
    let settings = || {
        SETTINGS.iter().map(|setting| {
            let default = setting.default.unwrap_or(setting.default_words);
            let help = format!("{} [env: {}] [default: {default}]", setting.help, setting.env);
            Arg::new(setting.flag)
                .long(setting.flag)
                .value_name(setting.value)
                .help(help)
                .help_heading(setting.heading)
                .allow_hyphen_values(true)
                .global(true)
        })
    };
    Command::new("switchboard")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A WebSocket relay: back ends publish events, users' sockets get them, wherever they are")
        .after_help(AFTER_HELP)
        .args(settings())
        .subcommand(Command::new("serve").about("Run a node (also without a subcommand)"))
        .subcommand(
            Command::new("health")
                .about("Ask the node at --worker-url, or at --worker-port here, whether it is alive"),
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
        _ => Cli::Serve(reader),
    }
}

fn flag_of(flags: &ArgMatches, flag: &str) -> Option<String> {
    flags.get_one::<String>(flag).cloned()
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
}
