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

use std::io::{self, ErrorKind, Write};

use tokio::task::spawn_blocking;

use crate::shutdown::Signals;

/// How a command failed; its message goes to standard error.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for cannot be: exit status 2.
    Usage(String),
    /// It was tried and did not work: exit status 1.
    Failed(String),
    /// The same, and everything about it has been said.
    Told,
    /// Whoever read what is printed has gone (`| head`): no failure, and no reason to go on.
    Unread,
}

/// How a command ended.
pub type Outcome = Result<(), Failure>;

/// Writes a text to standard output.
///
/// # Errors
/// Where nobody reads it any more, or it cannot be written: a disk that is full.
pub fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::Failed(format!("standard output cannot be written to: {error}")),
    })
}

/// The same from a thread that may wait for a reader who stalls, for a command that has something else to hear meanwhile.
/// Who does not wait for it any longer may end: the process does not wait, either.
///
/// # Errors
/// The same.
pub async fn print_aside(text: String) -> Outcome {
    spawn_blocking(move || print(&text)).await.unwrap_or(Err(Failure::Told)) // a panic has told about itself
}

/// Rows of cells as text, each column as wide as its widest cell.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
            text += &format!("{cell:width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Listens for SIGTERM, SIGINT and SIGHUP, for a command that has something to do before it ends.
fn signals() -> Result<Signals, Failure> {
    Signals::listen().map_err(|error| Failure::Failed(format!("signals cannot be heard: {error}")))
}
