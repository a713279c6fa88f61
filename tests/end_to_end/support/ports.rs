//! Ports that nobody listens on.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// First port handed out and how many there are.
///
/// All below Linux' ephemeral range (32768 and up): a node that retries towards a port where nobody
/// listens could otherwise be given that very port as its own, and would talk to itself.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that was free a moment ago and that no other test of this process gets.
///
/// Another test process may take it in between: whoever starts a server on it tries again with another.
pub fn free_port() -> u16 {
    // Processes that run side by side start at different places.
    let offset = (std::process::id() as u16).wrapping_mul(97) % COUNT;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (offset + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
