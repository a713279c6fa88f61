//! How everything stands, for operators: nodes, streams, and what waits in them.

use serde::Serialize;

use super::NodeInfo;

/// The whole. What is none because it could not be read is on a master of a Cluster that is away, or behind rights that
/// the node does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The clock by which all times are told, Unix ms.
    pub time: u64,
    /// The live nodes, by id; none where their list cannot be read.
    pub nodes: Option<Vec<NodeStatus>>,
    /// The streams that all nodes share; none in local mode.
    pub streams: Option<Streams>,
}

/// A live node. Where its own keys cannot be read only its id is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// As [`NodeInfo::node_id`].
    pub node_id: String,
    /// As [`NodeInfo::sessions`].
    pub sessions: Option<u64>,
    /// As [`NodeInfo::version`].
    pub version: Option<String>,
    /// As [`NodeInfo::started`].
    pub started: Option<u64>,
    /// As [`NodeInfo::client_url`].
    pub client_url: Option<String>,
    /// As [`NodeInfo::worker_url`].
    pub worker_url: Option<String>,
    /// Users with a session there.
    pub users: Option<u64>,
    /// Its inbox; none in local mode, and where it has just gone or cannot be read.
    pub inbox: Option<Backlog>,
}

impl NodeStatus {
    /// A node with what it says of itself.
    pub fn new(node_id: String, info: Option<NodeInfo>) -> Self {
        let info = info.as_ref();
        let text = |of: fn(&NodeInfo) -> &String| info.map(of).cloned();
        Self {
            node_id,
            sessions: info.map(|info| info.sessions),
            version: text(|info| &info.version),
            started: info.map(|info| info.started),
            client_url: text(|info| &info.client_url),
            worker_url: text(|info| &info.worker_url),
            users: None,
            inbox: None,
        }
    }
}

/// How far the readers of a stream are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backlog {
    /// Entries in the stream.
    pub length: u64,
    /// Entries that nobody has read.
    pub lag: u64,
    /// Entries that were read and are not done.
    pub pending: u64,
}

/// The shared streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Streams {
    /// Those of `--ingress`, in its order.
    pub ingress: Vec<Ingress>,
    /// Entries of `events:dead`.
    pub dead: Option<u64>,
    /// Entries of `uplink`.
    pub uplink: Option<u64>,
    /// Entries of `presence`.
    pub presence: Option<u64>,
}

/// An ingress stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// As `--ingress` names it.
    pub name: String,
    /// As [`Backlog::length`].
    pub length: Option<u64>,
    /// As [`Backlog::lag`].
    pub lag: Option<u64>,
    /// As [`Backlog::pending`].
    pub pending: Option<u64>,
    /// The node that reads it for all; none between two of them, and where that cannot be read.
    pub reader: Option<String>,
}
