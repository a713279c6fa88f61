//! From flags, environment and `.env` to text, and from text to values: every mistake is kept, none ends the rest.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::table::{SETTINGS, Setting, setting};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// The file that `<NAME>_FILE` names.
    File,
    /// `.env` in the working directory.
    DotEnv,
    /// Nobody gave one.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Flag => "flag",
            Source::Environment => "environment",
            Source::File => "file",
            Source::DotEnv => ".env",
            Source::Default => "default",
        })
    }
}

/// Secrets: they can be used, and not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(pub Vec<String>);

impl std::ops::Deref for Secrets {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Which setting, what it was, what is allowed.
    pub told: String,
    /// The flags of those that it leaves without their value.
    pub flags: Vec<&'static str>,
}

/// What was given, and what was wrong with it.
pub struct Reader {
    given: HashMap<&'static str, (String, Source)>,
    /// The files that values came from.
    files: HashMap<&'static str, PathBuf>,
    /// Flags that were looked up since [`Reader::checked`] began.
    asked: RefCell<HashSet<String>>,
    /// What a value comes to, where that is not the text that was given.
    understood: HashMap<&'static str, String>,
    /// Every mistake so far.
    pub mistakes: Vec<Mistake>,
}

impl Reader {
    /// Looks each setting up: flag, environment, the file that the environment names, `.env`. An empty variable
    /// counts as none; an empty flag was meant.
    pub fn new(
        flags: impl Fn(&str) -> Option<String>,
        environment: impl Fn(&str) -> Option<String>,
        dot_env: &HashMap<String, String>,
    ) -> Self {
        let mut reader = Self {
            given: HashMap::new(),
            files: HashMap::new(),
            asked: RefCell::default(),
            understood: HashMap::new(),
            mistakes: Vec::new(),
        };
        let filled = |value: Option<String>| value.filter(|value| !value.trim().is_empty());
        for setting in SETTINGS {
            let file = |look: &dyn Fn(&str) -> Option<String>| {
                filled(look(&format!("{}_FILE", setting.env))).filter(|_| setting.secret)
            };
            let from_dot_env = |name: &str| dot_env.get(name).cloned();
            let given = if let Some(value) = flags(setting.flag) {
                Some((value, Source::Flag))
            } else if let Some(value) = filled(environment(setting.env)) {
                Some((value, Source::Environment))
            } else if let Some(path) = file(&environment) {
                reader.read_file(setting, &path)
            } else if let Some(value) = filled(from_dot_env(setting.env)) {
                Some((value, Source::DotEnv))
            } else if let Some(path) = file(&from_dot_env) {
                reader.read_file(setting, &path)
            } else {
                None
            };
            if let Some((value, source)) = given {
                reader.given.insert(setting.flag, (value.trim().to_owned(), source));
            }
        }
        reader
    }

    /// Notes each variable that stands for a setting and is not text: it must not count as one that is not set.
    pub fn refuse_what_is_no_text(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        for (name, _) in variables.filter(|(_, value)| value.to_str().is_none()) {
            let named = |setting: &&Setting| name == setting.env || name == *format!("{}_FILE", setting.env);
            if let Some(setting) = SETTINGS.iter().find(named) {
                let told = format!("--{} ({}) cannot be read: must be UTF-8", setting.flag, name.display());
                // A flag is not missed.
                let of_it = vec![setting.flag].into_iter().filter(|flag| self.source(flag) != Source::Flag);
                self.mistakes.push(Mistake { told, flags: of_it.collect() });
            }
        }
    }

    /// Notes what of `.env` cannot be read. What wins over it is not missed.
    pub fn refuse_lines(&mut self, mistakes: Vec<Mistake>) {
        for Mistake { told, mut flags } in mistakes {
            flags.retain(|flag| matches!(self.source(flag), Source::DotEnv | Source::Default));
            self.mistakes.push(Mistake { told, flags });
        }
    }

