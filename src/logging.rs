//! The log's way out: by a thread of its own, so that a reader who stalls holds nobody up, and one who has gone, or a
//! disk that is full, costs the log alone. And what is told on standard error, by who has no log.

use std::fmt::Display;
use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::warn;

use crate::lock::lock;

/// Bytes that may wait; what comes on top is left out, and counted.
const MOST_BYTES: usize = 4 << 20;
/// Of which the thread keeps room for so many.
const KEPT_BYTES: usize = 64 << 10;
/// A line waits so long for others: when thousands come at once, a wake-up and a write for each would be dear.
const GATHERING: Duration = Duration::from_millis(2);
/// How long the end of the process waits for a reader.
const LAST_WORDS: Duration = Duration::from_secs(1);

static LOG: Log = Log::new();

/// What the log's lines are written to.
#[derive(Debug)]
pub struct Log {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    left_out: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    text: Vec<u8>,
    /// Lines left out since that was told.
    untold: u64,
    /// The thread has taken some, and is not done with them.
    at_work: bool,
}

/// Starts the thread that writes to standard output. To be called once.
///
/// # Errors
/// Where no thread can be had.
pub fn start() -> io::Result<&'static Log> {
    thread::Builder::new().name("log".to_owned()).spawn(|| LOG.run(io::stdout()))?;
    Ok(&LOG)
}

/// Writes a line to standard error. Where that cannot be written, nobody is left to tell, and the exit status says it.
pub fn say(line: impl Display) {
    show(&format!("switchboard: {line}\n"));
}

/// Writes a text to standard error, if that can be written.
pub fn show(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Waits until what was logged is written, a second at most.
pub fn flush() {
    let waiting = lock(&LOG.waiting);
    let undone = |waiting: &mut Waiting| waiting.at_work || !waiting.text.is_empty();
    drop(LOG.changed.wait_timeout_while(waiting, LAST_WORDS, undone));
}

/// Lines that were left out because too many waited.
pub fn left_out() -> u64 {
    LOG.left_out.load(Ordering::Relaxed)
}

impl Log {
    const fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting { text: Vec::new(), untold: 0, at_work: false }),
            changed: Condvar::new(),
            left_out: AtomicU64::new(0),
        }
    }

    fn run(&self, mut out: impl Write) {
        let mut text = Vec::new();
        loop {
            let untold = self.take(&mut text);
            // Nobody reads it, or there is no room: there is nobody to tell, and the next lines may get through.
            let _ = out.write_all(&text).and_then(|()| out.flush());
            text.clear();
            text.shrink_to(KEPT_BYTES);
            if untold > 0 {
                warn!(lines = untold, "the log was left incomplete: its reader was too slow");
            }
        }
    }

    /// Waits for text and takes it, in exchange for the empty one. Returns how many lines are missing behind it.
    fn take(&self, text: &mut Vec<u8>) -> u64 {
        let mut waiting = lock(&self.waiting);
        waiting.at_work = false;
        self.changed.notify_all();
        let idle = |waiting: &mut Waiting| waiting.text.is_empty();
        let mut waiting = self.changed.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
        waiting.at_work = true;
        drop(waiting);
        thread::sleep(GATHERING);
        let mut waiting = lock(&self.waiting);
        mem::swap(&mut waiting.text, text);
        mem::take(&mut waiting.untold)
    }
}

impl Write for &Log {
    /// Takes a line, or leaves it out. Never fails, and never waits.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = lock(&self.waiting);
        if waiting.text.len() + line.len() > MOST_BYTES {
            waiting.untold += 1;
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let idle = waiting.text.is_empty() && !waiting.at_work;
        waiting.text.extend_from_slice(line);
        drop(waiting);
        if idle {
            self.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A text with its control characters escaped: it makes no line of its own, and tells a terminal nothing.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_debug());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a text each time it is let.
    struct Reader {
        may_read: mpsc::Receiver<()>,
        read: mpsc::Sender<String>,
    }

    impl Write for Reader {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.may_read.recv().map_err(io::Error::other)?;
            let _ = self.read.send(String::from_utf8_lossy(text).into_owned());
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_stalls_holds_nobody_up_and_gets_what_there_was_room_for() {
        let log: &'static Log = Box::leak(Box::new(Log::new()));
        let ((go, may_read), (read, texts)) = (mpsc::channel(), mpsc::channel());
        thread::spawn(move || log.run(Reader { may_read, read }));
        let line = "x".repeat(MOST_BYTES / 4 - 1) + "\n";
        // One may be in the reader's hands already; four wait.
        let mut written = 0;
        while log.left_out.load(Ordering::Relaxed) < 2 {
            (&mut &*log).write_all(line.as_bytes()).unwrap();
            written += 1;
            assert!(written < 20, "a bound that does not hold");
        }
        let mut got = 0;
        while got < (written - 2) * line.len() {
            go.send(()).unwrap();
            got += texts.recv().unwrap().len();
        }
        assert_eq!(got, (written - 2) * line.len(), "whole lines");
        assert_eq!(lock(&log.waiting).untold, 0, "it was told");
        // It writes on after an error.
        (&mut &*log).write_all(b"last\n").unwrap();
        go.send(()).unwrap();
        assert_eq!(texts.recv().unwrap(), "last\n");
    }
}
