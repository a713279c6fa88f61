//! What operators watch with: dashboard, alert rules and runbook speak of the metrics that a node really has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{NodeBuilder, Scrape};

const DASHBOARD: &str = include_str!("../../scripts/grafana/switchboard.json");
const ALERTS: &str = include_str!("../../scripts/prometheus/alerts.yaml");
const RUNBOOK: &str = include_str!("../../src/docs/runbook.md");

/// Labels that Prometheus adds when it scrapes.
const SCRAPED: [&str; 2] = ["job", "instance"];
/// Where these are counted, other values may come up later: those of a label that names nodes and versions.
const OPEN: [&str; 2] = ["node", "version"];

/// Every series of a node, by name: its labels and their values.
struct Known(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Known {
    async fn of_a_node() -> Self {
        let node = NodeBuilder::local("solo").start().await;
        let mut known = BTreeMap::<_, BTreeMap<_, BTreeSet<_>>>::new();
        for series in Scrape::of(&node).await.series.into_keys() {
            let (name, labels) = series.split_once('{').unwrap_or((&series, "}"));
            let known = known.entry(name.to_owned()).or_default();
            for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').expect("a value");
                known.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
            }
        }
        Self(known)
    }

    /// Names without what a histogram adds to its own.
    fn metrics(&self) -> BTreeSet<&str> {
        self.0.keys().map(|name| family(name)).collect()
    }

    /// Checks one expression, and gives the metrics that it uses.
    fn check(&self, expr: &str) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        let mut labels_there = BTreeSet::new();
        for (at, name) in names(expr) {
            let labels = self.0.get(name).unwrap_or_else(|| panic!("no metric {name}: {expr}"));
            used.insert(family(name).to_owned());
            labels_there.extend(labels.keys().map(String::as_str));
            let Some(matchers) = expr[at + name.len()..].strip_prefix('{') else { continue };
            for matcher in matchers.split('}').next().unwrap().split(',') {
                let (label, value) =
                    matcher.split_once(['=', '!']).unwrap_or_else(|| panic!("{matcher}: {expr}"));
                if SCRAPED.contains(&label) {
                    continue;
                }
                let values = labels.get(label).unwrap_or_else(|| panic!("{name} has no {label}: {expr}"));
                for value in value.trim_matches(['=', '~', '"']).split('|') {
                    assert!(OPEN.contains(&label) || values.contains(value), "{name}: no {label} {value}");
                }
            }
        }
        for grouped in expr.split("by (").skip(1) {
            for label in grouped.split(')').next().unwrap().split(',').map(str::trim) {
                assert!(labels_there.contains(label) || SCRAPED.contains(&label), "by {label}: {expr}");
            }
        }
        used
    }
}

fn family(name: &str) -> &str {
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    histogram.unwrap_or(name)
}

/// The metrics of this program in an expression, and where they stand.
fn names(expr: &str) -> impl Iterator<Item = (usize, &str)> {
    let starts = ["switchboard_", "process_"].into_iter().flat_map(|start| expr.match_indices(start));
    starts.map(|(at, _)| {
        let rest = &expr[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        (at, &rest[..end])
    })
}

fn alerts() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(ALERTS).expect("YAML");
    let groups = file["groups"].as_array().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

#[tokio::test]
async fn the_dashboard_shows_every_metric_and_no_other() {
    let known = Known::of_a_node().await;
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut shown = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64()), "two panels with one id: {panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            shown.extend(known.check(target["expr"].as_str().expect("an expression")));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        known.check(variable["query"].as_str().expect("a query"));
    }
    let shown: BTreeSet<&str> = shown.iter().map(String::as_str).collect();
    assert_eq!(shown, known.metrics());
}

#[tokio::test]
async fn alert_rules_speak_of_what_is_there() {
    let known = Known::of_a_node().await;
    let alerts = alerts();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let expr = alert["expr"].as_str().expect("an expression");
        let used = known.check(expr);
        assert!(!used.is_empty() || expr.starts_with("up{"), "{expr}");
        assert!(["warning", "critical"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{alert}");
        assert!(!alert["annotations"]["summary"].as_str().unwrap().is_empty(), "{alert}");
    }
}

#[test]
fn every_alert_is_in_the_runbook_and_the_other_way_round() {
    let alerts = alerts();
    let alerts: BTreeSet<&str> =
        alerts.iter().map(|alert| alert["alert"].as_str().expect("a name")).collect();
    let headings: BTreeSet<&str> =
        RUNBOOK.lines().filter_map(|line| line.strip_prefix("## Switchboard").map(|_| &line[3..])).collect();
    assert_eq!(headings, alerts);
    for (_, name) in names(RUNBOOK) {
        assert!(DASHBOARD.contains(name), "the runbook speaks of {name}");
    }
}

#[tokio::test]
async fn the_check_sees_what_is_wrong() {
    let known = Known::of_a_node().await;
    for wrong in [
        "switchboard_session",
        "sum(switchboard_connects_total{result=\"fine\"})",
        "sum(switchboard_connects_total{reason=\"gone\"})",
        "sum by (reason) (switchboard_connects_total)",
    ] {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| known.check(wrong)));
        assert!(caught.is_err(), "{wrong}");
    }
}
