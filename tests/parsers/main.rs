//! Runs every parser over its seeds and seeded random mutations of them, as the targets under `fuzz/` do for longer.
//!
//! `SWITCHBOARD_SEED` runs a failed run again.

mod entries;
mod mutate;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use entries::ENTRIES;
use fastrand::Rng;

/// Mutations of each parser's seeds: a second or two in all.
const ROUNDS: usize = 20_000;

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no seeds in {dir:?}");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn no_bytes_upset_a_parser() {
    let mut random = Rng::with_seed(mutate::seed());
    for (name, entry) in ENTRIES {
        let seeds = seeds(name);
        seeds.iter().for_each(|seed| entry(seed));
        for _ in 0..ROUNDS {
            let mut bytes = random.choice(&seeds).unwrap().clone();
            let other = random.choice(&seeds).unwrap();
            mutate::mutate(&mut random, &mut bytes, other);
            if catch_unwind(|| entry(&bytes)).is_err() {
                panic!("{name} is upset by {:?}", String::from_utf8_lossy(&bytes));
            }
        }
    }
}

#[test]
fn every_parser_has_a_target_and_every_target_a_parser() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    let targets =
        manifest.lines().filter_map(|line| line.strip_prefix("path = \"targets/")?.strip_suffix(".rs\""));
    let (mut targets, mut parsers): (Vec<_>, Vec<_>) =
        (targets.collect(), ENTRIES.iter().map(|(name, _)| *name).collect());
    targets.sort_unstable();
    parsers.sort_unstable();
    assert_eq!(targets, parsers);
}
