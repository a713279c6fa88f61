//! Switchboard: back ends publish events, users' sockets get them, wherever they are.
//!
//! # One idea
//!
//! Every event is first appended to its user's own log; that gives it its id. All else, a node's inbox, a socket's
//! outbox, is a hint: "something new, and here it is already". A hint that is lost, doubled or late costs a look
//! into the log, never an event. So every fault is mended by one move: read the log after the last id that this
//! session got.
//!
//! # The house
//!
//! Floors; imports go down only, or along a floor, and there not both ways.
//!
//! | floor | rooms | what goes on there |
//! |---|---|---|
//! | 6 | [`cli`], [`command`], [`bench`], [`health`] | what the process is asked to do |
//! | 5 | [`relay`], [`shutdown`] | assembles a node, starts it, drains it |
//! | 4 | [`listener`], [`settings`] | the two ports: accepting, HTTP, handshakes, workers' sockets; what was asked for |
//! | 3 | [`session`], [`heartbeat`], [`renewal`], [`drain`] | one socket's life; leases on users; the node's own lease; its end |
//! | 2 | [`router`] | publish and deliver |
//! | 1 | [`handle`], [`registry`], [`acked`], [`lease`], [`engine`], [`auth`] | this node's sockets; what they have acknowledged; the right to deliver; everyone's truth (in memory, or in Redis with `lua/`); who may connect |
//! | 1 | [`fault`] | deliberate faults that no shipped build has, to check the checker |
//! | 0 | [`protocol`], [`id`], [`close`], [`gate`], [`lock`], [`ms`], [`tls`] | words, checked where they enter; how many may wait; taking locks; times as numbers; whom to trust |
//! | 0 | [`metrics`], [`logging`], [`retold`], [`trace`] | what is counted, and how it is told; the log's way out, and what would be in it too often; following one user |
//! | 0 | [`moderation`] | when a busy thread sleeps for a moment before it waits |
//! | 0 | [`docs`] | the handbook: pages for operators and developers, no code |
//!
//! As an event you pass each room once on your way down from the worker into the log, and once from there up to the
//! browser; nothing sends you back.
//!
//! # Invariants
//!
//! * `redis` and `bb8` are named under [`engine::redis`] alone, `clap` in [`cli`] alone.
//! * Registry and engine never see each other; the router sees both.
//! * Every key name is in one file (`engine/redis/keys.rs`), every close code in [`close`], every error code in
//!   [`protocol::code`], every setting in [`settings::table`].
//! * No lock of the standard library is held across an await. Where work has to wait for other work, the lock is
//!   tokio's.
//! * Every queue has a bound, and beside it stands what happens when it is full.
//! * A script takes the time from Redis, and checks before it writes. On a Cluster it touches the keys of one slot.
//!
//! [`bench`]: mod@bench

#![forbid(unsafe_code)]
// The map shows each room, also those that nobody enters from outside.
#![allow(rustdoc::private_intra_doc_links)]
// A relay that panics drops everyone it serves; tests may. So does what prints, where it cannot.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)
)]

mod acked;
pub mod auth;
mod bench;
pub mod cli;
mod close;
pub mod command;
pub mod docs;
mod drain;
pub mod engine;
mod fault;
mod gate;
pub mod handle;
pub mod health;
mod heartbeat;
pub mod id;
mod lease;
mod listener;
mod lock;
pub mod logging;
pub mod metrics;
pub mod moderation;
mod ms;
pub mod protocol;
pub mod registry;
pub mod relay;
pub mod renewal;
mod retold;
pub mod router;
mod session;
pub mod settings;
pub mod shutdown;
mod tls;
pub mod trace;
