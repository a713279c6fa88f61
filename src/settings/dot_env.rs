//! `.env` in the working directory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::ErrorKind;

use super::read::Mistake;
use super::table::SETTINGS;
use crate::logging::say;

/// What `.env` says, and what of it cannot be read.
#[derive(Debug, Default)]
pub struct DotEnv {
    /// Its variables.
    pub variables: HashMap<String, String>,
    /// By their lines' numbers alone: whatever stands there may be a secret.
    pub mistakes: Vec<Mistake>,
    /// Numbers of lines that cannot be read and are no settings: the file may be another program's, too.
    pub passed_over: Vec<usize>,
}

fn is_setting(line: &str) -> bool {
    names_setting(line.split(['=', ':']).next().unwrap_or_default())
}

fn names_setting(name: &str) -> bool {
    let name = name.trim();
    let name = name.strip_prefix("export ").unwrap_or(name).trim();
    let name = name.strip_suffix("_FILE").unwrap_or(name);
    SETTINGS.iter().any(|setting| name == setting.env)
}

/// Reads `.env` in the working directory; nothing where there is no such file.
pub fn read() -> DotEnv {
    match std::fs::read_to_string(".env") {
        Ok(text) => {
            let read = parse(&text);
            for line in &read.passed_over {
                say(format_args!(".env, line {line} cannot be read, and is left out: it is no setting"));
            }
            read
        }
        Err(error) if error.kind() == ErrorKind::NotFound => DotEnv::default(),
        Err(error) => {
            DotEnv { mistakes: vec![Mistake(format!(".env cannot be read: {error}"))], ..DotEnv::default() }
        }
    }
}

fn parse(text: &str) -> DotEnv {
    // A byte-order mark, as some editors write one, is no part of the first name.
    let text = literal(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut read = DotEnv::default();
    for pair in dotenvy::from_read_iter(text.as_bytes()) {
        match pair {
            Ok((name, value)) => drop(read.variables.insert(name, value)),
            Err(error) => {
                // From where reading failed to where it goes on: more than one line where quotes stay open.
                let bad = if let dotenvy::Error::LineParse(bad, _) = &error { bad.as_str() } else { "" };
                let (first, count) = (bad.lines().next().unwrap_or_default(), bad.lines().count().max(1));
                let mut places = text.lines().enumerate().filter(|(_, line)| line.contains(first)).peekable();
                let number = places.peek().map_or(0, |(place, _)| place + 1);
                let lines = |place| text.lines().skip(place).take(count);
                if places.any(|(place, _)| lines(place).any(is_setting)) {
                    read.mistakes.push(Mistake(format!(
                        ".env, line {number}: must be NAME=value; a value with spaces, # or quotes in it stands in quotes"
                    )));
                } else {
                    read.passed_over.push(number);
                }
            }
        }
    }
    read
}

/// A `$` is a character like any other, as for `docker run --env-file`, and not the name of another variable: it would
/// be gone from a secret without a word. `NAME: value` is `NAME=value`, as for Node.js.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut line = Cow::Borrowed(line);
        if let Some((name, value)) = line.split_once(": ").filter(|(name, _)| names_setting(name)) {
            line = Cow::Owned(format!("{name}= {value}"));
        }
        let mut before = ' ';
        for character in line.chars() {
            // Between single quotes nothing is replaced, and nothing can be escaped.
            if character == '$' && before != '\\' && !line.contains('\'') {
                out.push('\\');
            }
            out.push(character);
            before = character;
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_are() {
        let read = parse(
            "# a comment\nA=pa$word1234\nB=\"two words $HOME\"\nC='it costs $5'\nexport D=\\$x\n\nE=\nREDIS_URL=redis://h:1\n",
        );
        let value = |name: &str| read.variables[name].as_str();
        assert!(read.mistakes.is_empty(), "{read:?}");
        assert_eq!(["A", "B", "C", "D"].map(value), ["pa$word1234", "two words $HOME", "it costs $5", "$x"]);
        assert_eq!(["E", "REDIS_URL"].map(value), ["", "redis://h:1"]);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_by_its_number() {
        for (text, number) in [
            ("A=1\nWORKER_TOKEN=super secret\nB=2\n", 2),
            ("JWT_SECRET=\"hunter2\n", 1),
            ("A=1\n\nexport JWT_SECRET_FILE=a secret place\n", 3),
            ("APP=\"secret\nWORKER_TOKEN=abc\n", 1),
        ] {
            let read = parse(text);
            let [Mistake(told)] = &read.mistakes[..] else { panic!("{text}: {read:?}") };
            assert!(told.starts_with(&format!(".env, line {number}: ")), "{told}");
            assert!(!told.contains("secret") && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn a_file_that_node_js_reads_says_the_same_here() {
        let read = parse(
            "\u{feff}NODE_ENV=production\r\nexport BIND_ADDR: 0.0.0.0\r\nWORKER_TOKEN:  \"a: b\"\r\nCLIENT_SOCKET_URL=ws://a: b\r\n",
        );
        let value = |name: &str| read.variables[name].as_str();
        assert_eq!(
            ["NODE_ENV", "BIND_ADDR", "WORKER_TOKEN"].map(value),
            ["production", "0.0.0.0", "a: b"],
            "{read:?}"
        );
        assert_eq!(
            (read.mistakes.len(), &read.passed_over[..]),
            (1, &[][..]),
            "a value with a space: {read:?}"
        );
        // What is neither is a mistake all the same.
        assert_eq!(parse("WORKER_TOKEN:abc\n").mistakes.len(), 1);
    }

    #[test]
    fn what_another_program_may_read_stops_nobody() {
        let read = parse("GREETING=hello world\nnonsense\nWORKER_TOKEN=abc\n");
        assert_eq!((&read.passed_over[..], &read.mistakes[..]), (&[1, 2][..], &[][..]));
        assert_eq!(read.variables["WORKER_TOKEN"], "abc");
    }
}
