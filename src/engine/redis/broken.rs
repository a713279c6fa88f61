//! Users one of whose keys is not as the relay left it: whatever is asked for them is refused until somebody mends that,
//! so it is told to who can.

use std::sync::Mutex;

use redis::{Cmd, Value};
use tracing::warn;

use super::retold::Retold;
use super::{Context, reply};
use crate::engine::Unavailable;
use crate::id::UserId;
use crate::lock::lock;

/// What was told of them last. Clients come back again and again.
#[derive(Default)]
pub struct Broken(Mutex<Retold>);

impl Broken {
    /// Tells why something was refused for `user`, where a key of theirs is the reason.
    pub fn tell(&self, user: &UserId, error: &Unavailable) {
        if error.is_for_good()
            && let Some(times) = lock(&self.0).again()
        {
            warn!(%user, %error, times, "a key of this user is not the relay's, or broken: refused until it is mended");
        }
    }
}

/// Runs one command about a key of `user`.
///
/// # Errors
/// Where Redis is away, or the key holds something else.
pub async fn ask(context: &Context, user: &UserId, command: Cmd) -> Result<Value, Unavailable> {
    let outcome = context.link.run_one(command).await;
    outcome.map_err(|error| {
        let error = Unavailable { cause: reply::cause(&error.reason), ..error };
        context.broken.tell(user, &error);
        error
    })
}
