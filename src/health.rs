//! `switchboard health`: asks a node whether it is alive, for container health checks.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::command::endpoint::Endpoint;
use crate::settings::read::{BARE, Reader, Source};

/// Docker's own default is 30 s; a process that takes 3 to say `ok` is not well.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where `GET /healthz` is asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// A node on this machine, or the one that `--worker-url` names.
    pub first: Endpoint,
    /// The node of `WORKER_SOCKET_URL`, where nobody listens at the first: in a container that may be the address of
    /// all nodes together, and so not the first to ask.
    pub second: Option<Endpoint>,
}

impl Target {
    /// Finds the node: `--worker-url`, or `--bind` and `--worker-port` here.
    ///
    /// # Errors
    /// What is off, in words, one line for each mistake.
    pub fn of(reader: &mut Reader) -> Result<Self, String> {
        // What was off before these is another setting's matter.
        let earlier = reader.mistakes.len();
        let (first, second) = if reader.source("worker-url") == Source::Flag {
            let allowed = format!("an address like ws://host:4001 or http://, {BARE}");
            (reader.value("worker-url", &allowed, plain), None)
        } else {
            // That of the environment is what workers are told: where TLS ends before the node, it is of no use here.
            let second = reader.given("worker-url").and_then(plain);
            (Endpoint::here(reader, "worker-url", "worker-port"), second)
        };
        let mistakes: Vec<&str> =
            reader.mistakes[earlier..].iter().map(|mistake| mistake.told.as_str()).collect();
        match first.filter(|_| mistakes.is_empty()) {
            Some(first) => Ok(Self { first, second }),
            None => Err(mistakes.join("\n")),
        }
    }
}

/// None where TLS ends before the node.
fn plain(url: &str) -> Option<Endpoint> {
    Endpoint::at(url).filter(|node| !node.secure)
}

/// Asks whether the node is alive.
///
/// # Errors
/// What went wrong, in words.
pub async fn check(target: &Target) -> Result<(), String> {
    let answer = match (attempt(&target.first).await, &target.second) {
        (Err(error), Some(second)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            attempt(second).await
        }
        (answer, _) => answer,
    };
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(format!("unexpected answer: {}", answer.lines().next().unwrap_or_default())),
    }
}

async fn attempt(node: &Endpoint) -> std::io::Result<String> {
    match timeout(PATIENCE, ask(node)).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time")),
    }
}

async fn ask(node: &Endpoint) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((node.host.as_str(), node.port)).await?;
    stream.write_all(request(node).as_bytes()).await?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer).await?;
    Ok(answer)
}

fn request(node: &Endpoint) -> String {
    let (resource, host) = (node.resource("/healthz"), node.authority());
    format!("GET {resource} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Target, String> {
        Target::of(&mut Reader::of_tests(flags, env, &[]))
    }

    #[test]
    fn only_a_url_that_was_asked_for_must_be_one_that_can_be_asked() {
        let at = |target: Target| (target.first.authority(), target.second.map(|node| node.authority()));
        let here = || "127.0.0.1:4001".to_owned();
        for url in ["wss://relay/workers", "https://relay", "relay"] {
            assert_eq!(at(found(&[], &[("WORKER_SOCKET_URL", url)]).unwrap()), (here(), None), "{url}");
            assert!(found(&[("worker-url", url)], &[]).unwrap_err().contains(url));
        }
        let target = found(&[], &[("WORKER_SOCKET_URL", "ws://relay:7")]).unwrap();
        assert_eq!(at(target), (here(), Some("relay:7".to_owned())));
        let mistakes = found(&[("bind", "nonsense"), ("worker-port", "0")], &[]).unwrap_err();
        assert!(mistakes.lines().count() == 2 && mistakes.contains("--bind"), "{mistakes}");
        assert!(found(&[("bind", "nonsense"), ("worker-url", "ws://relay:7")], &[]).is_ok(), "not asked for");
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let read = |url: &str| plain(url).map(|node| request(&node));
        let asked = |path: &str, host: &str| {
            Some(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
        };
        assert_eq!(read("ws://127.0.0.1:4001"), asked("/healthz", "127.0.0.1:4001"));
        assert_eq!(read("http://relay:4001/ws?x=1"), asked("/healthz", "relay:4001"));
        assert_eq!(read("ws://relay:4001/live/ws"), asked("/live/healthz", "relay:4001"));
        assert_eq!(read("http://relay/live/"), asked("/live/healthz", "relay:80"));
        assert_eq!(read("ws://[::1]:4001/"), asked("/healthz", "[::1]:4001"));
        for bad in ["", "relay:4001", "https://relay", "ws://", "ws://relay:port"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
