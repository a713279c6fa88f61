//! What can be done from a terminal besides running a node. Each command takes what was asked as a plain struct; how
//! it stood on the command line is `cli`'s matter.

pub mod bench;
pub mod check;
pub mod endpoint;
pub mod publish;
pub mod status;
pub mod tail;
pub mod trace;
pub mod wire;

/// How a command failed; its message goes to standard error.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for cannot be: exit status 2.
    Usage(String),
    /// It was tried and did not work: exit status 1.
    Failed(String),
    /// The same, and everything about it has been said.
    Told,
}

/// How a command ended.
pub type Outcome = Result<(), Failure>;

/// Writes a text to standard output. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
