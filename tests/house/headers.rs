//! The header of a script is its signature, and true: what it documents is what the code uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::{assert_none, files, root};

/// One place of KEYS or ARGV: of an item each `stride`, at `offset`. `open`: that one and all after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    stride: u32,
    offset: u32,
    open: bool,
}

struct Script {
    name: String,
    header: Vec<String>,
    code: String,
}

fn scripts() -> Vec<Script> {
    let script = |(path, text): (String, String)| {
        let header = text.lines().take_while(|line| line.starts_with("--")).map(str::to_owned).collect();
        // No string of a script holds two dashes, so the rest of such a line is a comment.
        let code = text.lines().map(|line| line.split("--").next().unwrap()).collect::<Vec<_>>().join("\n");
        let name = path.strip_prefix("lua/").unwrap().strip_suffix(".lua").unwrap().to_owned();
        Script { name, header, code }
    };
    files("lua", "lua").into_iter().map(script).collect()
}

impl Script {
    /// `4i+1` of a header, `4 * i + 1` of code, `2`, `4...`; none where the index is another variable's.
    fn place(index: &str) -> Option<Place> {
        let index: String = index.chars().filter(|c| !matches!(c, ' ' | '*')).collect();
        let (index, open) = match index.strip_suffix("...") {
            Some(first) => (first, true),
            None => (index.as_str(), false),
        };
        let (stride, offset) = match index.split_once('i') {
            Some((stride, offset)) => (stride.parse().ok()?, offset.strip_prefix('+')?.parse().ok()?),
            None => (0, index.parse().ok()?),
        };
        Some(Place { stride, offset, open })
    }

    /// What the header documents of `table`, in its order, with what stands behind the arrow.
    fn documented(&self, table: &str) -> Vec<(Place, String)> {
        let start = format!("-- {table}[");
        let lines = self.header.iter().filter_map(|line| line.strip_prefix(&start));
        lines
            .map(|line| {
                let (index, what) =
                    line.split_once("] -> ").unwrap_or_else(|| panic!("{}: {line}", self.name));
                let place = Self::place(index).unwrap_or_else(|| panic!("{}: {table}[{index}]", self.name));
                (place, what.to_owned())
            })
            .collect()
    }

    /// What the code uses of `table`. An index that starts from a variable uses all from where that one starts.
    fn used(&self, table: &str) -> BTreeSet<Place> {
        let start = format!("{table}[");
        let mut used = BTreeSet::new();
        for (at, _) in self.code.match_indices(&start) {
            let index = self.code[at + start.len()..].split(']').next().unwrap();
            used.insert(Self::place(index).unwrap_or_else(|| {
                let variable = index.split(' ').next().unwrap();
                let first = self.first_value(variable);
                Place { stride: 0, offset: first, open: true }
            }));
        }
        used
    }

    /// The number that `variable` starts with: `local a, at = {}, 4`.
    fn first_value(&self, variable: &str) -> u32 {
        let declared =
            self.code.lines().filter_map(|line| line.trim().strip_prefix("local ")?.split_once(" = "));
        for (names, values) in declared {
            if let Some(at) = names.split(", ").position(|name| name == variable) {
                let value = values.split(", ").nth(at).unwrap_or_default();
                return value.parse().unwrap_or_else(|_| panic!("{}: {variable} = {value}", self.name));
            }
        }
        panic!("{}: where does {variable} start?", self.name);
    }
}

#[test]
fn every_script_begins_with_its_verb_its_keys_its_arguments_and_what_it_returns() {
    const TYPES: [&str; 4] = ["(SET)", "(HASH)", "(STREAM)", "(STREAM, group "];
    let mut broken = Vec::new();
    for script in scripts() {
        let mut says = |holds: bool, what: &str| {
            if !holds {
                broken.push(format!("{}: {what}", script.name));
            }
        };
        let first = script.header.first().map_or("", String::as_str);
        says(first.starts_with(&format!("-- {}: ", script.name)), "the first line is `-- <verb>: <purpose>`");
        let parts: Vec<&str> = script
            .header
            .iter()
            .filter_map(|line| {
                ["-- KEYS[", "-- ARGV[", "-- returns "].into_iter().find(|part| line.starts_with(part))
            })
            .collect();
        let mut once = parts.clone();
        once.dedup();
        says(
            once == ["-- KEYS[", "-- ARGV[", "-- returns "],
            "KEYS come first, then ARGV, then what it returns",
        );
        says(parts.iter().filter(|part| **part == "-- returns ").count() == 1, "`returns` stands there once");
        for (_, key) in script.documented("KEYS") {
            says(TYPES.iter().any(|its| key.contains(its)), &format!("the key {key} has no type"));
        }
        says(script.code.lines().all(|line| line.len() <= 120), "a line has more than 120 characters");
    }
    assert_none("headers", &broken);
}

