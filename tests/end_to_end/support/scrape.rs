//! `GET /metrics`, as Prometheus would read it.

use std::collections::BTreeMap;

use super::http;
use super::node::Node;
use super::wait::{BOUND, eventually, same};

/// One answer of `/metrics`.
#[derive(Debug)]
pub struct Scrape {
    /// `counter`, `gauge` or `histogram`, by name.
    pub types: BTreeMap<String, String>,
    /// By name and labels, as they are written: `switchboard_connects_total{result="ok"}`.
    pub series: BTreeMap<String, f64>,
}

impl Scrape {
    /// Asks a node whose worker port is open.
    pub async fn of(node: &Node) -> Self {
        let answer = http::get(&node.worker_http("/metrics")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        Self::read(&answer.body)
    }

    /// Reads the text; panics where Prometheus would refuse it.
    pub fn read(text: &str) -> Self {
        let (mut types, mut series) = (BTreeMap::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
                let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                assert!(series.insert(name.to_owned(), value).is_none(), "twice: {line}");
            }
        }
        Self { types, series }
    }

    /// The value of a series whose name goes on after `switchboard_`.
    pub fn get(&self, series: &str) -> f64 {
        let value = self.series.get(&format!("switchboard_{series}"));
        *value.unwrap_or_else(|| panic!("no series switchboard_{series}"))
    }
}

/// Waits until a series of a node has this value.
pub async fn counted(node: &Node, series: &str, wanted: f64) {
    eventually(BOUND, &format!("{series} {wanted} at {}", node.id), async || {
        same(Scrape::of(node).await.get(series), wanted)
    })
    .await;
}
