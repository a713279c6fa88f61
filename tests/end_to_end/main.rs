//! End-to-end tests: real processes, a real Redis, real WebSockets; the contract and nothing else.
//!
//! Every test starts what it needs on free ports in temporary directories and stops it again, so that all of
//! them can run side by side. Nothing sleeps: whatever takes time is waited for, with a bound.
//!
//! One subject a module. `support` holds the servers, the nodes and the peers.

mod support;

mod auth_api;
mod auth_jwks;
mod auth_jwt;
mod bench;
mod bench_faults;
mod bounds_files;
mod bounds_http;
mod bounds_sockets;
mod bounds_work;
mod broken_keys;
mod browser;
mod bursts;
mod cli_check;
mod cli_health;
mod cli_output;
mod cli_publish;
mod cli_status;
mod cli_tail;
mod collapse;
mod cors;
mod crash;
mod cursor;
mod deaf_client;
mod drain;
mod evicted;
mod eviction;
mod fleet;
mod frames;
mod frozen;
#[cfg(target_os = "linux")] // elsewhere it ends the process
mod hangup;
mod hostile_frames;
mod hostile_http;
mod hostile_ids;
mod hostile_json;
mod http_publish;
mod http_reads;
mod identity;
mod ingress;
mod ingress_faults;
mod ingress_refused;
mod keys;
mod last_ping;
mod late_redis;
mod local_mode;
mod log_reader;
#[cfg(target_os = "linux")] // it reads `/proc`
mod memory;
mod metrics;
mod mutations;
mod no_room;
mod node_identity;
mod not_behind;
mod openapi;
mod pings;
mod production;
mod proxies;
mod redis_away;
mod refusals;
mod replacement;
mod replay;
mod rfc6455;
mod secrets;
mod secrets_cli;
mod sent_up;
mod settings;
mod slow_peers;
mod slow_reader;
mod sse;
mod streams;
mod trace;
mod tracing;
mod two_nodes;
mod two_worlds;
mod watching;
mod ways_in;
mod worker_data;
mod worker_frames;
mod worker_targets;
mod worker_token;
