//! Users whose clients have confirmed something, by an ack or a pong, that the engine has not been told.

use std::collections::HashSet;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::id::UserId;
use crate::lock::lock;

/// Each user is there twice at most, so there are no more than twice as many as have sessions here.
#[derive(Debug, Default)]
pub struct Acked {
    by_ack: Users,
    /// All who get events have pongs, so they do not wait together with who took the trouble.
    by_pong: Users,
}

#[derive(Debug, Default)]
struct Users {
    waiting: Mutex<HashSet<UserId>>,
    came: Notify,
}

/// What confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// An `ack` frame.
    Ack,
    /// The answer to a ping.
    Pong,
}

impl Confirmation {
    /// Its name in a trace.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Pong => "pong",
        }
    }
}

impl Acked {
    /// One of the user's clients has confirmed something.
    pub fn add(&self, user: &UserId, by: Confirmation) {
        let users = self.by(by);
        let mut waiting = lock(&users.waiting);
        if !waiting.contains(user) {
            waiting.insert(user.clone());
            users.came.notify_one();
        }
    }

    /// Waits until there are any.
    pub async fn came(&self, by: Confirmation) {
        let users = self.by(by);
        while lock(&users.waiting).is_empty() {
            users.came.notified().await;
        }
    }

    /// Takes so many at most.
    pub fn take(&self, by: Confirmation, most: usize) -> Vec<UserId> {
        lock(&self.by(by).waiting).extract_if(|_| true).take(most).collect()
    }

    fn by(&self, by: Confirmation) -> &Users {
        match by {
            Confirmation::Ack => &self.by_ack,
            Confirmation::Pong => &self.by_pong,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn each_user_waits_once_for_what_confirmed() {
        let (acked, user) = (Acked::default(), |number: u32| number.to_string().parse::<UserId>().unwrap());
        (0..5).for_each(|number| acked.add(&user(number), Confirmation::Pong));
        (0..2).for_each(|_| acked.add(&user(9), Confirmation::Ack));
        assert_eq!(acked.take(Confirmation::Ack, 4), [user(9)]);
        assert!(acked.came(Confirmation::Ack).now_or_never().is_none());
        assert_eq!([4, 4].map(|most| acked.take(Confirmation::Pong, most).len()), [4, 1]);
        assert!(acked.came(Confirmation::Pong).now_or_never().is_none());
    }
}
