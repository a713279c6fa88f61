//! Where a server is, which Sentinels may change at any time: all that goes to it goes to one place.
//!
//! The master that was goes on as one until a Sentinel tells it otherwise, for ten seconds or so after a failover that
//! was asked for. What it confirms meanwhile is thrown away then, so a connection that still works proves nothing.

use redis::aio::MultiplexedConnection;
use redis::{ConnectionInfo, ErrorKind, Pipeline, RedisError, Value};
use tokio::sync::watch;

use super::wire::send;

/// Where the server is, and how often that has changed.
#[derive(Debug, Default)]
pub struct Home(watch::Sender<Place>);

#[derive(Debug, Default)]
struct Place {
    address: String,
    moves: u64,
}

impl Home {
    /// It is there; says how often it has moved.
    pub fn is_at(&self, info: &ConnectionInfo) -> u64 {
        let address = info.addr().to_string();
        let mut moves = 0;
        self.0.send_if_modified(|place| {
            let (is_first, is_other) = (place.address.is_empty(), place.address != address);
            place.address = address;
            place.moves += u64::from(is_other && !is_first);
            moves = place.moves;
            is_other && !is_first
        });
        moves
    }

    /// Whether it is there, as far as is known.
    pub fn knows(&self, info: &ConnectionInfo) -> bool {
        self.0.borrow().address == info.addr().to_string()
    }

    /// How often it has moved.
    pub fn moves(&self) -> u64 {
        self.0.borrow().moves
    }

    /// Fails where it has moved since.
    ///
    /// # Errors
    /// That it has.
    pub fn has_stayed(&self, moves: u64) -> Result<(), RedisError> {
        if self.moves() == moves { Ok(()) } else { Err(moved()) }
    }
}

fn moved() -> RedisError {
    (ErrorKind::Io, "another server has become the master").into()
}

/// A connection of its own for a reader that blocks.
pub struct Dedicated {
    connection: MultiplexedConnection,
    place: watch::Receiver<Place>,
    moves: u64,
}

impl Dedicated {
    /// A connection to where the server was after so many moves.
    pub fn new(connection: MultiplexedConnection, home: &Home, moves: u64) -> Self {
        Self { connection, place: home.0.subscribe(), moves }
    }

    /// Runs a pipeline. A connection is of no use any more once the server has moved.
    ///
    /// # Errors
    /// As [`send`]; and where it has moved.
    pub async fn send(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let moves = self.moves;
        tokio::select! {
            answers = send(&mut self.connection, pipeline) => answers,
            _ = self.place.wait_for(|place| place.moves != moves) => Err(moved()),
        }
    }
}
