//! What every end-to-end test stands on: private servers, real processes, plain clients, bounded waits.
//!
//! Nothing here knows how a node works inside; it knows the public interface and how to start and stop things.

pub mod api;
pub mod beside;
pub mod client;
pub mod db;
pub mod http;
pub mod ids;
pub mod node;
pub mod pair;
pub mod ports;
pub mod process;
pub mod raw;
pub mod redis_server;
pub mod scrape;
pub mod socket;
pub mod stream;
pub mod terminal;
pub mod tls;
pub mod tokens;
pub mod wait;
pub mod worker;

pub use beside::Beside;
pub use client::{Client, Event};
pub use db::Db;
pub use ids::{parse_id, strictly_increasing};
pub use node::{Node, NodeBuilder};
pub use pair::Pair;
pub use raw::RawClient;
pub use redis_server::RedisServer;
pub use scrape::Scrape;
pub use socket::Closed;
pub use wait::{BOUND, eventually, within};
pub use worker::Worker;
