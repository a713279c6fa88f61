//! Adds to an ingress stream from outside, as a back end would: the load generator's way of publishing by `XADD`.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;

use super::connection::{Address, Topology};
use super::home::Home;
use super::keys::Keys;
use super::map;
use super::sentinel::Sentinels;
use super::slot::Slot;
use super::wire::{RESPONSE_TIMEOUT, open, send};
use crate::engine::Unavailable;

/// An entry of an ingress stream.
#[derive(Debug)]
pub struct Entry {
    /// Who gets it.
    pub user: String,
    /// The event's name.
    pub event: &'static str,
    /// JSON text.
    pub data: Vec<u8>,
}

/// A connection that adds entries to one stream.
pub struct Appender {
    connection: MultiplexedConnection,
    stream: String,
}

impl Appender {
    /// Connects.
    ///
    /// # Errors
    /// Where Redis cannot be addressed, or is away.
    pub async fn open(address: &Address, key_prefix: &str, stream: &str) -> Result<Self, Unavailable> {
        let topology = address.topology().map_err(|error| Unavailable::new(error.to_string()))?;
        let stream = Keys::new(key_prefix, false).ingress(stream);
        let place = match topology {
            Topology::Server(info) => info,
            Topology::Sentinel { sentinels, name, master } => {
                let sentinels = Sentinels::new(sentinels, name, master, Arc::default());
                sentinels.master(&Home::default(), true).await?.0
            }
            Topology::Cluster(seeds) => map::owner(&seeds, Slot::of(stream.as_bytes())).await?,
        };
        let connection = open(place, Some(RESPONSE_TIMEOUT)).await?;
        Ok(Self { connection, stream })
    }

    /// Adds entries in one round trip, in their order.
    ///
    /// # Errors
    /// Where Redis is away, or refuses any of them.
    pub async fn add(&mut self, entries: impl Iterator<Item = &Entry>) -> Result<(), Unavailable> {
        let mut pipeline = redis::pipe();
        for entry in entries {
            let add = pipeline.cmd("XADD").arg(&self.stream).arg("*");
            add.arg("user").arg(&entry.user).arg("event").arg(entry.event).arg("data").arg(&entry.data);
        }
        send(&mut self.connection, &pipeline).await?;
        Ok(())
    }
}
