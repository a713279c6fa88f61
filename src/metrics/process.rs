//! `process_…`: what the system says of this process, under the names that every Prometheus exporter uses.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

use super::Error;
use crate::ms::unix;

/// Looked up when somebody asks.
pub struct Process {
    cpu: Counter,
    memory: Gauge,
    files: Gauge,
    most_files: Gauge,
    started: Gauge,
}

impl Process {
    /// This process.
    pub fn new() -> Result<Self, Error> {
        let started =
            Gauge::new("process_start_time_seconds", "Start of the process, in seconds since 1970.")?;
        started.set(unix().as_secs_f64());
        Ok(Self {
            cpu: Counter::new("process_cpu_seconds_total", "CPU time, user and system, in seconds.")?,
            memory: Gauge::new("process_resident_memory_bytes", "Resident memory, in bytes.")?,
            files: Gauge::new("process_open_fds", "Open file descriptors.")?,
            most_files: Gauge::new("process_max_fds", "The limit on open file descriptors.")?,
            started,
        })
    }

    fn look(&self) {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        // Two who ask at once must not count twice; a float too far back does no harm.
        self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        let pages = fs::read_to_string("/proc/self/statm").ok();
        let pages = pages.and_then(|pages| pages.split(' ').nth(1)?.parse::<f64>().ok());
        if let Some(pages) = pages {
            self.memory.set(pages * rustix::param::page_size() as f64);
        }
        if let Some(files) = open_files() {
            self.files.set(files as f64);
        }
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.most_files.set(most.map_or(f64::INFINITY, |most| most as f64));
    }

    fn parts(&self) -> [&dyn Collector; 5] {
        [&self.cpu, &self.memory, &self.files, &self.most_files, &self.started]
    }
}

/// How many files are open: Linux says that as the size of their directory since 6.2. Before, all have to be listed, which
/// takes some microseconds each, while this thread's sockets wait.
fn open_files() -> Option<u64> {
    const FILES: &str = "/proc/self/fd";
    match fs::metadata(FILES).ok()?.len() {
        // The directory itself is one of those listed.
        0 => u64::try_from(fs::read_dir(FILES).ok()?.count().saturating_sub(1)).ok(),
        count => Some(count),
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.look();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}
