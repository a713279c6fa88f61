//! Who a client says it is: in the query string, or in its first frame, with the same names.

use std::str::FromStr;

use serde::Deserialize;

use crate::id::{ClientId, EventId, InvalidId, UserId};
use crate::protocol::code::{Code, Refusal};

/// A client's identity as it was sent, unchecked. It cannot be printed: a token belongs into no log.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hello {
    /// The user's id.
    pub user_id: Option<String>,
    /// The session's id; one is minted where it is left out.
    pub client_id: Option<String>,
    /// Replay what came after this event.
    pub since: Option<String>,
    /// Credentials.
    pub token: Option<String>,
}

/// A client's identity, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Whose session this is.
    pub user: UserId,
    /// Which session.
    pub client: ClientId,
    /// Replay what came after this event; none: after the client's confirmed position.
    pub since: Option<EventId>,
}

impl Hello {
    /// Reads the query string of an upgrade. Names that mean nothing here are left alone: proxies add theirs.
    pub fn from_query(query: &str) -> Self {
        let mut hello = Hello::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let field = match &*name {
                "userId" => &mut hello.user_id,
                "clientId" => &mut hello.client_id,
                "since" => &mut hello.since,
                "token" => &mut hello.token,
                _ => continue,
            };
            *field = Some(value.into_owned());
        }
        hello
    }

    /// Reads the hello frame.
    ///
    /// # Errors
    /// `invalid_frame` where it is not a JSON object with these fields.
    pub fn from_frame(text: &str) -> Result<Self, Refusal> {
        serde_json::from_str(text).map_err(|_| {
            Refusal::new(
                Code::InvalidFrame,
                "the first frame must be a JSON object with userId, clientId, since and token, each where it is needed",
            )
        })
    }

    /// The user, checked, where one is named.
    ///
    /// # Errors
    /// `invalid_user_id`.
    pub fn user(&self) -> Result<Option<UserId>, Refusal> {
        parsed(&self.user_id, Code::InvalidUserId)
    }

    /// The client, checked; one is minted where none is named.
    ///
    /// # Errors
    /// `invalid_client_id`.
    pub fn client(&self) -> Result<ClientId, Refusal> {
        Ok(parsed(&self.client_id, Code::InvalidClientId)?.unwrap_or_else(ClientId::mint))
    }

    /// The position, checked, where one is given.
    ///
    /// # Errors
    /// `invalid_since`.
    pub fn since(&self) -> Result<Option<EventId>, Refusal> {
        parsed(&self.since, Code::InvalidSince)
    }
}

fn parsed<T: FromStr<Err = InvalidId>>(text: &Option<String>, code: Code) -> Result<Option<T>, Refusal> {
    let parsed = text.as_deref().map(str::parse).transpose();
    parsed.map_err(|error: InvalidId| Refusal::new(code, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hello: &Hello) -> Result<(Option<UserId>, ClientId, Option<EventId>), Refusal> {
        Ok((hello.user()?, hello.client()?, hello.since()?))
    }

    #[test]
    fn query_and_frame_say_the_same() {
        let query = check(&Hello::from_query("userId=a%7C7&clientId=tab&since=5-1&x=y")).unwrap();
        let frame = Hello::from_frame(r#"{"userId":"a|7","clientId":"tab","since":"5-1"}"#).unwrap();
        assert_eq!(query, check(&frame).unwrap());
        assert_eq!(query.2, Some(EventId { ms: 5, seq: 1 }));
        assert_eq!(check(&Hello::from_query("clientId=tab")).unwrap().0, None);
    }

    #[test]
    fn each_bad_part_has_its_code() {
        let code = |query: &str| check(&Hello::from_query(query)).unwrap_err().code;
        assert_eq!(code("userId="), Code::InvalidUserId);
        assert_eq!(code("userId=a%20b"), Code::InvalidUserId);
        assert_eq!(code("userId=1&clientId=a@b"), Code::InvalidClientId);
        assert_eq!(code("userId=1&clientId="), Code::InvalidClientId);
        assert_eq!(code("userId=1&since=x"), Code::InvalidSince);
        assert!(Hello::from_frame(r#"{"userId":7}"#).is_err());
    }
}
