//! What a run found, for people and for machines.

use std::fmt::{self, Write as _};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::watch::Cost;

/// What a run found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was measured, in words.
    pub what: String,
    /// Getting in.
    pub connect: Connect,
    /// Events published, the warm-up included, and those that were refused.
    pub published: u64,
    /// Those that were handed over in the measured part, whenever they were due, a second.
    pub published_per_second: f64,
    /// Events refused.
    pub refused: u64,
    /// Events that sockets got, the warm-up included.
    pub delivered: u64,
    /// Those that came in the measured part, a second.
    pub delivered_per_second: f64,
    /// From the publisher (from when the event was due, where there is a rate) to the socket.
    pub latency_ms: Option<Latency>,
    /// To the publisher's answer.
    pub answer_ms: Option<Latency>,
    /// Published, not refused, and never seen by a session that got in.
    pub lost: u64,
    /// Seen twice by one.
    pub duplicated: u64,
    /// Seen after a later one.
    pub out_of_order: u64,
    /// Seen by sessions of this run and published by another: neither a delivery nor a fault.
    pub of_other_runs: u64,
    /// `gap` frames.
    pub gaps: u64,
    /// Sockets that ended before their time.
    pub broken: u64,
    /// How long those that came back were away.
    pub away_ms: Option<Latency>,
    /// The processes that were watched.
    pub watched: Vec<Cost>,
    /// CPU time of them all in the measured part for each 100,000 events that came in it, seconds; none where one ended.
    pub cpu_seconds_per_100_000: Option<f64>,
    /// What they grew by for each idle session, KiB that no file backs.
    pub idle_kib_per_session: Option<f64>,
    /// The first thing that went wrong.
    pub trouble: Option<String>,
}

/// Getting in: from the first connect to the last welcome.
#[derive(Debug, Default, Serialize)]
pub struct Connect {
    /// Sessions that were registered.
    pub sockets: usize,
    /// Sockets that did not get in.
    pub failed: usize,
    /// Until the last of those that got in: the others fail when they fail.
    pub seconds: f64,
    /// Sessions a second.
    pub per_second: f64,
}

/// Latencies, ms.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Half are below.
    pub p50: f64,
    /// One in a hundred is above.
    pub p99: f64,
    /// One in a thousand is above.
    pub p999: f64,
    /// None is above.
    pub max: f64,
    /// How many there were.
    pub count: u64,
}

impl Latency {
    /// What a histogram of microseconds holds, if anything.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Self {
            p50: ms(0.5),
            p99: ms(0.99),
            p999: ms(0.999),
            max: histogram.max() as f64 / 1000.0,
            count: histogram.len(),
        })
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.2} ms   p99 {:.2} ms   p99.9 {:.2} ms   max {:.2} ms",
            self.p50, self.p99, self.p999, self.max
        )
    }
}

/// A number with its thousands apart.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many a second: few of them, with a decimal.
fn rate(per_second: f64) -> String {
    // What rounds to ten needs none; nor does nothing at all.
    if per_second > 0.0 && per_second < 9.95 { format!("{per_second:.1}") } else { grouped(per_second) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number: u64| grouped(number as f64);
        writeln!(f, "{}\n", self.what)?;
        let connect = &self.connect;
        writeln!(
            f,
            "connected    {} sockets in {:.2} s, {} a second{}",
            grouped(connect.sockets as f64),
            connect.seconds,
            rate(connect.per_second),
            if connect.failed > 0 { format!("; {} failed", connect.failed) } else { String::new() }
        )?;
        if self.published > 0 {
            let refused =
                if self.refused > 0 { format!("; {} refused", count(self.refused)) } else { String::new() };
            writeln!(
                f,
                "published    {}, {} a second{refused}",
                count(self.published),
                rate(self.published_per_second)
            )?;
            writeln!(
                f,
                "delivered    {}, {} a second",
                count(self.delivered),
                rate(self.delivered_per_second)
            )?;
        }
        if let Some(latency) = &self.latency_ms {
            writeln!(f, "latency      {latency}")?;
        }
        if let Some(answer) = &self.answer_ms {
            writeln!(f, "answers      {answer}")?;
        }
        writeln!(
            f,
            "faults       {} lost, {} duplicated, {} out of order; {} gap frames, {} sockets broken",
            count(self.lost),
            count(self.duplicated),
            count(self.out_of_order),
            count(self.gaps),
            count(self.broken)
        )?;
        if let Some(away) = &self.away_ms {
            writeln!(f, "came back    {} after {away}", count(away.count))?;
        }
        if self.of_other_runs > 0 {
            writeln!(
                f,
                "other runs   {} of their events came, too: they load the nodes",
                count(self.of_other_runs)
            )?;
        }
        if !self.watched.is_empty() {
            writeln!(f, "\n{}", self.processes())?;
        }
        if let Some(trouble) = &self.trouble {
            writeln!(f, "\ntrouble      {trouble}")?;
        }
        Ok(())
    }
}

impl Report {
    fn processes(&self) -> String {
        let mut text = format!(
            "{:<24}{:>10}{:>16}{:>30}\n",
            "process", "CPU s", "per 100,000", "memory MiB: before/idle/end"
        );
        let per = |cost: Option<f64>| cost.map_or_else(|| "-".to_owned(), |cost| format!("{cost:.2}"));
        for cost in &self.watched {
            let [before, idle, end] = cost.resident_kib.map(|kib| kib as f64 / 1024.0);
            let name = format!("{} {}", cost.pid, cost.name);
            let memory = format!("{before:.1} / {idle:.1} / {end:.1}");
            let _ = writeln!(
                text,
                "{name:<24}{:>10}{:>16}{memory:>30}{}",
                per(cost.cpu_seconds),
                per(cost.cpu_seconds_per_100_000),
                if cost.ended { "   has ended" } else { "" }
            );
        }
        let total = self.watched.iter().map(|cost| cost.cpu_seconds).sum();
        let _ =
            write!(text, "{:<24}{:>10}{:>16}", "all of them", per(total), per(self.cpu_seconds_per_100_000));
        if let Some(kib) = self.idle_kib_per_session {
            let _ = write!(text, "{:>30}", format!("{kib:.2} KiB an idle session"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_what_their_names_say_in_milliseconds() {
        let mut histogram = Histogram::new(3).unwrap();
        assert!(Latency::of(&histogram).is_none(), "nothing was measured");
        (1..=10_000).for_each(|us| histogram.record(us).unwrap());
        let found = Latency::of(&histogram).unwrap();
        for (found, ms) in [(found.p50, 5.0), (found.p99, 9.9), (found.p999, 9.99), (found.max, 10.0)] {
            assert!((found - ms).abs() <= ms / 1000.0, "{found} for {ms}");
        }
        assert_eq!(found.count, 10_000);
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(
            [0.0, 999.4, 1000.0, 1_234_567.0].map(grouped),
            ["0", "999", "1,000", "1,234,567"].map(str::to_owned)
        );
    }

    #[test]
    fn few_a_second_are_not_rounded_to_none() {
        assert_eq!(
            [0.0, 0.2, 1.0, 9.94, 9.96, 1234.5].map(rate),
            ["0", "0.2", "1.0", "9.9", "10", "1,234"].map(str::to_owned)
        );
    }
}
