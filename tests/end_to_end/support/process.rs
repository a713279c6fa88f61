//! One run of the real binary, with a clean environment, its output captured, and no way to outlive its test.

use std::io::{BufRead, BufReader, PipeWriter, Read, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::wait::{BOUND, eventually};

/// How much of a failed test's logs is shown: enough for the last seconds, not all of a load test.
const SHOWN_LINES: usize = 300;

/// A started process. Killed when dropped; where the test failed, its output is printed first.
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// The threads that add to `lines`, until their pipe ends.
    captures: Vec<JoinHandle<()>>,
    _dir: TempDir,
}

/// What a process is started with.
#[derive(Clone, Default)]
pub struct Launch {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Another program than the one that was just built.
    pub program: Option<String>,
    /// Content of a `.env` file in the working directory.
    pub dotenv: Option<String>,
    /// The limit on open files.
    pub open_files: Option<u32>,
}

impl Launch {
    /// With these arguments and environment variables.
    pub fn of(args: &[&str], env: &[(&str, &str)]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { args, env, ..Self::default() }
    }

    /// The command and the temporary directory that it runs in: a stray `.env` of the machine must not matter.
    pub fn command(&self) -> (Command, TempDir) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        if let Some(text) = &self.dotenv {
            std::fs::write(dir.path().join(".env"), text).expect("writing .env");
        }
        let binary = self.program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_switchboard"));
        let mut command = match self.open_files {
            None => Command::new(binary),
            Some(most) => {
                // A shell can lower the limit before the program starts.
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\""), binary]);
                shell
            }
        };
        command.args(&self.args).current_dir(dir.path()).stdin(Stdio::null()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.env.iter().cloned());
        (command, dir)
    }

    /// Starts the process and captures what it prints.
    pub fn spawn(&self, name: &str) -> Process {
        let (mut command, dir) = self.command();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting the switchboard binary");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let captures = vec![
            capture(child.stdout.take().expect("stdout"), Arc::clone(&lines)),
            capture(child.stderr.take().expect("stderr"), Arc::clone(&lines)),
        ];
        Process { name: name.to_owned(), child, lines, captures, _dir: dir }
    }

    /// Starts the process, and leaves what it prints to whoever has the other end of the pipe.
    #[allow(dead_code)] // for tests/chaos
    pub fn spawn_into(&self, name: &str, pipe: PipeWriter) -> Process {
        let (mut command, dir) = self.command();
        command.stdout(pipe.try_clone().expect("its twin")).stderr(pipe);
        let child = command.spawn().expect("starting the switchboard binary");
        Process { name: name.to_owned(), child, lines: Arc::default(), captures: Vec::new(), _dir: dir }
    }

    /// Runs the process to its end, for the starts that are meant to fail or to print something.
    pub async fn output(&self, bound: Duration) -> Output {
        let (mut command, _dir) = self.command();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.expect("starting the switchboard binary");
        let pid = Pid::from_child(&child);
        let waiting = tokio::task::spawn_blocking(move || child.wait_with_output());
        match tokio::time::timeout(bound, waiting).await {
            Ok(output) => output.expect("the waiting thread").expect("the process's output"),
            Err(_) => {
                // It serves although it should have refused: end it, or the thread would wait for ever.
                rustix::process::kill_process(pid, Signal::KILL).ok();
                panic!("{:?} was still running after {bound:?}", self.args);
            }
        }
    }
}

impl Process {
    /// Everything printed so far, standard output and standard error together. The last of it may still be on its way:
    /// for what must not be there, see [`Process::whole_log`].
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("captured lines").clone()
    }

    /// The most memory that it has had so far, bytes. The system counts by threads, and may say a little less later.
    #[cfg(target_os = "linux")]
    pub fn peak_memory(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// The memory that it has now, bytes.
    #[cfg(target_os = "linux")]
    pub fn memory(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// Its threads.
    #[cfg(target_os = "linux")]
    #[allow(dead_code)] // for tests/chaos
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads").count()
    }

    #[cfg(target_os = "linux")]
    fn status_bytes(&self, name: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of it");
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB")
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).expect("sending a signal");
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().expect("waiting for a killed process");
    }

    /// The exit status where the process has ended.
    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("asking for the exit status")
    }

    /// Waits for the process to end by itself.
    pub async fn exit(&mut self, bound: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        eventually(bound, &what, async || self.try_exit().ok_or("still running".to_owned())).await
    }

    /// Everything that it ever prints: ends it by SIGTERM, and waits for the last line.
    pub async fn whole_log(&mut self) -> Vec<String> {
        self.signal(Signal::TERM);
        self.last_log().await
    }

    /// The same of a process that ends by itself, or has ended.
    pub async fn last_log(&mut self) -> Vec<String> {
        self.exit(2 * BOUND).await;
        eventually(BOUND, &format!("the end of what {} prints", self.name), async || {
            let ended = self.captures.iter().all(JoinHandle::is_finished);
            if ended { Ok(()) } else { Err("more may come".to_owned()) }
        })
        .await;
        self.lines()
    }

    /// Waits for a log line that fits, and gives it.
    pub async fn log_line(&self, bound: Duration, what: &str, fits: impl Fn(&str) -> bool) -> String {
        eventually(bound, what, async || {
            let lines = self.lines();
            let found = lines.iter().find(|line| fits(line)).cloned();
            found.ok_or_else(|| format!("{} lines of log, none of them that", lines.len()))
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let lines = self.lines();
            let from = lines.len().saturating_sub(SHOWN_LINES);
            println!("--- output of {} ({} lines) ---", self.name, lines.len());
            lines[from..].iter().for_each(|line| println!("{line}"));
            std::io::stdout().flush().ok();
        }
    }
}

/// Reads a pipe on a thread of its own: the process must never block on it, whatever the test's runtime does.
fn capture(pipe: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            lines.lock().expect("captured lines").push(line);
        }
    })
}
