//! One connection: opening it, a pipeline out and its answers back, and what a failure means.

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, Pipeline, RedisConnectionInfo, RedisError,
    ServerErrorKind, Value, cmd,
};
use tokio::time::timeout;

use super::scripts;
use crate::engine::{Cause, Unavailable};

/// How long one answer may take. A script call is bounded to a millisecond of Redis's time; what comes on top is a
/// machine that is short of CPU, which is no outage. (The client's own default, 500 ms, took one for the other.)
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may take to open.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Why there is no connection where nobody said so.
pub const SILENT: &str = "it does not answer (a wrong port, or TLS on one side alone?)";
/// The same, where it ended before anything was said. Over TLS, Redis cannot say that it has too many clients.
const CLOSED: &str = "it closed the connection without an answer (TLS on one side alone, no client certificate, \
     or too many clients?)";

/// What a server says before it quotes what came with a command that it does not know.
const QUOTES: &str = ", with args beginning with";

/// What came of one command.
pub type Outcome = Result<Value, RedisError>;
/// The same, as the engine tells it.
pub type Returned = Result<Value, Unavailable>;

impl From<RedisError> for Unavailable {
    fn from(error: RedisError) -> Self {
        let cause = if is_refusal(&error) { Cause::Refused } else { Cause::Redis };
        let reason = error.to_string();
        // Whatever does not know a command quotes what came with it: payloads, for instance, which belong into no log.
        let reason = reason.split(QUOTES).next().unwrap_or_default();
        Self { cause, ..Self::new(without_place(reason)) }
    }
}

/// A reason without the script that it comes from, and the line of it: what is refused for one reason is told once.
pub fn without_place(reason: &str) -> Cow<'_, str> {
    // `OOM <reason> script: 199c, on @user_script:18.`; Valkey 9 has no hash there, and a missing right is an `ACL failure in
    // script: ...` since Redis 7.2.
    if let Some((reason, place)) = reason.rsplit_once(" script: ")
        && place.contains("on @user_script:")
    {
        return reason.into();
    }
    // Redis 6.2: `Error running script (call to f_199c): @user_script:18: @user_script: 18: -OOM <reason>`, or where a script
    // has caught it what begins with the second line number.
    let (kind, mut refusal) = match reason.split_once("Error running script (call to ") {
        Some((kind, call)) => (kind, call.split_once("): ").map_or(call, |(_, refusal)| refusal)),
        None => ("", reason),
    };
    let after_line = |text| str::strip_prefix(text, "@user_script:")?.split_once(": ");
    while let Some((_, rest)) = after_line(refusal) {
        refusal = rest;
    }
    match refusal.strip_prefix('-').and_then(|refusal| refusal.split_once(' ')) {
        Some((code, detail)) => format!("\"{code}\": {detail}").into(),
        None => format!("{kind}{refusal}").into(),
    }
}

/// Opens a connection outside any pool.
///
/// # Errors
/// Where nobody answers in time.
pub async fn open(
    info: ConnectionInfo,
    response_timeout: Option<Duration>,
) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(response_timeout);
    let client = Client::open(bare(&info))?;
    let connected = client.get_multiplexed_async_connection_with_config(&config).await;
    let mut connection = connected.map_err(explained)?;
    enter(&mut connection, &info).await?;
    Ok(connection)
}

/// The same place, without what [`enter`] says there.
///
/// The client's own handshake takes whatever is answered to a password for "it is wrong", and has the database chosen in
/// the same breath, so that why somebody was turned away is lost.
pub fn bare(info: &ConnectionInfo) -> ConnectionInfo {
    let protocol = info.redis_settings().protocol();
    let settings = RedisConnectionInfo::default().set_protocol(protocol).set_skip_set_lib_name();
    info.clone().set_redis_settings(settings)
}

/// Says who is there, and which database is meant, over a connection that was opened without.
///
/// # Errors
/// Where that is not taken.
pub async fn enter(connection: &mut MultiplexedConnection, info: &ConnectionInfo) -> Result<(), RedisError> {
    let settings = info.redis_settings();
    let (user, password) = (settings.username(), settings.password());
    if user.is_some() || password.is_some() {
        let mut auth = cmd("AUTH");
        if let Some(user) = user {
            auth.arg(user);
        }
        // A user that needs no password is let in with any, and one that does is not let in as somebody else.
        ask_alone(connection, auth.arg(password.unwrap_or_default())).await.map_err(not_let_in)?;
    }
    if settings.db() != 0 {
        ask_alone(connection, cmd("SELECT").arg(settings.db())).await?;
    }
    Ok(())
}

/// Hears a first word of a new connection before anything else goes out: whoever turns it away (`max number of clients
/// reached`, a protected mode) says so once and closes it, and of several commands of which one was answered the client
/// tells only that the pipe is broken. (What is said before anything was asked may be passed over by the client, one time
/// in twenty on one machine: then the next try hears it.)
///
/// # Errors
/// Why it is of no use.
pub async fn greet(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    ask_alone(connection, cmd("INFO").arg("server")).await
}

