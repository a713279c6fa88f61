//! The usual stage: one Redis, two nodes.

use super::db::Db;
use super::node::{Node, NodeBuilder};
use super::redis_server::RedisServer;

/// Nodes `node-a` and `node-b` on one Redis. Fields are dropped in this order: nodes before their Redis.
pub struct Pair {
    pub a: Node,
    pub b: Node,
    pub db: Db,
    pub redis: RedisServer,
}

impl Pair {
    /// Both nodes with the defaults.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Both nodes with these settings.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start().await;
        let a = NodeBuilder::redis("node-a", &redis).with(settings).start().await;
        let b = NodeBuilder::redis("node-b", &redis).with(settings).start().await;
        let db = redis.db().await;
        Self { a, b, db, redis }
    }
}

/// One node, `node-a`, on a Redis of its own.
pub struct Single {
    pub a: Node,
    pub db: Db,
    pub redis: RedisServer,
}

impl Single {
    /// The node with the defaults.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The node with these settings.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start().await;
        let a = NodeBuilder::redis("node-a", &redis).with(settings).start().await;
        let db = redis.db().await;
        Self { a, db, redis }
    }
}
