//! Adds to the ingress stream from outside, as a back end would: the load generator's way of publishing by `XADD`.

use redis::aio::MultiplexedConnection;

use super::connection::Address;
use super::keys::Keys;
use super::link;
use crate::engine::Unavailable;

/// An entry of the ingress stream.
#[derive(Debug)]
pub struct Entry {
    /// Who gets it.
    pub user: String,
    /// The event's name.
    pub event: &'static str,
    /// JSON text.
    pub data: Vec<u8>,
}

/// A connection that adds entries.
pub struct Appender {
    connection: MultiplexedConnection,
    stream: String,
}

impl Appender {
    /// Connects.
    ///
    /// # Errors
    /// Where Redis cannot be addressed, or is away.
    pub async fn open(address: &Address, key_prefix: &str) -> Result<Self, Unavailable> {
        let told = |error: String| Unavailable::new(error);
        let client = address.client().map_err(|error| told(error.to_string()))?;
        let connection = client.get_multiplexed_async_connection().await;
        let connection = connection.map_err(|error| told(error.to_string()))?;
        Ok(Self { connection, stream: Keys::new(key_prefix).events() })
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
        let added = link::send(&mut self.connection, &pipeline).await;
        added.map(drop).map_err(|error| Unavailable::new(error.to_string()))
    }
}
