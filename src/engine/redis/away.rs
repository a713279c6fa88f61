//! What was told of a master of a Cluster that is away: the first time that it is looked for in vain, then once a minute,
//! and when it answers again.

use std::sync::Mutex;

use super::retold::Retold;
use crate::lock::lock;

/// From when it is told that a master is away until it is told that it answers. It goes with the master: one that has
/// left the Cluster's map is told of no more.
#[derive(Debug, Default)]
pub struct Away(Mutex<Option<Retold>>);

impl Away {
    /// It was looked for in vain once more. How often since that was told, where it is time to tell it again.
    pub fn again(&self) -> Option<u64> {
        lock(&self.0).get_or_insert_default().again()
    }

    /// Whether the last word is that it is away.
    pub fn is_told(&self) -> bool {
        lock(&self.0).is_some()
    }

    /// It answers. Whether that is news.
    pub fn is_over(&self) -> bool {
        lock(&self.0).take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn that_it_answers_is_told_once_and_where_it_is_away_after_that_it_is_news_again() {
        let away = Away::default();
        assert!(!away.is_told() && !away.is_over(), "it never was");
        assert_eq!((away.again(), away.again()), (Some(1), None));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(away.again(), Some(2), "it still is");
        assert!(away.is_told());
        assert_eq!((away.is_over(), away.is_over()), (true, false));
        assert_eq!(away.again(), Some(1));
    }
}
