//! Fuzzes `ingress`: what is run, and what must hold, stands in `tests/parsers/entries.rs`.

#![no_main]

#[path = "../../tests/parsers/entries.rs"]
#[allow(dead_code)]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::ingress(bytes));
