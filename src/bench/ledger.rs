//! What one session should have seen, and what it saw.

use std::collections::BTreeSet;

/// Counts one session's events, which are numbered from 0.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The number after the highest seen.
    next: u64,
    /// Numbers below that which have not been seen.
    missing: BTreeSet<u64>,
    /// Seen again.
    pub duplicated: u64,
    /// Seen after a higher one.
    pub out_of_order: u64,
}

impl Ledger {
    /// Notes an event; false where it was seen before.
    pub fn note(&mut self, number: u64) -> bool {
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
            return true;
        }
        let awaited = self.missing.remove(&number);
        if awaited {
            self.out_of_order += 1;
        } else {
            self.duplicated += 1;
        }
        awaited
    }

    /// How many of `published` events were never seen.
    pub fn lost(&self, published: u64) -> u64 {
        self.missing.len() as u64 + published.saturating_sub(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_counted_once() {
        let mut ledger = Ledger::default();
        let fresh: Vec<bool> = [0, 1, 4, 2, 2, 5, 4].iter().map(|number| ledger.note(*number)).collect();
        assert_eq!(fresh, [true, true, true, true, false, true, false]);
        assert_eq!((ledger.duplicated, ledger.out_of_order), (2, 1));
        assert_eq!(ledger.lost(8), 3, "3, which others overtook, and the last two");
    }
}
