//! What the README must not leave out.

use std::fs;

use switchboard::protocol::code::Code;

use crate::{assert_none, root};

#[test]
fn every_error_code_is_documented_with_cause_and_cure() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let documented = |code: &str| {
        readme.lines().filter(|line| line.starts_with("| ")).any(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let at = cells.iter().position(|cell| cell.split(", ").any(|its| its == format!("`{code}`")));
            at.is_some_and(|at| cells.len() == at + 3 && cells[at + 1..].iter().all(|cell| !cell.is_empty()))
        })
    };
    let missing = Code::ALL.iter().map(|code| code.as_str()).filter(|code| !documented(code));
    assert_none(
        "not in a table of the README with cause and cure",
        &missing.map(str::to_owned).collect::<Vec<_>>(),
    );
}
