//! Every key name. Nothing else in the program spells one.
//!
//! Redis Cluster hashes `user:<id>` whole and the braces of its companions, so all keys of a user share a slot,
//! and so do a node's. `companions in one slot` holds with an empty key prefix only: see [`Keys::new`].

use crate::id::{NodeId, UserId};

/// Spells keys, with the prefix that the operator chose.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: Box<str>,
}

impl Keys {
    /// Keys that begin with `prefix`, which may be empty.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    fn key(&self, before: &str, id: &str, after: &str) -> String {
        let mut key = String::with_capacity(self.prefix.len() + before.len() + id.len() + after.len());
        key.push_str(&self.prefix);
        key.push_str(before);
        key.push_str(id);
        key.push_str(after);
        key
    }

    /// SET of `<clientId>@<nodeId>`: who is connected where.
    pub fn user(&self, user: &UserId) -> String {
        self.key("user:", user.as_str(), "")
    }

    /// HASH nodeId → lease end; `@last`: newest event id.
    pub fn nodes_of(&self, user: &UserId) -> String {
        self.key("nodes:{user:", user.as_str(), "}")
    }

    /// STREAM: the user's events.
    pub fn log(&self, user: &UserId) -> String {
        self.key("log:{user:", user.as_str(), "}")
    }

    /// HASH clientId → confirmed id; `@…`: what the scripts remember of the log.
    pub fn cursor(&self, user: &UserId) -> String {
        self.key("cursor:{user:", user.as_str(), "}")
    }

    /// HASH: a live node.
    pub fn node(&self, node: &str) -> String {
        self.key("node:", node, "")
    }

    /// STREAM, group `node`: events on their way to the node's sockets.
    pub fn inbox(&self, node: &str) -> String {
        self.key("inbox:{node:", node, "}")
    }

    /// SET of user ids: whom the node serves.
    pub fn users(&self, node: &NodeId) -> String {
        self.key("users:{node:", node.as_str(), "}")
    }

    /// ZSET user id → Unix ms until which the user is followed.
    pub fn traced(&self) -> String {
        self.key("traced", "", "")
    }

    /// STREAM: the steps of a user who is followed.
    pub fn traces(&self, user: &UserId) -> String {
        self.key("traces:{user:", user.as_str(), "}")
    }

    /// ZSET nodeId → lease end: all live nodes.
    pub fn nodes(&self) -> String {
        self.key("nodes", "", "")
    }

    /// HASH: who leaves until when, and when the next client comes back.
    pub fn drain(&self) -> String {
        self.key("drain", "", "")
    }

    /// STREAM, group `switchboard`: anyone may publish here.
    pub fn events(&self) -> String {
        self.key("events", "", "")
    }

    /// STREAM: ingress entries that could not be routed.
    pub fn dead(&self) -> String {
        self.key("events:dead", "", "")
    }

    /// STREAM: what clients send upward.
    pub fn uplink(&self) -> String {
        self.key("uplink", "", "")
    }

    /// STREAM: first session opened, last session gone.
    pub fn presence(&self) -> String {
        self.key("presence", "", "")
    }
}
