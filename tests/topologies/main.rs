//! Redis as its users have it: a Cluster, Sentinels, TLS, users with few rights, sockets. Real processes throughout.
//!
//! A test that starts many servers holds a place while it runs, so that two of them do not share two cores.

#[path = "../end_to_end/support/mod.rs"]
#[allow(dead_code, unused_imports)] // other tests use the rest
mod support;

mod access;
mod cluster;
mod cluster_failover;
mod frozen_master;
mod ingress_streams;
mod ledger;
mod lost_tail;
mod sentinel;
mod servers;
mod wait_replicas;