    /// What `read` makes of some settings.
    ///
    /// # Errors
    /// All that is off with those that it looks up, one line for each: others are no matter of who does not use them.
    pub fn checked<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Result<T, String> {
        self.asked.take();
        let found = read(self);
        let asked = self.asked.take();
        let of_them = |mistake: &&Mistake| mistake.flags.iter().any(|flag| asked.contains(*flag));
        let mistakes: Vec<_> =
            self.mistakes.iter().filter(of_them).map(|mistake| mistake.told.as_str()).collect();
        found.filter(|_| mistakes.is_empty()).ok_or_else(|| mistakes.join("\n"))
    }

    fn read_file(&mut self, setting: &Setting, path: &str) -> Option<(String, Source)> {
        match std::fs::read_to_string(path) {
            // A secret that was not mounted, or not filled, must not count as one.
            Ok(text) if text.trim().is_empty() => {
                let told = format!("{}_FILE {path:?} is empty", setting.env);
                self.mistakes.push(Mistake { told, flags: vec![setting.flag] });
                None
            }
            Ok(text) => {
                self.files.insert(setting.flag, path.into());
                Some((text.trim().to_owned(), Source::File))
            }
            Err(error) => {
                let told = format!("{}_FILE {path:?} cannot be read: {error}", setting.env);
                self.mistakes.push(Mistake { told, flags: vec![setting.flag] });
                None
            }
        }
    }

    /// The text that was given for a setting, if any.
    pub fn given(&self, flag: &str) -> Option<&str> {
        self.asked.borrow_mut().insert(flag.to_owned());
        self.given.get(flag).map(|(value, _)| value.as_str())
    }

    /// Where a setting's value came from.
    pub fn source(&self, flag: &str) -> Source {
        self.given.get(flag).map_or(Source::Default, |(_, source)| *source)
    }

    /// The file that a setting's value came from, if it did.
    pub fn file(&self, flag: &str) -> Option<&Path> {
        self.files.get(flag).map(PathBuf::as_path)
    }

    /// Notes what a setting's value comes to.
    pub fn understand(&mut self, flag: &str, value: impl fmt::Display) {
        self.understood.insert(setting(flag).flag, value.to_string());
    }

    /// A setting's value as it may be shown: what it comes to, else what was given, else the default.
    pub fn shown(&self, setting: &Setting) -> String {
        match (self.understood.get(setting.flag), self.given(setting.flag)) {
            (Some(value), _) => value.clone(),
            (None, Some(value)) => masked(setting, value),
            (None, None) => setting.default.unwrap_or(setting.default_words).to_owned(),
        }
    }

    /// Notes a mistake with a setting's value.
    pub fn mistake(&mut self, flag: &str, allowed: &str) {
        let setting = setting(flag);
        let value = match self.given(flag) {
            Some(value) => quoted(setting, value),
            None => "not set".to_owned(),
        };
        let told = format!("--{flag} ({}) {value}: must be {allowed}", setting.env);
        self.mistakes.push(Mistake { told, flags: vec![setting.flag] });
    }

    /// A value that `parse` makes of the text; the table's default where none was given.
    pub fn value<T>(&mut self, flag: &str, allowed: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.given(flag).or(setting(flag).default)?.to_owned();
        let value = parse(&text);
        if value.is_none() {
            self.mistake(flag, allowed);
        }
        value
    }

