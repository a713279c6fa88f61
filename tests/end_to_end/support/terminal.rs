//! Somebody at a terminal, or a script: runs the command line with a standard input, and sees what it prints where.

use std::io::Write;
use std::process::Stdio;

use super::process::Launch;
use super::wait::within;
use super::{BOUND, Node};

/// What a run printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Its output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }

    /// The same, each as JSON.
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}")))
            .collect()
    }
}

/// The command line with these arguments.
pub fn line(args: &[&str]) -> Launch {
    Launch::of(args, &[])
}

/// The command line with these arguments, and the address of a node's ports in the environment.
pub fn line_at(node: &Node, args: &[&str]) -> Launch {
    let mut line = line(args);
    line.env.push(("WORKER_SOCKET_URL".to_owned(), node.worker_url.clone()));
    line.env.push(("CLIENT_SOCKET_URL".to_owned(), node.client_url.clone()));
    line
}

/// Runs it to its end; without `input`, standard input is empty. A load that waits for what is missing takes its time.
pub async fn run(line: &Launch, input: impl AsRef<[u8]>) -> Ran {
    let (mut command, dir) = line.command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starting the switchboard binary");
    let mut stdin = child.stdin.take().expect("standard input");
    let input = input.as_ref().to_owned();
    // A thread of its own: the process may answer before it has read everything.
    std::thread::spawn(move || stdin.write_all(&input).ok());
    let pid = rustix::process::Pid::from_child(&child);
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output());
    let ended = tokio::time::timeout(4 * BOUND, waiting).await;
    let Ok(output) = ended else {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        panic!("{:?} has not ended", line.args);
    };
    drop(dir);
    let output = output.expect("the waiting thread").expect("the process's output");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs `switchboard` against a node.
pub async fn at(node: &Node, args: &[&str]) -> Ran {
    within(5 * BOUND, "the end of a command", run(&line_at(node, args), "")).await
}
