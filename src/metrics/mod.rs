//! What the node counts, and how it tells: `GET /metrics`, in Prometheus' text form.
//!
//! Counting costs an event one atomic add, and no lock. Levels (sessions, lags) are looked up when somebody asks.
//! Labels come from closed sets, the enums of this program: never from ids.

pub mod clock;
mod latency;
mod process;

use std::time::Duration;

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use crate::close::Close;
use crate::id::EventId;
use crate::logging;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::publish::Receipt;
use clock::Clock;
use latency::Latency;

/// A metric that the library will not have; a mistake in this program.
pub type Error = prometheus::Error;

/// By which way an event came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A worker's WebSocket.
    Worker,
    /// `POST /publish`.
    Http,
    /// The ingress stream.
    Ingress,
}

/// Label of a connection that was let in.
const LET_IN: &str = "ok";
/// Label of a peer that went by itself, with or without a goodbye.
const GONE: &str = "gone";

/// From a call to its answer, seconds: a script takes Redis a millisecond at most; the rest is waiting.
const REDIS_SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The clock that event ids are read from.
    pub clock: Clock,
    connects: IntCounterVec,
    disconnects: IntCounterVec,
    published: [IntCounter; 3],
    refused: IntCounterVec,
    delivered: IntCounter,
    replayed: IntCounter,
    latency: Latency,
    /// `gap` frames.
    pub gaps: IntCounter,
    /// Times that a session had to read the log while it was connected.
    pub catch_ups: IntCounter,
    /// Messages from clients that went onto `uplink`.
    pub uplinked: IntCounter,
    /// Ingress entries that could not be routed.
    pub dead: IntCounter,
    /// Open worker sockets.
    pub workers: IntGauge,
    /// How long calls of scripts take, in the order of the names that [`Metrics::new`] got.
    pub redis_seconds: Vec<Histogram>,
    /// Registered sessions. This and what follows is looked up when somebody asks.
    pub sessions: IntGauge,
    /// Users who have any.
    pub users: IntGauge,
    /// Places taken on the client port, registered or not.
    pub connections: IntGauge,
    /// `--max-connections`.
    pub most_connections: IntGauge,
    /// Redis is there and knows this node.
    pub redis_up: IntGauge,
    /// Whether `presence` took what it was told last.
    pub presence_up: IntGauge,
    /// Masters of a Cluster that do not answer.
    pub redis_masters_away: IntGauge,
    /// Redis may throw keys away.
    pub redis_may_evict: IntGauge,
    /// `/readyz` says 200.
    pub ready: IntGauge,
    /// The node is going away.
    pub draining: IntGauge,
    /// Entries of the inbox that are not done.
    pub inbox_lag: IntGauge,
    /// The same of the ingress streams.
    pub ingress_lag: IntGauge,
    clock_offset: Gauge,
    log_lines_left_out: IntCounter,
}

/// Makes metrics and puts them on the list.
struct Maker(Registry);

impl Maker {
    fn on_list<M: prometheus::core::Collector + Clone + 'static>(&self, metric: M) -> Result<M, Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.on_list(IntCounter::with_opts(opts(name, help))?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec, Error> {
        self.on_list(IntCounterVec::new(opts(name, help), &[label])?)
    }

    fn level(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.on_list(IntGauge::with_opts(opts(name, help))?)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("switchboard")
}

