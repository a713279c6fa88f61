//! How many entries of a stream are read at once: more while they are small and more are waiting, fewer where they are
//! large, since until they are done with they are held several times over.

use super::reply::Entry;

/// Entries of one read, at most.
const MOST: usize = 512;
/// And where nothing is known of them.
const FIRST: usize = 16;
/// Bytes of one read, about.
pub const BYTES: usize = 4 << 20;

/// How much the next read of a stream asks for.
#[derive(Debug)]
pub struct Read {
    most: usize,
    is_behind: bool,
}

impl Default for Read {
    fn default() -> Self {
        Self { most: FIRST, is_behind: false }
    }
}

impl Read {
    /// So many entries, at most.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether as many came as were asked for: more is waiting, as far as is known.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Learns from what came.
    pub fn came(&mut self, entries: &[Entry]) {
        let fields = entries.iter().flat_map(|(_, fields)| fields);
        self.next(entries.len(), fields.map(|(field, value)| field.len() + value.len()).sum());
    }

    fn next(&mut self, came: usize, bytes: usize) {
        self.is_behind = came >= self.most;
        let wanted = if self.is_behind { 2 * self.most } else { FIRST };
        let fit = (came * BYTES).checked_div(bytes).unwrap_or(MOST);
        self.most = wanted.min(fit).clamp(1, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries of each read while a backlog of entries of this size is read.
    fn reads(size: usize, mut backlog: usize) -> Vec<usize> {
        let (mut read, mut reads) = (Read::default(), Vec::new());
        while backlog > 0 {
            let came = read.most().min(backlog);
            backlog -= came;
            reads.push(came);
            read.next(came, came * size);
        }
        reads
    }

    #[test]
    fn a_read_grows_with_the_backlog_and_shrinks_with_the_size_of_its_entries() {
        assert_eq!(reads(200, 600), [16, 32, 64, 128, 256, 104]);
        assert_eq!(reads(1 << 20, 26), [16, 4, 4, 2]);
        assert_eq!(reads(100 << 20, 18), [16, 1, 1]);
        assert!(reads(16 << 10, 2_000).iter().all(|came| came * (16 << 10) <= 2 * BYTES));
        let mut read = Read { most: MOST, is_behind: true };
        read.next(3, 600);
        assert_eq!(read.most(), FIRST, "nothing more is waiting: what comes next may be large");
        assert!(!read.is_behind());
        read.next(FIRST, 600);
        assert!(read.is_behind());
        read.next(0, 0);
        assert_eq!((read.most(), read.is_behind()), (FIRST, false));
    }
}
