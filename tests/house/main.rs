//! Guards the house: floors, who may name what, the size and form of files, the headers of the scripts.
//!
//! The floors are read from the table in `src/lib.rs`, so there is one truth. Who may name a crate stands in a list
//! with the reason; a permission that nobody needs any more fails as well, so the list only shrinks.

mod code;
mod docs;
mod headers;
mod scripts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use code::{code_of, crate_paths, whole_words, without_tests};

/// Nobody reads a longer file to its end.
const MOST_LINES: usize = 400;

/// Where a crate may be named, and why there.
const NAMED: &[(&str, &str, &str)] = &[
    ("redis", "src/engine/redis/", "the engine itself"),
    ("bb8", "src/engine/redis/", "the engine's pool"),
    ("bb8_redis", "src/engine/redis/", "the engine's pool"),
    ("clap", "src/cli.rs", "the command line"),
];

struct Source {
    /// From the repository's root, with `/`.
    path: String,
    /// The text without comments, the insides of strings, and tests; line by line the same.
    code: String,
}

impl Source {
    /// The module of the crate's root that the file belongs to.
    fn room(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap();
        inner.split(['/', '.']).next().unwrap()
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(at, line)| (at + 1, line))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &str, extension: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|its| its == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(dir), extension, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no {extension} file under {dir}");
    let name = |path: &Path| path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

fn sources() -> Vec<Source> {
    files("src", "rs")
        .into_iter()
        .map(|(path, text)| {
            // A file of tests alone is declared under `cfg(test)` by its parent.
            let code =
                if path.ends_with("/tests.rs") { String::new() } else { without_tests(&code_of(&text)) };
            Source { path, code }
        })
        .collect()
}

/// The floor of each room, as the table in `src/lib.rs` has it.
fn floors() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut floors = BTreeMap::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells = row.split('|').map(str::trim);
        let (Some(Ok(floor)), Some(rooms)) = (cells.next().map(str::parse), cells.next()) else { continue };
        for room in rooms.split(',').map(|room| room.trim().trim_matches(['[', ']', '`'])) {
            assert!(floors.insert(room.to_owned(), floor).is_none(), "{room} is on two floors");
        }
    }
    floors
}

fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn every_room_has_a_floor() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rooms: BTreeSet<String> = code_of(&text)
        .lines()
        .filter_map(|line| {
            line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
        })
        .collect();
    assert_eq!(floors().into_keys().collect::<BTreeSet<_>>(), rooms);
}

#[test]
fn imports_go_down_only() {
    let floors = floors();
    let mut upward = Vec::new();
    let mut across = BTreeMap::new();
    for source in sources().iter().filter(|source| floors.contains_key(source.room())) {
        let from = source.room();
        for path in crate_paths(&source.code) {
            let to = path.split(':').next().unwrap();
            let Some(floor) = floors.get(to) else { panic!("{}: crate::{path} is no room", source.path) };
            let import = format!("{}: crate::{path}", source.path);
            if *floor > floors[from] {
                upward.push(import);
            } else if *floor == floors[from] && from != to {
                across.insert((from.to_owned(), to.to_owned()), import);
            }
        }
    }
    assert_none("these imports go up", &upward);
    let back = |(from, to): &(String, String)| across.contains_key(&(to.clone(), from.clone()));
    let mutual = across.iter().filter(|(rooms, _)| back(rooms)).map(|(_, import)| import.clone());
    assert_none("these rooms of one floor import each other", &mutual.collect::<Vec<_>>());
}

#[test]
fn registry_and_engine_never_see_each_other() {
    let seen = |from: &str, to: &str| {
        let paths = sources()
            .into_iter()
            .filter(|source| source.room() == from)
            .flat_map(|source| crate_paths(&source.code));
        paths.filter(|path| path.split(':').next() == Some(to)).collect::<Vec<_>>()
    };
    assert_none("the registry sees the engine", &seen("registry", "engine"));
    assert_none("the engine sees the registry", &seen("engine", "registry"));
}

#[test]
fn crates_are_named_where_they_belong() {
    let mut elsewhere = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources() {
        // `use crate::engine::redis::{self}` brings the module of that name: then the crate is `::redis`.
        let module = source.code.contains("engine::redis::{self") || source.code.contains("mod redis;");
        for krate in ["redis", "bb8", "bb8_redis", "clap"] {
            for (at, line) in source.lines() {
                let named = whole_words(line, krate).any(|at| {
                    let rooted = line[..at].ends_with("::")
                        && !line[..at - 2].ends_with(|c: char| c.is_alphanumeric());
                    let path =
                        line[at + krate.len()..].starts_with("::") && !line[..at].ends_with("::") && !module;
                    rooted || path || line.trim_start() == format!("use {krate};")
                });
                if !named {
                    continue;
                }
                match NAMED.iter().find(|(name, place, _)| *name == krate && source.path.starts_with(place)) {
                    Some(allowed) => _ = used.insert(allowed),
                    None => elsewhere.push(format!("{}:{at}: {krate}", source.path)),
                }
            }
        }
    }
    assert_none("these crates are named elsewhere than they may be", &elsewhere);
    let stale = NAMED.iter().filter(|allowed| !used.contains(allowed));
    assert_none(
        "these permissions are no longer needed",
        &stale.map(|it| format!("{it:?}")).collect::<Vec<_>>(),
    );
}

#[test]
fn every_close_is_somebodys() {
    let sources = sources();
    let named = |code: &str| -> BTreeSet<String> {
        let names =
            code.split("Close::").skip(1).map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next());
        names.flatten().filter(|name| name.starts_with(char::is_uppercase)).map(str::to_owned).collect()
    };
    let (table, others): (Vec<_>, Vec<_>) = sources.iter().partition(|source| source.path == "src/close.rs");
    let others: BTreeSet<_> = others.iter().flat_map(|source| named(&source.code)).collect();
    let all: BTreeSet<_> = table.iter().flat_map(|source| named(&source.code)).collect();
    let idle: Vec<_> = all.difference(&others).cloned().collect();
    assert_none("a reason to close for which nothing is ever closed", &idle);
}

#[test]
fn files_are_short() {
    let all = files("src", "rs").into_iter().chain(files("tests", "rs")).chain(files("lua", "lua"));
    let long = all.filter(|(_, text)| text.lines().count() > MOST_LINES).map(|(path, _)| path);
    assert_none("these files have more than 400 lines", &long.collect::<Vec<_>>());
}

#[test]
fn nothing_panics_by_intent_outside_tests() {
    let mut found = Vec::new();
    for source in sources() {
        for (at, line) in source.lines() {
            for word in [".unwrap()", ".expect(", "todo!", "unimplemented!", "dbg!"] {
                if line.contains(word) {
                    found.push(format!("{}:{at}: {word}", source.path));
                }
            }
        }
    }
    assert_none("a relay that panics drops everyone", &found);
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    let mut silent = Vec::new();
    for (path, text) in files("src", "rs").into_iter().chain(files("tests", "rs")) {
        if !text.lines().next().is_some_and(|line| line.starts_with("//! ")) {
            silent.push(path);
        }
    }
    assert_none("these files do not begin with `//! `", &silent);
}
