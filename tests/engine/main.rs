//! One suite for both engines: each case is a test against memory and a test against a private Redis.
//!
//! Where they differ, one of them is wrong. `stage` is the factory; the modules after it hold one subject each.

mod recorder;
mod redis_server;
mod stage;

mod broken_users;
mod clearing_up;
mod completeness;
mod drain;
mod formats;
mod histories;
mod ingress_lease;
mod keys;
mod lasting;
mod late;
mod lost_tail;
mod many_nodes;
mod memory;
mod mends;
mod model;
mod operators;
mod position;
mod presence;
mod publish;
mod registration;
mod replay;
mod sessions;
mod thrown_away;
mod ttls;
