//! A histogram that costs one atomic add an event; the sum is added once for several events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};

use super::{Error, opts};

/// Upper bounds, ms. Ids count in whole milliseconds, so nothing finer can be told.
const BOUNDS_MS: [u64; 15] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000];

#[derive(Debug, Default)]
struct Counts {
    /// Events of each bucket, and beyond the last.
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

/// From publish to socket write.
#[derive(Debug, Clone)]
pub struct Latency {
    counts: Arc<Counts>,
    desc: Desc,
}

impl Latency {
    /// Nothing observed yet.
    pub fn new() -> Result<Self, Error> {
        use prometheus::core::Describer;
        let help =
            "From publish (the clock of the event's id) to the write to a socket that was connected then.";
        Ok(Self { counts: Arc::default(), desc: opts("delivery_seconds", help).describe()? })
    }

    /// Counts one event, and hands out its microseconds for the sum.
    pub fn observe(&self, late: Duration) -> u64 {
        let us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MS.partition_point(|bound| bound * 1000 < us);
        self.counts.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        us
    }

    /// Adds to the sum what some calls of [`Latency::observe`] gave.
    pub fn add_to_sum(&self, us: u64) {
        self.counts.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl Collector for Latency {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut so_far = 0;
        let mut buckets = Vec::with_capacity(BOUNDS_MS.len());
        for (at, count) in self.counts.buckets.iter().enumerate() {
            so_far += count.load(Ordering::Relaxed);
            if let Some(bound) = BOUNDS_MS.get(at) {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound as f64 / 1000.0);
                bucket.set_cumulative_count(so_far);
                buckets.push(bucket);
            }
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(so_far);
        histogram.set_sample_sum(self.counts.sum_us.load(Ordering::Relaxed) as f64 / 1e6);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
    }
}
