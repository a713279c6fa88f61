//! What is published: one form and one set of checks for every way in.
//!
//! Worker frames, HTTP bodies and ingress entries all become a [`Publish`] here, with the same error codes.

use crate::id::{ClientId, CollapseKey, EventName, IdempotencyKey, UserId};
use crate::protocol::code::{Code, Refusal, parse};
use crate::protocol::data::Data;
use crate::protocol::json::MAX_ITEMS;

/// Who gets an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every session of one user.
    User(UserId),
    /// Every session of several users.
    Users(Vec<UserId>),
    /// Every connected client of every node.
    Broadcast,
}

/// One thing to publish, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Who gets it.
    pub target: Target,
    /// With one user: that session alone.
    pub client: Option<ClientId>,
    /// With one user: every session but that one.
    pub except: Option<ClientId>,
    /// Its name.
    pub event: EventName,
    /// Its content.
    pub data: Data,
    /// A newer event with the same key, and the same target, takes its place in the log.
    pub collapse: Option<CollapseKey>,
    /// Published once per user and key.
    pub key: Option<IdempotencyKey>,
    /// To whoever is connected now: not logged, without an id.
    pub transient: bool,
}

/// The parts of a [`Publish`] as text, whichever way they came.
#[derive(Debug, Default)]
pub struct Parts<'a> {
    /// One user.
    pub user: Option<&'a str>,
    /// Several users.
    pub users: Option<Vec<&'a str>>,
    /// Everyone.
    pub broadcast: bool,
    /// That session alone.
    pub client: Option<&'a str>,
    /// Every session but that one.
    pub except: Option<&'a str>,
    /// The event's name.
    pub event: Option<&'a str>,
    /// A newer one takes its place.
    pub collapse: Option<&'a str>,
    /// Idempotency key.
    pub key: Option<&'a str>,
    /// Not logged.
    pub transient: bool,
}

/// What a way in calls some of the parts, for whoever is told that one is off.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    user: &'static str,
    users: &'static str,
    client: &'static str,
    except: &'static str,
    collapse: &'static str,
}

impl Names {
    /// Of a worker's frame.
    pub const FRAME: Self = Self {
        user: "userId",
        users: "userIds",
        client: "clientId",
        except: "exceptClientId",
        collapse: "collapseKey",
    };
    /// Of an entry of an ingress stream.
    pub const ENTRY: Self =
        Self { user: "user", users: "users", client: "client", except: "except", collapse: "collapse" };
}

impl Parts<'_> {
    /// Checks every part; `data` is JSON text by now.
    ///
    /// # Errors
    /// The code of the first part that is off, with what is allowed.
    pub fn check(&self, data: Data, max_event: usize, names: &Names) -> Result<Publish, Refusal> {
        let target = self.target(names)?;
        let event = self.event.ok_or_else(|| Refusal::new(Code::InvalidEvent, "event is missing"))?;
        if data.as_bytes().len() + event.len() > max_event {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("the event is larger than the {max_event} bytes allowed (--max-event)"),
            ));
        }
        let one_user = matches!(target, Target::User(_));
        if !one_user && (self.client.is_some() || self.except.is_some()) {
            let Names { user, client, except, .. } = names;
            return Err(Refusal::new(
                Code::InvalidTarget,
                format!("{client} and {except} go with one {user}"),
            ));
        }
        Ok(Publish {
            transient: self.transient || target == Target::Broadcast,
            target,
            client: parse(self.client, names.client, Code::InvalidClientId)?,
            except: parse(self.except, names.except, Code::InvalidClientId)?,
            event: event.parse().map_err(Refusal::invalid("event", Code::InvalidEvent))?,
            data,
            collapse: parse(self.collapse, names.collapse, Code::InvalidKey)?,
            key: parse(self.key, "key", Code::InvalidKey)?,
        })
    }

    fn target(&self, names: &Names) -> Result<Target, Refusal> {
        let user_id = |text: &str| text.parse().map_err(Refusal::invalid(names.user, Code::InvalidUserId));
        match (self.user, &self.users, self.broadcast) {
            (Some(user), None, false) => Ok(Target::User(user_id(user)?)),
            (None, Some(users), false) if users.len() > MAX_ITEMS => Err(Refusal::new(
                Code::TooManyItems,
                format!("{} may name at most {MAX_ITEMS} users", names.users),
            )),
            (None, Some(users), false) if !users.is_empty() => {
                Ok(Target::Users(users.iter().map(|user| user_id(user)).collect::<Result<_, _>>()?))
            }
            (None, None, true) => Ok(Target::Broadcast),
            _ => Err(Refusal::new(
                Code::InvalidTarget,
                "give exactly one of userId, userIds (not empty) and broadcast: true",
            )),
        }
    }
}