    /// A value that may be left out; the inner option is none where it is.
    pub fn optional<T>(
        &mut self,
        flag: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Option<T>> {
        self.or(flag, None, |r, flag| r.value(flag, allowed, parse).map(Some))
    }

    /// What `read` makes of a setting that was given, else `default`: for those whose default is only words in the table.
    pub fn or<T>(
        &mut self,
        flag: &str,
        default: T,
        read: impl FnOnce(&mut Self, &str) -> Option<T>,
    ) -> Option<T> {
        if self.given(flag).is_none() {
            return Some(default);
        }
        read(self, flag)
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, flag: &str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let allowed = format!("one of {}", words.join(", "));
        self.value(flag, &allowed, |text| {
            choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        })
    }

    /// A whole number from `least` to `most`.
    pub fn number<N>(&mut self, flag: &str, least: N, most: N) -> Option<N>
    where
        N: FromStr + PartialOrd + fmt::Display,
    {
        let (words, range) = (format!("a whole number from {least} to {most}"), least..=most);
        self.value(flag, &words, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// A time like `500ms`, `10s` or `5m`, from `least` to a day.
    pub fn time(&mut self, flag: &str, least: Duration) -> Option<Duration> {
        let least_words = humantime::format_duration(least).to_string();
        let allowed = format!("a time like 500ms, 10s or 5m, from {least_words} to 1day");
        let time =
            self.value(flag, &allowed, |text| duration(text).filter(|time| (least..=DAY).contains(time)));
        if let Some(time) = time {
            self.understand(flag, humantime::format_duration(time));
        }
        time
    }

    /// A size like `64KiB` or `1MiB`, in bytes.
    pub fn size(&mut self, flag: &str, least: u64, most: u64) -> Option<usize> {
        let words = |bytes| bytesize::ByteSize::b(bytes).display().iec().to_string();
        let allowed = format!("a size like 64KiB or 1MiB, from {} to {}", words(least), words(most));
        let size = self.value(flag, &allowed, |text| {
            let bytes = text.parse::<bytesize::ByteSize>().ok()?.as_u64();
            usize::try_from(bytes).ok().filter(|_| (least..=most).contains(&bytes))
        });
        if let Some(bytes) = size {
            self.understand(flag, format!("{bytes} bytes"));
        }
        size
    }

    /// A network address without a port.
    pub fn ip(&mut self, flag: &str) -> Option<IpAddr> {
        self.value(flag, "an IP address, like 127.0.0.1 or 0.0.0.0", |text| text.parse().ok())
    }
}

#[cfg(test)]
impl Reader {
    /// What these flags, these variables, and these of `.env` give.
    pub fn of_tests(flags: &[(&str, &str)], env: &[(&str, &str)], dot_env: &[(&str, &str)]) -> Self {
        let look = |pairs: &[(&str, &str)], name: &str| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let file = dot_env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Self::new(|flag| look(flags, flag), |name| look(env, name), &file)
    }
}

/// Whether nothing of a value may be shown: of a secret one that is no address, though it may look like one.
fn is_hidden(setting: &Setting, value: &str) -> bool {
    setting.secret && !(setting.value == "URL" && value.contains("://"))
}

/// A value as it stands in a mistake.
fn quoted(setting: &Setting, value: &str) -> String {
    match masked(setting, value) {
        hidden if is_hidden(setting, value) => hidden,
        text => format!("{text:?}"),
    }
}

/// A value as it may be shown: of a secret nothing, of a URL all but its credentials.
fn masked(setting: &Setting, value: &str) -> String {
    if is_hidden(setting, value) && value != "none" {
        return "(not shown)".to_owned();
    }
    let at = match value.find("://") {
        Some(at) => at + 3,
        None if setting.value == "URL" => 0,
        None => return value.to_owned(),
    };
    let (scheme, rest) = value.split_at(at);
    // A socket's password and that of the Sentinels stand there.
    let (host, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let host = match host.rsplit_once('@') {
        // The password has one of these in it: where it ends is anybody's guess.
        _ if query.contains('@') => "***".to_owned(),
        Some((_, host)) => format!("***@{host}"),
        None => host.to_owned(),
    };
    let query = query.get(..1).map(|mark| format!("{mark}***")).unwrap_or_default();
    format!("{scheme}{host}{query}")
}

/// The path of an HTTP resource beside a node's WebSocket, which is at `path`.
pub fn beside(path: &str, resource: &str) -> String {
    let base = path.trim_end_matches('/');
    format!("{}{resource}", base.strip_suffix("/ws").unwrap_or(base))
}

/// Whether a URL says where a node is, without credentials: a node's addresses are logged, and told to others.
pub fn is_bare(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    !url.contains('@') && form_urlencoded::parse(query.as_bytes()).all(|(name, _)| name != "token")
}

/// What [`is_bare`] asks for, in words.
pub const BARE: &str = "without @ and ?token= (a token is given by --worker-token or --token)";

/// The token that is brought to the worker port: of several the first, and none where none is asked for.
pub fn first_token(tokens: &str) -> Option<&str> {
    let mut given = tokens.split(',').map(str::trim).filter(|_| tokens != "none");
    given.find(|token| !token.is_empty())
}

/// What most times may be at most.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads a time; a number without a unit is none.
pub fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}
