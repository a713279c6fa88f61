//! End-to-end tests: real processes, a real Redis, real WebSockets; the contract and nothing else.
//!
//! Every test starts what it needs on free ports in temporary directories and stops it again, so that all of
//! them can run side by side. Nothing sleeps: whatever takes time is waited for, with a bound.
//!
//! One subject a module. `support` holds the servers, the nodes and the peers.

mod support;

mod local_mode;
