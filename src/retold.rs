//! A warning whose cause may go on for hours, many times a second: the first is told at once, and from then on one a
//! minute, with how many there were.

use std::time::Duration;

use tokio::time::Instant;

/// How often it is told that something still goes wrong.
const RETOLD: Duration = Duration::from_secs(60);

/// What was told last, and how often it was not told since.
#[derive(Debug, Default)]
pub struct Retold {
    told: Option<Instant>,
    untold: u64,
    /// The last word is that it goes wrong.
    is_open: bool,
}

impl Retold {
    /// It happened once more. How often since it was told last, where it is time to tell it again.
    pub fn again(&mut self) -> Option<u64> {
        self.more(1)
    }

    /// As [`Retold::again`], where it happened so many times more.
    pub fn more(&mut self, times: u64) -> Option<u64> {
        self.untold += times;
        self.due()
    }

    /// How often it happened since it was told last, where that is long enough ago, and it did.
    pub fn due(&mut self) -> Option<u64> {
        let due = self.untold > 0 && self.is_old();
        due.then(|| {
            (self.told, self.is_open) = (Some(Instant::now()), true);
            std::mem::take(&mut self.untold)
        })
    }

    /// It went well. Whether that is news: what goes wrong now and then is told no more often for it.
    pub fn ended(&mut self) -> bool {
        std::mem::take(&mut self.is_open)
    }

    /// Whether the next one is told.
    pub fn is_old(&self) -> bool {
        self.told.is_none_or(|told| told.elapsed() >= RETOLD)
    }
}

/// Something that is wrong until it is over: told as by [`Retold`], and its end once.
#[derive(Debug, Default)]
pub struct Outage(Option<Retold>);

impl Outage {
    /// It is wrong, once more. How often since that was told, where it is time to tell it again.
    pub fn again(&mut self) -> Option<u64> {
        self.0.get_or_insert_default().again()
    }

    /// Whether the last word is that it is wrong.
    pub fn is_told(&self) -> bool {
        self.0.is_some()
    }

    /// It is over: where it is wrong after that, that is news. Whether this is.
    pub fn end(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_and_then_once_a_minute_how_many() {
        let mut retold = Retold::default();
        assert_eq!(retold.due(), None, "nothing has happened");
        assert_eq!(retold.again(), Some(1));
        for _ in 0..20_000 {
            assert_eq!(retold.again(), None);
        }
        sleep(RETOLD).await;
        assert_eq!(retold.due(), Some(20_000), "also where no other one comes");
        assert_eq!((retold.due(), retold.again()), (None, None));
        assert_eq!((retold.ended(), retold.ended()), (true, false), "that is told once, too");
        assert_eq!((retold.again(), retold.ended()), (None, false), "and not of what was not told");
        sleep(RETOLD).await;
        assert_eq!(retold.again(), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn that_it_is_over_is_told_once_and_what_is_wrong_after_that_is_news_again() {
        let mut outage = Outage::default();
        assert!(!outage.is_told() && !outage.end(), "it never was");
        assert_eq!((outage.again(), outage.again()), (Some(1), None));
        sleep(RETOLD).await;
        assert_eq!(outage.again(), Some(2), "it still is");
        assert!(outage.is_told());
        assert_eq!((outage.end(), outage.end()), (true, false));
        assert_eq!(outage.again(), Some(1));
    }
}
