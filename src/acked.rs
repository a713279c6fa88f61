//! Users whose clients have confirmed something, by an ack or a pong, that the engine has not been told.

use std::collections::HashSet;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::id::UserId;
use crate::lock::lock;

/// Each user is there twice at most, so there are no more than twice as many as have sessions here.
#[derive(Debug, Default)]
pub struct Acked {
    users: Mutex<Users>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Users {
    by_ack: HashSet<UserId>,
    /// All who get events have pongs, so they come after who took the trouble.
    by_pong: HashSet<UserId>,
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
        let mut users = lock(&self.users);
        let users = match by {
            Confirmation::Ack => &mut users.by_ack,
            Confirmation::Pong => &mut users.by_pong,
        };
        if !users.contains(user) {
            users.insert(user.clone());
            self.came.notify_one();
        }
    }

    /// Waits until there are any.
    pub async fn came(&self) {
        while self.is_empty() {
            self.came.notified().await;
        }
    }

    fn is_empty(&self) -> bool {
        let Users { by_ack, by_pong } = &*lock(&self.users);
        by_ack.is_empty() && by_pong.is_empty()
    }

    /// Takes so many at most.
    pub fn take(&self, most: usize) -> Vec<UserId> {
        let Users { by_ack, by_pong } = &mut *lock(&self.users);
        by_ack.extract_if(|_| true).chain(by_pong.extract_if(|_| true)).take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn whoever_sent_an_ack_comes_first_and_each_once() {
        let (acked, user) = (Acked::default(), |number: u32| number.to_string().parse::<UserId>().unwrap());
        (0..5).for_each(|number| acked.add(&user(number), Confirmation::Pong));
        (0..2).for_each(|_| acked.add(&user(9), Confirmation::Ack));
        assert_eq!(acked.take(1), [user(9)]);
        assert_eq!([4, 4].map(|most| acked.take(most).len()), [4, 1]);
        assert!(acked.came().now_or_never().is_none());
    }
}