impl Metrics {
    /// Everything at zero, for the node with this id and an engine with these scripts.
    ///
    /// # Errors
    /// Where two metrics have one name, or one has a name that Prometheus does not allow.
    pub fn new(node: &str, scripts: &[&str]) -> Result<Self, Error> {
        let make = Maker(Registry::new());
        let build = opts("build_info", "1; what runs here, and under which node id.");
        let build = build.const_label("version", env!("CARGO_PKG_VERSION")).const_label("node", node);
        make.on_list(IntGauge::with_opts(build)?)?.set(1);
        make.0.register(Box::new(process::Process::new()?))?;
        let latency = make.on_list(Latency::new()?)?;
        let published =
            make.counters("events_published_total", "Events accepted, by the way they came.", "via")?;
        let redis_seconds = HistogramOpts::new("redis_seconds", "From a script's call to its answer.")
            .namespace("switchboard")
            .buckets(REDIS_SECONDS.to_vec());
        let redis_seconds = make.on_list(HistogramVec::new(redis_seconds, &["script"])?)?;
        let metrics = Self {
            clock: Clock::default(),
            connects: make.counters(
                "connects_total",
                "Attempts of clients to connect: ok, or why they were turned away.",
                "result",
            )?,
            disconnects: make.counters(
                "disconnects_total",
                "Sessions that ended: gone (the client went), or why the node closed them.",
                "reason",
            )?,
            published: ["worker", "http", "ingress"].map(|via| published.with_label_values(&[via])),
            refused: make.counters("events_refused_total", "Events not accepted, by error code.", "code")?,
            delivered: make.counter("events_delivered_total", "Events written to clients' sockets.")?,
            replayed: make.counter(
                "events_replayed_total",
                "Those of the delivered events that were read from a log, after a connect or to catch up.",
            )?,
            latency,
            gaps: make.counter("gaps_total", "Times that a client was told `gap`.")?,
            catch_ups: make.counter(
                "catch_ups_total",
                "Times that a connected session read its log, because hints were lost or its socket is slow.",
            )?,
            uplinked: make.counter("uplink_messages_total", "Messages from clients, put onto `uplink`.")?,
            dead: make.counter("events_dead_total", "Ingress entries put onto `events:dead`.")?,
            workers: make.level("workers", "Open worker sockets.")?,
            redis_seconds: scripts.iter().map(|script| redis_seconds.with_label_values(&[script])).collect(),
            sessions: make.level("sessions", "Sessions of clients on this node.")?,
            users: make.level("users", "Users who have a session on this node.")?,
            connections: make.level("connections", "Places taken on the client port, registered or not.")?,
            most_connections: make.level("connections_max", "--max-connections.")?,
            redis_up: make.level("redis_up", "1 while Redis answers and knows this node.")?,
            presence_up: make.level("presence_up", "1 while `presence` takes what it is told.")?,
            redis_masters_away: make
                .level("redis_masters_away", "Masters of a Redis Cluster that do not answer.")?,
            redis_may_evict: make
                .level("redis_may_evict", "1 where maxmemory-policy lets Redis throw keys away.")?,
            ready: make.level("ready", "1 while /readyz says 200.")?,
            draining: make.level("draining", "1 once the node is going away.")?,
            inbox_lag: make.level("inbox_lag", "Entries of this node's inbox that are not done.")?,
            ingress_lag: make
                .level("ingress_lag", "Entries of the ingress stream that are not done, for all nodes.")?,
            clock_offset: make.on_list(Gauge::with_opts(opts(
                "redis_clock_offset_seconds",
                "How far the clock of Redis is ahead of this machine's.",
            ))?)?,
            log_lines_left_out: make.counter(
                "log_lines_left_out_total",
                "Lines that the log is missing, because its reader was too slow.",
            )?,
            registry: make.0,
        };
        metrics.presence_up.set(1);
        // A rate sees the first of a kind only where a zero was there before.
        for code in Code::ALL {
            metrics.refused.with_label_values(&[code.as_str()]);
            metrics.connects.with_label_values(&[code.as_str()]);
        }
        for close in Close::ALL {
            metrics.disconnects.with_label_values(&[close.label()]);
            metrics.connects.with_label_values(&[close.label()]);
        }
        metrics.connects.with_label_values(&[LET_IN]);
        metrics.connects.with_label_values(&[GONE]);
        metrics.disconnects.with_label_values(&[GONE]);
        Ok(metrics)
    }

    /// A client was let in.
    pub fn connected(&self) {
        self.connects.with_label_values(&[LET_IN]).inc();
    }

    /// A client was turned away.
    pub fn turned_away(&self, code: Code) {
        self.connects.with_label_values(&[code.as_str()]).inc();
    }

    /// A client was not let in for another reason: its connection was closed (none: gone) before it said who it is.
    pub fn not_introduced(&self, close: Option<Close>) {
        self.connects.with_label_values(&[close.map_or(GONE, Close::label)]).inc();
    }

    /// A session ended: closed by the node, or (none) gone.
    pub fn disconnected(&self, close: Option<Close>) {
        self.disconnects.with_label_values(&[close.map_or(GONE, Close::label)]).inc();
    }

    /// What came of a publish.
    pub fn published(&self, via: Via, outcome: &Result<Receipt, Refusal>) {
        match outcome {
            Ok(receipt) => self.accepted(via, receipt.ids.len().max(1)),
            Err(refusal) => self.refused(refusal.code),
        }
    }

    /// An event, or a whole request of them, was refused.
    pub fn refused(&self, code: Code) {
        self.refused.with_label_values(&[code.as_str()]).inc();
    }

    /// So many events were accepted.
    pub fn accepted(&self, via: Via, count: usize) {
        self.published[via as usize].inc_by(count as u64);
    }

    /// Begins to write some events to one socket.
    pub fn burst(&self) -> Burst<'_> {
        Burst { metrics: self, now_us: self.clock.now_us(), delivered: 0, replayed: 0, sum_us: 0 }
    }

    /// The text for Prometheus.
    ///
    /// # Errors
    /// Where two metrics have one name; a mistake in this program.
    pub fn text(&self) -> Result<String, Error> {
        self.clock_offset.set(self.clock.ahead());
        // Two who ask at once must not count twice.
        self.log_lines_left_out.inc_by(logging::left_out().saturating_sub(self.log_lines_left_out.get()));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Events that go to one socket together: they share one look at the clock, and one add to each total.
#[derive(Debug)]
pub struct Burst<'a> {
    metrics: &'a Metrics,
    now_us: u64,
    delivered: u64,
    replayed: u64,
    sum_us: u64,
}

impl Burst<'_> {
    /// An event that came by a hint; a transient one has no id, and so no time of publishing.
    pub fn hinted(&mut self, id: Option<EventId>) {
        self.delivered += 1;
        if let Some(id) = id {
            self.late(id);
        }
    }

    /// An event that was read from the log; `connected` where the client was there when it was published.
    pub fn logged(&mut self, id: EventId, connected: bool) {
        self.delivered += 1;
        self.replayed += 1;
        if connected {
            self.late(id);
        }
    }

    fn late(&mut self, id: EventId) {
        let late = Duration::from_micros(self.now_us.saturating_sub(id.ms.saturating_mul(1000)));
        self.sum_us += self.metrics.latency.observe(late);
    }
}

impl Drop for Burst<'_> {
    fn drop(&mut self) {
        if self.delivered > 0 {
            self.metrics.delivered.inc_by(self.delivered);
            self.metrics.latency.add_to_sum(self.sum_us);
        }
        if self.replayed > 0 {
            self.metrics.replayed.inc_by(self.replayed);
        }
    }
}

#[cfg(test)]
mod tests;
