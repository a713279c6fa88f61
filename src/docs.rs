//! The handbook. README is the way in; these pages go on where it ends. Each is a file in `src/docs/`, readable there
//! as well.
//!
//! | page | for whom |
//! |---|---|
//! | [`browser`] | whoever writes pages and apps: the client module, server-sent events, CORS, CSP, cookies |
//! | [`faults`] | whoever wants to know what holds when things break, and how that is tested |
//! | [`fleet`] | whoever scales nodes up and down |
//! | [`limits`] | whoever asks what one peer can cost: every bound, and what happens beyond it |
//! | [`metrics`] | whoever watches nodes: every metric, and what it means |
//! | [`redis`] | whoever runs Redis for Switchboard: one server, Sentinel, Cluster, TLS, ACL, how far it scales |
//! | [`runbook`] | whoever is called when an alert fires: what it means, what to look at, what to do; sizing |
//! | [`performance`] | whoever wants to know what a node bears, and why not more |
//! | [`upgrades`] | whoever deploys a new version beside an old one, or changes a script or a key |

#[doc = include_str!("docs/browser.md")]
pub mod browser {}
#[doc = include_str!("docs/faults.md")]
pub mod faults {}
#[doc = include_str!("docs/fleet.md")]
pub mod fleet {}
#[doc = include_str!("docs/limits.md")]
pub mod limits {}
#[doc = include_str!("docs/metrics.md")]
pub mod metrics {}
#[doc = include_str!("docs/redis.md")]
pub mod redis {}
#[doc = include_str!("docs/runbook.md")]
pub mod runbook {}
#[doc = include_str!("docs/performance.md")]
pub mod performance {}
#[doc = include_str!("docs/upgrades.md")]
pub mod upgrades {}
