//! `.env` in the working directory.

use std::collections::HashMap;
use std::io::ErrorKind;

use super::read::Mistake;

/// What `.env` says, and what of it cannot be read.
#[derive(Debug, Default)]
pub struct DotEnv {
    /// Its variables.
    pub variables: HashMap<String, String>,
    /// By their lines' numbers alone: whatever stands there may be a secret.
    pub mistakes: Vec<Mistake>,
}

/// Reads `.env` in the working directory; nothing where there is no such file.
pub fn read() -> DotEnv {
    match std::fs::read_to_string(".env") {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => DotEnv::default(),
        Err(error) => {
            DotEnv { mistakes: vec![Mistake(format!(".env cannot be read: {error}"))], ..DotEnv::default() }
        }
    }
}

fn parse(text: &str) -> DotEnv {
    let text = literal(text);
    let mut read = DotEnv::default();
    for pair in dotenvy::from_read_iter(text.as_bytes()) {
        match pair {
            Ok((name, value)) => drop(read.variables.insert(name, value)),
            Err(error) => {
                let line = match &error {
                    dotenvy::Error::LineParse(line, _) => line.lines().next().unwrap_or_default(),
                    _ => "",
                };
                let number = text.lines().position(|known| known.contains(line)).unwrap_or_default() + 1;
                read.mistakes.push(Mistake(format!(
                    ".env, line {number}: must be NAME=value; a value with spaces, # or quotes in it stands in quotes"
                )));
            }
        }
    }
    read
}

/// A `$` is a character like any other, as for `docker run --env-file`, and not the name of another variable: it would
/// be gone from a secret without a word.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
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
            ("A=1\n\nnonsense\n", 3),
        ] {
            let read = parse(text);
            let [Mistake(told)] = &read.mistakes[..] else { panic!("{text}: {read:?}") };
            assert!(told.starts_with(&format!(".env, line {number}: ")), "{told}");
            assert!(!told.contains("secret") && !told.contains("hunter2"), "{told}");
        }
    }
}
