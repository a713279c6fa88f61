//! The program: settings, logging, a node, a drain.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use switchboard::cli::{self, Cli};
use switchboard::command::{self, Failure, Outcome};
use switchboard::health::{self, Target};
use switchboard::logging::{self, say};
use switchboard::moderation;
use switchboard::relay::Relay;
use switchboard::renewal::End;
use switchboard::settings::read::Reader;
use switchboard::settings::{LogFormat, Settings};
use switchboard::shutdown;
use tokio::runtime::Builder;
use tokio::time::interval;
use tracing::error;

/// A tenth of a node's CPU time less than glibc's, and less memory for an idle session.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Settings are off.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    forget_what_is_empty();
    match cli::parse() {
        Cli::Serve(given) => serve(given),
        Cli::Health(given) => on(1, ask_health(given)),
        // Threads of its own do the work.
        Cli::Bench(given, bench) => ended(command::bench::run(given, &bench)),
        Cli::Check(given, check) => ended(command::check::run(given, &check)),
        Cli::Publish(given, publish) => on(1, async { ended(command::publish::run(given, *publish).await) }),
        Cli::Tail(given, tail) => on(1, async { ended(command::tail::run(given, tail).await) }),
        Cli::Status(given, asked) => on(1, async { ended(command::status::run(given, asked).await) }),
        Cli::Trace(given, trace) => on(1, async { ended(command::trace::run(given, trace).await) }),
        Cli::Print(text) => ended(command::print(&text)),
    }
}

/// An empty variable counts as not set: also for the library that reads this one.
fn forget_what_is_empty() {
    if std::env::var_os("SSL_CERT_FILE").is_some_and(|file| file.is_empty()) {
        #[expect(unsafe_code, reason = "no other thread is there yet that could read the environment")]
        unsafe {
            std::env::remove_var("SSL_CERT_FILE");
        }
    }
}

/// Does the work on so many threads.
fn on(threads: usize, work: impl Future<Output = ExitCode>) -> ExitCode {
    // One thread alone has nobody to share with, and needs no scheduler that does.
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.on_thread_park(move || moderation::before_waiting(threads));
    let runtime = match builder.worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(work);
    // Readers that wait for Redis hold nothing that matters now.
    runtime.shutdown_background();
    code
}

fn ended(outcome: Outcome) -> ExitCode {
    let (message, code) = match outcome {
        Ok(()) | Err(Failure::Unread) => return ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => (message, ExitCode::from(UNUSABLE)),
        Err(Failure::Failed(message)) => (message, ExitCode::FAILURE),
        Err(Failure::Told) => (String::new(), ExitCode::FAILURE),
    };
    for line in message.lines() {
        say(line);
    }
    code
}

fn serve(given: Reader) -> ExitCode {
    let settings = match read(given) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    if let Err(error) = log(&settings) {
        say(format_args!("cannot start: {error}"));
        return ExitCode::FAILURE;
    }
    let code = on(settings.threads, async {
        tokio::spawn(give_memory_back());
        let relay = match Relay::start(settings).await {
            Ok(relay) => relay,
            Err(error) => {
                error!(%error, "cannot start");
                return ExitCode::FAILURE;
            }
        };
        match relay.run(shutdown::asked()).await {
            End::Stopped => ExitCode::SUCCESS,
            End::TakenOver | End::Failed => ExitCode::FAILURE,
        }
    });
    logging::flush();
    code
}

/// Gives the system what has been free for a second, which the allocator does by itself only where more becomes free: a
/// node that has gone quiet would keep what it had when much came.
async fn give_memory_back() {
    let mut ticks = interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        #[expect(
            unsafe_code,
            reason = "no crate has a safe name for it, which may be called at any time on any thread"
        )]
        unsafe {
            libmimalloc_sys::mi_collect(false);
        }
    }
}

async fn ask_health(mut given: Reader) -> ExitCode {
    let target = match Target::of(&mut given) {
        Ok(target) => target,
        Err(mistakes) => return ended(Err(Failure::Usage(mistakes))),
    };
    match health::check(&target).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            say(format_args!("not healthy: {reason}"));
            ExitCode::FAILURE
        }
    }
}

fn read(given: Reader) -> Result<Settings, ExitCode> {
    Settings::parse(given).map_err(|mistakes| {
        for mistake in mistakes {
            say(mistake.told);
        }
        ExitCode::from(UNUSABLE)
    })
}

fn log(settings: &Settings) -> io::Result<()> {
    let filter = tracing_subscriber::EnvFilter::new(&settings.log_level);
    let log = logging::start()?;
    // A line that cannot be formatted must not be told on standard error: that may be broken, too.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    let builder = builder.with_writer(move || log);
    match settings.log_format {
        // Colours are for people at a terminal.
        LogFormat::Text => builder.with_target(false).with_ansi(io::stdout().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
