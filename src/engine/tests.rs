//! What tests of several parts begin with.

use super::Event;
use crate::protocol::publish::Data;

impl Event {
    /// One for every session of a user.
    pub fn of_tests(user: &str, data: impl Into<String>) -> Self {
        Self {
            user: user.parse().unwrap(),
            client: None,
            except: None,
            event: "e".parse().unwrap(),
            data: Data::from_json_text(data.into()),
            collapse: None,
            key: None,
            transient: false,
        }
    }
}
