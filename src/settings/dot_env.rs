//! `.env` in the working directory.

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

/// The flag of the setting that a line is for, if any.
fn flag_of(line: &str) -> Option<&'static str> {
    flag_named(line.split(['=', ':']).next().unwrap_or_default())
}

fn flag_named(name: &str) -> Option<&'static str> {
    let name = name.trim();
    let name = name.strip_prefix("export ").unwrap_or(name).trim();
    let name = name.strip_suffix("_FILE").unwrap_or(name);
    SETTINGS.iter().find(|setting| name == setting.env).map(|setting| setting.flag)
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
            let all = SETTINGS.iter().map(|setting| setting.flag).collect();
            let mistakes = vec![Mistake { told: format!(".env cannot be read: {error}"), flags: all }];
            DotEnv { mistakes, ..DotEnv::default() }
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
                let lines = |(place, _)| text.lines().skip(place).take(count);
                let flags: Vec<_> = places.flat_map(lines).filter_map(flag_of).collect();
                if flags.is_empty() {
                    read.passed_over.push(number);
                } else {
                    let told = format!(
                        ".env, line {number}: must be NAME=value; where value begins with a quote, one ends it, and nothing but a comment follows"
                    );
                    read.mistakes.push(Mistake { told, flags });
                }
            }
        }
    }
    read
}

/// As the library reads it, with values taken as they are: without quotes to the end of the line or to ` #`, as for Node.js
/// and `docker run --env-file`. A `$` is a character like any other, and not the name of another variable: it would be
/// gone from a secret without a word. `NAME: value` is `NAME=value`, as for Node.js. Lines stay where they are.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None; // open since an earlier line
    for line in text.lines() {
        match assignment(line).filter(|_| quote.is_none()) {
            Some((name, value)) if !value.starts_with(['"', '\'']) => {
                let is_comment = |at: &usize| value[..*at].ends_with(char::is_whitespace);
                let end = value.match_indices('#').map(|(at, _)| at).find(is_comment).unwrap_or(value.len());
                out.extend([name, "=\""]);
                for character in value[..end].trim_end().chars() {
                    if matches!(character, '\\' | '"' | '$') {
                        out.push('\\');
                    }
                    out.push(character);
                }
                out.push('"');
            }
            Some((name, value)) => {
                out.extend([name, "="]);
                quoted(value, &mut quote, &mut out);
            }
            None => quoted(line, &mut quote, &mut out),
        }
        out.push('\n');
    }
    out
}

/// The name and the value of a line that gives one a value.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let colon = line.split_once(": ").filter(|(name, _)| flag_named(name).is_some());
    let (name, value) = colon.or_else(|| line.split_once('='))?;
    let value = value.trim_start();
    (!name.trim_start().starts_with('#') && !value.starts_with('#')).then_some((name, value))
}

/// A line whose quotes count, with `quote` open before and after it. Between single quotes the library replaces nothing.
fn quoted(line: &str, quote: &mut Option<char>, out: &mut String) {
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (*quote, character) {
            (Some('"') | None, '\\') => {
                out.push(character);
                out.extend(characters.next());
                continue;
            }
            (None, '#') => {
                // A comment, whose quotes open nothing; behind a quoted value nothing else can stand.
                return out.extend(std::iter::once(character).chain(characters));
            }
            (None, '"' | '\'') => *quote = Some(character),
            (Some(open), _) if open == character => *quote = None,
            (Some('"') | None, '$') => out.push('\\'),
            _ => {}
        }
        out.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_are() {
        let read = parse(
            "# a comment\nA=pa$word1234\nB=\"two words $HOME\"\nC='it costs $5'\nexport D=\\$x\n\nE=\nREDIS_URL=redis://h:1\n\
             F=pa$word # it's a comment\nG=\"it's $5 \\\" \\$x\" # it's\nH=it's \"$5\"#1\t# no\nI='a $1\nb' # $2\nJ=$1\n\
             PEM=-----BEGIN PUBLIC KEY-----\\nab+/=\\n-----END\nL=https://a, https://b\nM=\"\\n\"\nN=#\nO = c # d\n",
        );
        let value = |name: &str| read.variables[name].as_str();
        assert!(read.mistakes.is_empty(), "{read:?}");
        assert_eq!(
            ["A", "B", "C", "D"].map(value),
            ["pa$word1234", "two words $HOME", "it costs $5", r"\$x"]
        );
        assert_eq!(["F", "G", "H"].map(value), ["pa$word", "it's $5 \" $x", "it's \"$5\"#1"]);
        assert_eq!(["I", "J", "M", "N", "O"].map(value), ["a $1\nb", "$1", "\n", "", "c"]);
        assert_eq!(
            ["PEM", "L"].map(value),
            [r"-----BEGIN PUBLIC KEY-----\nab+/=\n-----END", "https://a, https://b"]
        );
        assert_eq!(["E", "REDIS_URL"].map(value), ["", "redis://h:1"]);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_by_its_number() {
        for (text, number) in [
            ("A=1\nWORKER_TOKEN='super' secret\nB=2\n", 2),
            ("JWT_SECRET=\"hunter2\n", 1),
            ("A=1\n\nexport JWT_SECRET_FILE=\"a secret\" place\n", 3),
            ("APP=\"secret\nWORKER_TOKEN=abc\n", 1),
        ] {
            let read = parse(text);
            let [Mistake { told, .. }] = &read.mistakes[..] else { panic!("{text}: {read:?}") };
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
        assert_eq!(value("CLIENT_SOCKET_URL"), "ws://a: b");
        assert!(read.mistakes.is_empty() && read.passed_over.is_empty(), "{read:?}");
        // What is neither is a mistake all the same.
        assert_eq!(parse("WORKER_TOKEN:abc\n").mistakes.len(), 1);
    }

    #[test]
    fn what_another_program_may_read_stops_nobody() {
        let read = parse("GREETING=\"hello\" world\nnonsense\nWORKER_TOKEN=abc\n");
        assert_eq!((&read.passed_over[..], &read.mistakes[..]), (&[1, 2][..], &[][..]));
        assert_eq!(read.variables["WORKER_TOKEN"], "abc");
    }
}
