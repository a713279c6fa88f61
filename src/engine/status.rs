//! How everything stands, for operators: nodes, streams, and what waits in them.

use serde::Serialize;

use super::NodeInfo;

/// The whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The clock by which all times are told, Unix ms.
    pub time: u64,
    /// The live nodes, by id.
    pub nodes: Vec<NodeStatus>,
    /// The streams that all nodes share; none in local mode.
    pub streams: Option<Streams>,
}

/// A live node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// What it says of itself.
    #[serde(flatten)]
    pub info: NodeInfo,
    /// Users with a session there.
    pub users: u64,
    /// Its inbox; none in local mode, and where it has just gone.
    pub inbox: Option<Backlog>,
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
    pub dead: u64,
    /// Entries of `uplink`.
    pub uplink: u64,
    /// Entries of `presence`.
    pub presence: u64,
}

/// An ingress stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// As `--ingress` names it.
    pub name: String,
    /// How far its reader is.
    #[serde(flatten)]
    pub backlog: Backlog,
    /// The node that reads it for all; none between two of them.
    pub reader: Option<String>,
}