/// One command with nothing behind it. A reader's connection has no bound of its own.
async fn ask_alone(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<(), RedisError> {
    let silent = |_| RedisError::from((ErrorKind::Io, SILENT));
    let answer = timeout(RESPONSE_TIMEOUT, command.query_async::<Value>(connection)).await;
    answer.map_err(silent)?.map(drop).map_err(explained)
}

/// In the words that the client has for it, and without those in which a server quotes the password.
fn not_let_in(error: RedisError) -> RedisError {
    match error.code() {
        Some("WRONGPASS") => (ErrorKind::AuthenticationFailed, "Password authentication failed").into(),
        _ if error.to_string().contains(QUOTES) => {
            (ErrorKind::AuthenticationFailed, "this server does not know AUTH").into()
        }
        _ => error,
    }
}

/// What may be wrong where a new connection ended without a word, or nobody spoke.
pub fn explained(error: RedisError) -> RedisError {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    let source = error.source().and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    match source.and_then(|source| source.downcast_ref()).map(io::Error::kind) {
        Some(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => {
            (ErrorKind::Io, CLOSED, error.to_string()).into()
        }
        Some(TimedOut) => (ErrorKind::Io, SILENT).into(),
        _ => error,
    }
}

/// Whether Redis as a whole is away or not ready, as opposed to refusing one command.
pub fn is_outage(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly};
    let not_ready =
        matches!(error.kind(), ErrorKind::Server(BusyLoading | ClusterDown | MasterDown | ReadOnly));
    not_ready || error.is_io_error() || error.is_timeout() || error.is_unrecoverable_error()
}

/// The first of the outcomes by which Redis as a whole is away or not ready.
pub fn outage(outcomes: &[Outcome]) -> Option<&RedisError> {
    outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).find(|error| is_outage(error))
}

/// Whether Redis has answered, and said no to this one command.
pub fn is_refusal(error: &RedisError) -> bool {
    let answered = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
    answered && !is_outage(error) && !has_moved(error)
}

/// Whether a slot of a Cluster is elsewhere, or on its way there: nothing is wrong with who says so.
pub fn has_moved(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, Moved, TryAgain};
    matches!(error.kind(), ErrorKind::Server(Ask | Moved | TryAgain))
}

/// Runs a pipeline on `connection`; each command has its own outcome.
///
/// # Errors
/// Where the connection fails.
pub async fn send_each(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
) -> Result<Vec<Outcome>, RedisError> {
    let values = connection.send_packed_commands(pipeline, 0, pipeline.len()).await?;
    // Each refusal as Redis put it; the crate's own summary of a pipeline has no code to look at.
    let refused = |value: &Value| matches!(value, Value::ServerError(_));
    Ok(values
        .into_iter()
        .map(|value| if refused(&value) { value.extract_error() } else { Ok(value) })
        .collect())
}

/// Runs a pipeline on `connection`; the first command that Redis refuses makes an error of it all.
///
/// # Errors
/// Where the connection fails, or Redis refuses a command.
pub async fn send(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
) -> Result<Vec<Value>, RedisError> {
    send_each(connection, pipeline).await?.into_iter().collect()
}

/// Loads every script.
///
/// # Errors
/// Where the connection fails.
pub async fn load_scripts(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let mut pipeline = redis::pipe();
    for source in scripts::sources() {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(source);
    }
    send(connection, &pipeline).await.map(drop)
}

/// Whether Redis does not know a script (any more).
pub fn lacks_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_does_not_quote_what_was_sent() {
        let told = |detail: &str| {
            let error = RedisError::from((ErrorKind::Extension, "refused", detail.to_owned()));
            Unavailable::from(error).to_string()
        };
        let quoted = told("unknown command 'XADD', with args beginning with: 'uplink' '*' 's3cret'");
        assert_eq!(quoted, told("unknown command 'XADD'"));
        let renamed = b"-ERR unknown command 'AUTH', with args beginning with: 's3cret' \r\n";
        let renamed = redis::parse_redis_value(renamed).unwrap().extract_error().unwrap_err();
        let refusal = not_let_in(renamed).to_string();
        assert!(refusal.starts_with("this server does not know AUTH"), "{refusal}");
        assert!(!refusal.contains("s3cret"), "{refusal}");
        assert!(told("WRONGTYPE: no stream").ends_with("WRONGTYPE: no stream"));
    }

    #[test]
    fn one_refusal_is_one_reason_whichever_script_it_comes_from() {
        let told = |answer: &str| {
            let answer = redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap();
            let error = answer.extract_error().unwrap_err();
            Unavailable::from(error).reason
        };
        let full = "OOM command not allowed when used memory > 'maxmemory'.";
        let alone = told(full);
        for in_script in [
            format!("{full} script: 199c, on @user_script:18."),
            format!("{full} script: on @user_script:18."),
            format!("ERR Error running script (call to f_199c): @user_script:18: @user_script: 18: -{full}"),
        ] {
            assert_eq!(told(&in_script), alone, "{in_script}");
        }
        let no_right = "User u has no permissions to run the 'smembers' command";
        for place in ["", " script: 199c, on @user_script:18.", " script: on @user_script:18."] {
            let reason = told(&format!("ERR ACL failure in script: {no_right}{place}"));
            assert!(reason.ends_with(&format!("ACL failure in script: {no_right}")), "{reason}");
        }
        assert_eq!(without_place("@user_script: 153: no right"), "no right");
        let no_type = told("ERR Error running script (call to f_199c): @user_script:1: WRONGTYPE Operation");
        assert!(no_type.ends_with(": WRONGTYPE Operation") && !no_type.contains("199c"), "{no_type}");
    }
}
