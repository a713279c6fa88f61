//! `switchboard health`: asks a node whether it is alive, for container health checks.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::command::endpoint::{self, Endpoint};
use crate::settings::read::{BARE, Reader, Source};

/// Docker's own default is 30 s; a process that takes 3 to say `ok` is not well.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where `GET /healthz` is asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// Host and port of a node on this machine, or the one that `--worker-url` names.
    pub first: (String, u16),
    /// The node of `WORKER_SOCKET_URL`, where nobody listens at the first: in a container that may be the address of
    /// all nodes together, and so not the first to ask.
    pub second: Option<(String, u16)>,
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
            (reader.value("worker-url", &allowed, host_and_port), None)
        } else {
            // That of the environment is what workers are told: where TLS ends before the node, it is of no use here.
            let second = reader.given("worker-url").and_then(host_and_port);
            (endpoint::here(reader, "worker-port"), second)
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
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let node = Endpoint::at(url).filter(|node| !node.secure)?;
    Some((node.host, node.port))
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

async fn attempt((host, port): &(String, u16)) -> std::io::Result<String> {
    match timeout(PATIENCE, ask(host, *port)).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time")),
    }
}

async fn ask(host: &str, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(request(host, port).as_bytes()).await?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer).await?;
    Ok(answer)
}

fn request(host: &str, port: u16) -> String {
    let host = endpoint::authority(host, port);
    format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Target, String> {
        Target::of(&mut Reader::of_tests(flags, env, &[]))
    }

    #[test]
    fn only_a_url_that_was_asked_for_must_be_one_that_can_be_asked() {
        let here = || ("127.0.0.1".to_owned(), 4001);
        for url in ["wss://relay/workers", "https://relay", "relay"] {
            let target = found(&[], &[("WORKER_SOCKET_URL", url)]).unwrap();
            assert_eq!(target, Target { first: here(), second: None }, "{url}");
            assert!(found(&[("worker-url", url)], &[]).unwrap_err().contains(url));
        }
        let target = found(&[], &[("WORKER_SOCKET_URL", "ws://relay:7")]).unwrap();
        assert_eq!(target, Target { first: here(), second: Some(("relay".to_owned(), 7)) });
        let mistakes = found(&[("bind", "nonsense"), ("worker-port", "0")], &[]).unwrap_err();
        assert!(mistakes.lines().count() == 2 && mistakes.contains("--bind"), "{mistakes}");
        assert!(found(&[("bind", "nonsense"), ("worker-url", "ws://relay:7")], &[]).is_ok(), "not asked for");
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let read = |url: &str| host_and_port(url).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(read("ws://127.0.0.1:4001").as_deref(), Some("127.0.0.1 4001"));
        assert_eq!(read("http://relay:4001/ws?x=1").as_deref(), Some("relay 4001"));
        assert_eq!(read("http://relay").as_deref(), Some("relay 80"));
        assert_eq!(read("ws://[::1]:4001/").as_deref(), Some("::1 4001"));
        assert!(request("::1", 4001).contains("\r\nHost: [::1]:4001\r\n"));
        assert!(request("relay", 80).contains("\r\nHost: relay:80\r\n"));
        for bad in ["", "relay:4001", "https://relay", "ws://", "ws://relay:port"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
