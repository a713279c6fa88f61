//! `switchboard health`: asks a node whether it is alive, for container health checks.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::settings::Settings;

/// Docker's own default is 30 s; a process that takes 3 to say `ok` is not well.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks `GET /healthz` of this machine's worker port.
///
/// # Errors
/// What went wrong, in words.
pub async fn check(settings: &Settings) -> Result<(), String> {
    let host =
        if settings.bind.is_unspecified() { "127.0.0.1".to_owned() } else { settings.bind.to_string() };
    let asked = timeout(PATIENCE, ask(&host, settings.worker_port)).await;
    let answer = asked.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
    match answer.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(format!("unexpected answer: {}", answer.lines().next().unwrap_or_default())),
    }
}

async fn ask(host: &str, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer).await?;
    Ok(answer)
}
