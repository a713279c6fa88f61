//! The map of a Cluster: which master has which slot, as its members tell it.

use std::sync::Arc;

use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, Value};
use tracing::debug;

use super::connection::at;
use super::server::Server;
use super::slot::Slot;
use super::wire::{CONNECT_TIMEOUT, explained, open};

/// No master has this slot.
pub const NOBODY: u16 = u16::MAX;

/// Host and port.
pub type At = (String, u16);
/// First and last slot, and whose they are.
pub type Range = (u16, u16, At);

/// Who has which slot.
pub struct Map {
    /// The masters.
    pub servers: Vec<Arc<Server>>,
    /// For each slot a place in `servers`, or [`NOBODY`].
    pub owners: Vec<u16>,
    /// Every member that is known, replicas too: whom to ask for the next map.
    pub members: Vec<At>,
}

impl Map {
    /// The master that has a slot.
    pub fn owner(&self, slot: Slot) -> Option<&Arc<Server>> {
        self.servers.get(usize::from(*self.owners.get(usize::from(slot.0))?))
    }

    /// Whether `slot` is on the server of this name.
    pub fn is_on(&self, slot: Slot, name: &str) -> bool {
        self.owner(slot).is_some_and(|server| server.name == name)
    }
}

/// How a member is called here.
pub fn name(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

/// Who has which slot, and who is there, as one member sees it.
///
/// # Errors
/// Where it does not answer, or knows of no slot.
pub async fn view(info: ConnectionInfo) -> Result<(Vec<Range>, Vec<At>), RedisError> {
    let asked = async {
        let mut connection = open(info.clone(), Some(CONNECT_TIMEOUT)).await?;
        redis::cmd("CLUSTER").arg("SLOTS").query_async::<Value>(&mut connection).await
    };
    let itself = match info.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.as_str(),
        _ => "",
    };
    let seen = match asked.await {
        Ok(answer) => read(&answer, itself).ok_or_else(|| {
            (ErrorKind::Io, "this member of the Cluster knows of no slot that anybody has").into()
        }),
        Err(error) => Err(explained(error)),
    };
    if let Err(error) = &seen {
        debug!(address = %info.addr(), %error, "a member of the Cluster does not say who has which slot");
    }
    seen
}

/// Reads the answer to `CLUSTER SLOTS`; none where it has another shape, or no lines.
fn read(answer: &Value, itself: &str) -> Option<(Vec<Range>, Vec<At>)> {
    let Value::Array(lines) = answer else { return None };
    let mut ranges = Vec::with_capacity(lines.len());
    let mut members = Vec::new();
    for line in lines {
        let Value::Array(line) = line else { return None };
        let [Value::Int(first), Value::Int(last), servers @ ..] = line.as_slice() else { return None };
        let servers: Vec<At> = servers.iter().filter_map(|server| member(server, itself)).collect();
        ranges.push((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, servers.first()?.clone()));
        members.extend(servers);
    }
    ranges.sort();
    members.sort();
    members.dedup();
    (!ranges.is_empty()).then_some((ranges, members))
}

/// Where the master of a slot is, as the first of `members` that answers sees it.
///
/// # Errors
/// Where none answers, or nobody has the slot.
pub async fn owner(members: &[ConnectionInfo], slot: Slot) -> Result<ConnectionInfo, RedisError> {
    let mut why = None;
    for member in members {
        let (ranges, _) = match view(member.clone()).await {
            Ok(view) => view,
            Err(error) => {
                why = Some(format!("{}: {error}", member.addr()));
                continue;
            }
        };
        let mine = ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot.0));
        if let Some((_, _, (host, port))) = mine {
            return Ok(at(member, host, *port));
        }
    }
    Err(nobody(why))
}

/// No master has the slot, because of that where it is known.
pub fn nobody(why: Option<String>) -> RedisError {
    const NOBODY: &str = "no master of the Cluster has this slot";
    why.map_or_else(|| (ErrorKind::Io, NOBODY).into(), |why| (ErrorKind::Io, NOBODY, why).into())
}

/// A member's preferred address; one that does not know its own is where it was asked.
fn member(value: &Value, itself: &str) -> Option<At> {
    let Value::Array(parts) = value else { return None };
    let host = match parts.first()? {
        Value::BulkString(host) if !host.is_empty() && host != b"?" => {
            String::from_utf8(host.clone()).ok()?
        }
        _ => itself.to_owned(),
    };
    let Value::Int(port) = parts.get(1)? else { return None };
    Some((host, u16::try_from(*port).ok()?))
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_member_that_waits_for_more_or_hangs_up_may_speak_tls_or_not() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (scheme, hangs_up) in [("rediss", false), ("redis", false), ("redis", true)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("{scheme}://{}", listener.local_addr().unwrap());
            let silent = tokio::spawn(async move {
                let mut there = Vec::new();
                while let Ok((stream, _)) = listener.accept().await {
                    there.extend((!hangs_up).then_some(stream));
                }
            });
            let error = view(url.into_connection_info().unwrap()).await.unwrap_err().to_string();
            assert!(error.contains("TLS on one side alone"), "{scheme} {hangs_up}: {error}");
            silent.abort();
        }
    }
}
