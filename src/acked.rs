//! Users whose clients have confirmed something, by an ack or a pong, that the engine has not been told.

use std::collections::HashSet;
use std::mem;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::id::UserId;
use crate::lock::lock;

/// Each user is in it once, so there are no more than have sessions here.
#[derive(Debug, Default)]
pub struct Acked {
    users: Mutex<HashSet<UserId>>,
    came: Notify,
}

impl Acked {
    /// One of the user's clients has confirmed something.
    pub fn add(&self, user: &UserId) {
        let mut users = lock(&self.users);
        if !users.contains(user) {
            users.insert(user.clone());
            self.came.notify_one();
        }
    }

    /// Waits until there are any, and takes them all.
    pub async fn take(&self) -> HashSet<UserId> {
        loop {
            let users = mem::take(&mut *lock(&self.users));
            if !users.is_empty() {
                return users;
            }
            self.came.notified().await;
        }
    }
}
