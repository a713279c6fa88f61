//! Names, labels and sums.

use super::*;

fn line<'a>(text: &'a str, series: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

#[test]
fn the_text_reads_as_prometheus_has_it() {
    let metrics = Metrics::new("node-1", &["beat", "publish"]).unwrap();
    metrics.connected();
    metrics.turned_away(Code::TooManySessions);
    metrics.not_introduced(Some(Close::HelloTimeout));
    metrics.disconnected(None);
    metrics.disconnected(Some(Close::Replaced));
    let receipt = |ids: usize| Receipt { ids: vec![EventId::ZERO; ids], nodes: Vec::new(), many: false };
    metrics.published(Via::Worker, &Ok(receipt(3)));
    metrics.published(Via::Http, &Ok(receipt(0)));
    metrics.published(Via::Http, &Err(Refusal::unavailable()));
    metrics.accepted(Via::Ingress, 64);
    metrics.redis_seconds[1].observe(0.0002);
    metrics.sessions.set(2);
    metrics.ingress_lag.set(6);
    let text = metrics.text().unwrap();
    for (series, value) in [
        ("connects_total{result=\"ok\"}", "1"),
        ("connects_total{result=\"too_many_sessions\"}", "1"),
        ("connects_total{result=\"hello_timeout\"}", "1"),
        ("connects_total{result=\"unauthorized\"}", "0"),
        ("disconnects_total{reason=\"gone\"}", "1"),
        ("disconnects_total{reason=\"replaced\"}", "1"),
        ("events_published_total{via=\"worker\"}", "3"),
        ("events_published_total{via=\"http\"}", "1"),
        ("events_published_total{via=\"ingress\"}", "64"),
        ("events_refused_total{code=\"unavailable\"}", "1"),
        ("redis_seconds_bucket{script=\"publish\",le=\"0.0001\"}", "0"),
        ("redis_seconds_bucket{script=\"publish\",le=\"0.00025\"}", "1"),
        ("redis_seconds_count{script=\"publish\"}", "1"),
        ("sessions", "2"),
        ("ready", "0"),
        ("ingress_lag", "6"),
        (&format!("build_info{{node=\"node-1\",version=\"{}\"}}", env!("CARGO_PKG_VERSION")), "1"),
    ] {
        assert_eq!(line(&text, &format!("switchboard_{series}")), Some(value), "{series} in\n{text}");
    }
    for process in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"]
    {
        let value: f64 = line(&text, &format!("process_{process}")).unwrap().parse().unwrap();
        assert!(value > 0.0, "process_{process} {value}");
    }
}

#[test]
fn a_burst_counts_what_is_written_and_how_late() {
    let metrics = Metrics::new("n", &[]).unwrap();
    let mut burst = metrics.burst();
    let now_ms = burst.now_us / 1000;
    let ago = |ms| EventId { ms: now_ms - ms, seq: 0 };
    burst.hinted(Some(ago(3)));
    burst.hinted(None);
    burst.logged(ago(700), true);
    burst.logged(ago(3_600_000), false);
    // A clock that is a little behind must not make an hour of it.
    burst.hinted(Some(EventId { ms: now_ms + 20, seq: 0 }));
    drop(burst);
    let text = metrics.text().unwrap();
    for (series, value) in [
        ("events_delivered_total", "5"),
        ("events_replayed_total", "2"),
        ("delivery_seconds_bucket{le=\"0.001\"}", "1"),
        ("delivery_seconds_bucket{le=\"0.005\"}", "2"),
        ("delivery_seconds_bucket{le=\"0.5\"}", "2"),
        ("delivery_seconds_bucket{le=\"1\"}", "3"),
        ("delivery_seconds_bucket{le=\"+Inf\"}", "3"),
        ("delivery_seconds_count", "3"),
    ] {
        assert_eq!(line(&text, &format!("switchboard_{series}")), Some(value), "{series} in\n{text}");
    }
    let sum: f64 = line(&text, "switchboard_delivery_seconds_sum").unwrap().parse().unwrap();
    assert!((0.7..1.0).contains(&sum), "{sum}");
}

#[test]
fn labels_are_words_and_each_stands_for_one_thing() {
    let mut labels: Vec<_> = Close::ALL.iter().map(|close| close.label()).collect();
    labels.extend(Code::ALL.iter().map(|code| code.as_str()));
    labels.extend([LET_IN, GONE]);
    let count = labels.len();
    for label in &labels {
        assert!(label.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '8'), "{label}");
    }
    labels.sort_unstable();
    labels.dedup();
    // `unauthorized` is a refusal before the handshake, and a close after it: the same thing.
    assert_eq!(labels.len(), count - 1);
}