#[test]
fn documented_keys_and_arguments_are_those_used() {
    for script in scripts() {
        for table in ["KEYS", "ARGV"] {
            let documented: BTreeSet<Place> =
                script.documented(table).into_iter().map(|(place, _)| place).collect();
            assert_eq!(documented, script.used(table), "{}: {table} documented (left) and used", script.name);
        }
    }
}

#[test]
fn keys_and_arguments_leave_no_hole() {
    for script in scripts() {
        for table in ["KEYS", "ARGV"] {
            let places: Vec<Place> = script.documented(table).into_iter().map(|(place, _)| place).collect();
            for (at, place) in places.iter().enumerate() {
                let name = &script.name;
                assert_eq!(
                    place.offset as usize,
                    at + 1,
                    "{name}: {table} is documented in order: {places:?}"
                );
                assert!(
                    !place.open || at + 1 == places.len(),
                    "{name}: {table}: nothing comes after an open end"
                );
            }
            // An item's places are as many as its stride, or one item's would be the next one's.
            let mut strides = BTreeMap::new();
            for place in places.iter().filter(|place| place.stride > 0) {
                *strides.entry(place.stride).or_insert(0) += 1;
            }
            assert!(
                strides.iter().all(|(stride, count)| stride == count),
                "{}: {table}: {strides:?}",
                script.name
            );
            assert!(strides.len() <= 1, "{}: {table} has items of one size: {strides:?}", script.name);
            if table == "KEYS" {
                for stride in strides.keys() {
                    let count = format!("#KEYS / {stride} ");
                    assert!(script.code.contains(&count), "{}: items are counted by `{count}`", script.name);
                }
            }
        }
    }
}

#[test]
fn every_script_is_embedded() {
    let scripts_rs = fs::read_to_string(root().join("src/engine/redis/scripts.rs")).unwrap();
    let missing =
        scripts().into_iter().filter(|script| !scripts_rs.contains(&format!("=> \"{}\"", script.name)));
    assert_none("not embedded", &missing.map(|script| script.name).collect::<Vec<_>>());
}

#[test]
fn the_guard_sees_a_missing_and_an_extra_argument() {
    let script = |header: &[&str], code: &str| Script {
        name: "x".into(),
        header: header.iter().map(|&line| line.to_owned()).collect(),
        code: code.to_owned(),
    };
    let header = ["-- KEYS[1] -> node:<nodeId> (HASH)", "-- ARGV[2i+1] -> name", "-- ARGV[4...] -> more"];
    let script = script(&header, "local at = 4\nf(KEYS[1], KEYS[2], ARGV[2 * i + 1], ARGV[at + 2 * o])");
    let places =
        |table| script.documented(table).into_iter().map(|(place, _)| place).collect::<BTreeSet<_>>();
    assert_eq!(script.used("KEYS").difference(&places("KEYS")).count(), 1);
    assert_eq!(script.used("ARGV"), places("ARGV"));
}

/// Scripts include nothing, so some say the same.
#[test]
fn functions_of_one_name_are_alike_in_every_script() {
    let mut known: BTreeMap<String, (String, String)> = BTreeMap::new();
    for script in scripts() {
        // Those within a function stand two spaces further in.
        for indent in ["", "  "] {
            for function in script.code.split(&format!("\n{indent}local function ")).skip(1) {
                let text = function.split(&format!("\n{indent}end\n")).next().unwrap_or_default();
                let text = text.replace(&format!("\n{indent}"), "\n");
                let name = text.split('(').next().unwrap_or_default().to_owned();
                let (first, known) =
                    known.entry(name.clone()).or_insert_with(|| (script.name.clone(), text.clone()));
                assert_eq!(*known, text, "{name} of {first} (left) and {}", script.name);
            }
        }
    }
    assert!(known.contains_key("keep"), "{known:?}");
}
