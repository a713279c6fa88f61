//! Users one of whose keys is not as the relay left it: whatever is asked for them is refused until somebody mends that,
//! so it is told to who can.

use std::collections::HashMap;
use std::sync::Mutex;

use redis::Cmd;
use tracing::warn;

use super::wire::Returned;
use super::{Context, reply};
use crate::engine::{Cause, Unavailable};
use crate::id::UserId;
use crate::lock::lock;
use crate::retold::Retold;

/// So many are told of apart. Where there are more, an application writes to the wrong keys, and any of them shows that.
const MOST: usize = 32;

/// What was told of them last. Clients come back again and again.
#[derive(Default)]
pub struct Broken(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// Each on its own, so that each is named.
    users: HashMap<UserId, Retold>,
    /// All for whom there is no place: each time one of them is named.
    others: Retold,
}

impl Broken {
    /// Tells why something was refused for `user`, where a key of theirs is the reason.
    pub fn tell(&self, user: &UserId, error: &Unavailable) {
        if error.is_for_good()
            && let Some(times) = lock(&self.0).of(user).again()
        {
            warn!(%user, %error, times, "a key of this user is not the relay's, or broken: refused until it is mended");
        }
    }

    /// One user's item of a batch; none where a key of theirs is broken. To try that again would not mend it, so it is
    /// said and passed over.
    pub fn item_of<'a>(&self, user: &UserId, text: &'a str) -> Option<&'a str> {
        let passed_over = |error: &Unavailable| {
            if let Some(times) = lock(&self.0).of(user).again() {
                warn!(%user, %error, times, "a key of this user is not the relay's, or broken: the user is passed over");
            }
        };
        reply::item(text).inspect_err(passed_over).ok()
    }
}

impl Told {
    fn of(&mut self, user: &UserId) -> &mut Retold {
        if !self.users.contains_key(user) {
            if self.users.len() >= MOST {
                self.users.retain(|_, told| !told.is_old());
            }
            if self.users.len() >= MOST {
                return &mut self.others;
            }
        }
        self.users.entry(user.clone()).or_default()
    }
}

/// Runs one command about a key of `user`.
///
/// # Errors
/// Where Redis is away, or the key holds something else.
pub async fn ask(context: &Context, user: &UserId, command: Cmd) -> Returned {
    let outcome = context.link.run_one(command).await;
    outcome.map_err(|error| {
        let cause = if error.cause == Cause::Refused { reply::cause(&error.reason) } else { error.cause };
        let error = Unavailable { cause, ..error };
        context.broken.tell(user, &error);
        error
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_user_is_told_of_once_a_minute_and_of_many_some() {
        let mut told = Told::default();
        let mut again = |user: usize| told.of(&user.to_string().parse().unwrap()).again();
        for user in 0..MOST {
            assert_eq!((again(user), again(user)), (Some(1), None), "{user}");
        }
        let more: Vec<_> = (MOST..3 * MOST).filter_map(&mut again).collect();
        assert_eq!(more, [1], "one for all that are too many");
        sleep(Duration::from_secs(60)).await;
        assert_eq!(again(0), Some(2));
        assert_eq!(again(MOST), Some(1), "the places of those who were told of long ago are free");
        assert_eq!((told.users.len(), told.others.due()), (2, Some(2 * MOST as u64 - 1)));
    }
}
