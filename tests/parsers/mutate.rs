//! Seeded mutations of bytes: the same seed makes the same bytes.

use fastrand::Rng;

/// Bytes that parsers have trouble with.
const AWKWARD: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b" ",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"@",
    b"-",
    b"=",
    b"!",
    b"%7D",
    b"%00",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"1e400",
    b"-0",
    b"18446744073709551616",
    b"999999999999999",
    b"0-0",
    b"\xed\xa0\x80",
    b"\xc3\xa9",
    b"\xe2\x80\xae",
    b"*",
    b"://",
    b"/",
    b"KiB",
    b"ms",
];

/// A seed from the environment (`SWITCHBOARD_SEED`), or a new one. Printed, so that a failure can be run again.
pub fn seed() -> u64 {
    let given = std::env::var("SWITCHBOARD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("SWITCHBOARD_SEED={seed}");
    seed
}

/// Changes `bytes` in one to four places; may take from `other`.
pub fn mutate(random: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..=16)).min(bytes.len());
        match random.u8(..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            1 if at < bytes.len() => bytes[at] = random.u8(..),
            2 => _ = bytes.drain(at..end),
            3 => {
                let part = bytes[at..end].to_vec();
                for _ in 0..random.usize(1..=3) {
                    bytes.splice(at..at, part.iter().copied());
                }
            }
            4 => bytes.truncate(at),
            5 => {
                let from = random.usize(..=other.len());
                let part = &other[from..(from + random.usize(..=64)).min(other.len())];
                bytes.splice(at..end, part.iter().copied());
            }
            _ => {
                let awkward = AWKWARD[random.usize(..AWKWARD.len())];
                bytes.splice(at..at, awkward.iter().copied());
            }
        }
    }
}
