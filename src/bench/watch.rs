//! What the measured processes cost: CPU time and memory, as `/proc` has them.

use serde::Serialize;

/// Clock ticks a second of the times in `/proc/<pid>/stat`: fixed by Linux for every program.
const TICKS: f64 = 100.0;

/// A process at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// User and system CPU time, seconds.
    pub cpu: f64,
    /// Resident memory, KiB.
    pub resident: u64,
    /// The part of it that no file backs, KiB.
    pub anonymous: u64,
    /// It has ended since.
    pub ended: bool,
}

/// What a process cost over a run.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// Which.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// User and system CPU time of the measured part, seconds; none where it ended in it, as nobody saw how much it was.
    pub cpu_seconds: Option<f64>,
    /// The same for each 100,000 events that were delivered in that part.
    pub cpu_seconds_per_100_000: Option<f64>,
    /// Resident memory before the sockets, with all of them idle, and at the end of that part, KiB.
    pub resident_kib: [u64; 3],
    /// The part of it that no file backs, likewise.
    pub anonymous_kib: [u64; 3],
    /// It ended during the run: its memory is as it was last seen.
    pub ended: bool,
}

/// Looks at processes again. One that has ended stays as it was last seen.
pub fn look_again(pids: &[u32], last: &[Sample]) -> Vec<Sample> {
    let again = pids.iter().zip(last);
    again.map(|(pid, last)| look(*pid).unwrap_or_else(|_| Sample { ended: true, ..last.clone() })).collect()
}

/// Looks at a process.
///
/// # Errors
/// Where there is no such process, or no `/proc`.
pub fn look(pid: u32) -> Result<Sample, String> {
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}"))
            .map_err(|error| format!("--watch-pid {pid} cannot be watched: {error}"))
    };
    let strange = || format!("--watch-pid {pid}: /proc does not look as on Linux");
    let (name, cpu) = parse_stat(&read("stat")?).ok_or_else(strange)?;
    let status = read("status")?;
    // Where memory is missing, the process has ended, and nobody has asked how.
    let resident = kib(&status, "VmRSS:").ok_or_else(|| format!("--watch-pid {pid} has no memory"))?;
    let anonymous = kib(&status, "RssAnon:").unwrap_or(resident);
    Ok(Sample { name, cpu, resident, anonymous, ended: false })
}

fn parse_stat(stat: &str) -> Option<(String, f64)> {
    // The name stands in brackets and may hold any of them.
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    // After the name comes field 3; 14 and 15 are the times.
    let mut times = tail.split_ascii_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((name.to_owned(), (user + system) / TICKS))
}

fn kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_behind_whatever_the_name_is() {
        let stat = "42 (a) (b) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 3 0 99 1 2";
        assert_eq!(parse_stat(stat), Some(("a) (b".to_owned(), 2.0)));
        assert_eq!(kib("Name:\tx\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
    }

    #[test]
    fn this_very_process_can_be_watched() {
        let sample = look(std::process::id()).unwrap();
        assert!(sample.resident > 0 && sample.anonymous <= sample.resident, "{sample:?}");
        assert!(look(u32::MAX).unwrap_err().contains("--watch-pid"));
    }

    #[test]
    fn one_that_has_ended_stays_as_it_was_last_seen() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pids = [std::process::id(), child.id()];
        let first = pids.map(|pid| look(pid).unwrap());
        child.kill().unwrap();
        // It is not waited for yet: its entry is still there, without memory, as soon as it has gone.
        while look(child.id()).is_ok() {
            std::thread::yield_now();
        }
        let zombie = look_again(&pids, &first);
        child.wait().unwrap();
        for again in [&zombie, &look_again(&pids, &zombie)] {
            assert_eq!((again[0].ended, &again[1]), (false, &Sample { ended: true, ..first[1].clone() }));
        }
    }
}
