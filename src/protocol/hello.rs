//! Who a client says it is: in the query string, or in its first frame, with the same names.

use serde::Deserialize;

use crate::id::{ClientId, EventId, UserId};
use crate::protocol::code::{Code, Refusal, parse};
use crate::protocol::json;

/// A client's identity as it was sent, unchecked. It cannot be printed: a token belongs into no log.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hello {
    /// What kind of frame this is, which need not be said: it is the first.
    #[serde(rename = "type")]
    kind: Option<Kind>,
    /// The user's id.
    pub user_id: Option<String>,
    /// The session's id; one is minted where it is left out.
    pub client_id: Option<String>,
    /// Replay what came after this event.
    pub since: Option<String>,
    /// Credentials.
    pub token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Hello,
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
    ///
    /// # Errors
    /// Where a name comes twice: a proxy that adds a user of its own must not depend on which of the two counts. Where a
    /// value cannot be read, also if a frame says the rest: only here a refusal has a status.
    pub fn from_query(query: &str) -> Result<Self, Refusal> {
        let mut hello = Hello::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let (field, code) = match &*name {
                "userId" => (&mut hello.user_id, Code::InvalidUserId),
                "clientId" => (&mut hello.client_id, Code::InvalidClientId),
                "since" => (&mut hello.since, Code::InvalidSince),
                "token" => (&mut hello.token, Code::Unauthorized),
                _ => continue,
            };
            if field.replace(value.into_owned()).is_some() {
                return Err(Refusal::new(code, format!("{name} is in the query string twice")));
            }
        }
        hello.user().map_err(|refusal| match &hello.user_id {
            // Who builds a query by hand leaves it as it is in `ann+news@example.com`.
            Some(user) if user.contains(' ') => Refusal::new(
                refusal.code,
                format!("{}; a + in a query is a space: write %2B", refusal.message),
            ),
            _ => refusal,
        })?;
        parse::<ClientId>(hello.client_id.as_deref(), "clientId", Code::InvalidClientId)?;
        hello.since()?;
        Ok(hello)
    }

    /// Reads the hello frame.
    ///
    /// # Errors
    /// `invalid_frame` where it is not a JSON object with these fields.
    pub fn from_frame(text: &str) -> Result<Self, Refusal> {
        json::object(text).map_err(|_| {
            Refusal::new(
                Code::InvalidFrame,
                "the first frame must be a JSON object with userId, clientId, since and token, each a text, where it is needed",
            )
        })
    }

    /// What this frame says, and where it leaves something out, what the query string of its upgrade has said.
    ///
    /// # Errors
    /// Where they differ: as within a query string, nothing may depend on which of the two counts.
    pub fn or(mut self, query: Self) -> Result<Self, Refusal> {
        for (name, code, said, before) in [
            ("userId", Code::InvalidUserId, &mut self.user_id, query.user_id),
            ("clientId", Code::InvalidClientId, &mut self.client_id, query.client_id),
            ("since", Code::InvalidSince, &mut self.since, query.since),
            ("token", Code::Unauthorized, &mut self.token, query.token),
        ] {
            if let (Some(said), Some(before)) = (&*said, &before)
                && said != before
            {
                return Err(Refusal::new(code, format!("{name} is another one than in the query string")));
            }
            *said = said.take().or(before);
        }
        Ok(self)
    }

    /// The user, checked, where one is named.
    ///
    /// # Errors
    /// `invalid_user_id`.
    pub fn user(&self) -> Result<Option<UserId>, Refusal> {
        parse(self.user_id.as_deref(), "userId", Code::InvalidUserId)
    }

    /// The client, checked; one is minted where none is named.
    ///
    /// # Errors
    /// `invalid_client_id`.
    pub fn client(&self) -> Result<ClientId, Refusal> {
        Ok(parse(self.client_id.as_deref(), "clientId", Code::InvalidClientId)?
            .unwrap_or_else(ClientId::mint))
    }

    /// The position, checked, where one is given.
    ///
    /// # Errors
    /// `invalid_since`.
    pub fn since(&self) -> Result<Option<EventId>, Refusal> {
        parse(self.since.as_deref(), "since", Code::InvalidSince)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hello: &Hello) -> Result<(Option<UserId>, ClientId, Option<EventId>), Refusal> {
        Ok((hello.user()?, hello.client()?, hello.since()?))
    }

    #[test]
    fn query_and_frame_say_the_same() {
        let from_query = |query: &str| check(&Hello::from_query(query).unwrap()).unwrap();
        let query = from_query("userId=a%7C7&clientId=tab&since=5-1&x=y&x=y");
        let frame = Hello::from_frame(r#"{"userId":"a|7","clientId":"tab","since":"5-1"}"#).unwrap();
        assert_eq!(query, check(&frame).unwrap());
        let frame = r#"{"type":"hello","userId":"a|7","clientId":"tab","since":"5-1"}"#;
        assert_eq!(query, check(&Hello::from_frame(frame).unwrap()).unwrap());
        assert_eq!(query.2, Some(EventId { ms: 5, seq: 1 }));
        assert_eq!(from_query("clientId=tab").0, None);
    }

    #[test]
    fn a_plus_that_was_left_as_it_is_is_told() {
        let message = |query: &str| Hello::from_query(query).err().unwrap().message;
        assert!(message("userId=ann+news@example.com").ends_with("; a + in a query is a space: write %2B"));
        assert!(!message("userId=a,b").contains("%2B"));
        let user = Hello::from_query("userId=ann%2Bnews@example.com").unwrap().user().unwrap();
        assert_eq!(user.unwrap().as_str(), "ann+news@example.com");
    }

    #[test]
    fn a_frame_goes_on_where_the_query_has_ended_and_does_not_contradict_it() {
        let both = |query: &str, frame: &str| {
            let query = Hello::from_query(query).unwrap();
            Hello::from_frame(frame).unwrap().or(query).and_then(|hello| check(&hello))
        };
        let all = check(&Hello::from_query("userId=7&clientId=tab&since=5-1").unwrap()).unwrap();
        for (query, frame) in [
            ("clientId=tab&since=5-1", r#"{"userId":"7"}"#),
            ("clientId=tab", r#"{"userId":"7","since":"5-1"}"#),
            ("since=5-1", r#"{"userId":"7","clientId":"tab"}"#),
            ("clientId=tab&since=5-1", r#"{"userId":"7","clientId":"tab","since":"5-1"}"#),
            ("clientId=tab&since=5-1", r#"{"userId":"7","clientId":null}"#),
        ] {
            assert_eq!(both(query, frame).unwrap(), all, "{query} {frame}");
        }
        for (query, frame, code) in [
            ("userId=7", r#"{"userId":"8"}"#, Code::InvalidUserId),
            ("clientId=tab", r#"{"userId":"7","clientId":"bat"}"#, Code::InvalidClientId),
            ("since=5-1", r#"{"userId":"7","since":"5-2"}"#, Code::InvalidSince),
            ("token=a", r#"{"token":"b"}"#, Code::Unauthorized),
        ] {
            assert_eq!(both(query, frame).unwrap_err().code, code, "{query} {frame}");
        }
    }

    #[test]
    fn each_bad_part_has_its_code() {
        let code = |query: &str| Hello::from_query(query).and_then(|hello| check(&hello)).unwrap_err().code;
        assert_eq!(code("userId="), Code::InvalidUserId);
        assert_eq!(code("userId=a%20b"), Code::InvalidUserId);
        assert_eq!(code("userId=1&clientId=a@b"), Code::InvalidClientId);
        assert_eq!(code("userId=1&clientId="), Code::InvalidClientId);
        assert_eq!(code("userId=1&since=x"), Code::InvalidSince);
        assert!(Hello::from_query("clientId=@@").is_err() && Hello::from_query("since=zz").is_err());
        assert_eq!(code("userId=1&x=y&userId=1"), Code::InvalidUserId);
        assert_eq!(code("user%49d=1&userId="), Code::InvalidUserId);
        assert_eq!(code("clientId=1&clientId=2"), Code::InvalidClientId);
        assert_eq!(code("since=0&since=0"), Code::InvalidSince);
        assert_eq!(code("token=a&token=b"), Code::Unauthorized);
        for bad in [
            r#"["42"]"#,
            r#"["42","tab","0","token"]"#,
            r#"{"userId":7}"#,
            r#"{"userId":"1","userId":"1"}"#,
            r#"{"userId":"1","user_id":"1"}"#,
            r#"{"type":"message","userId":"1"}"#,
            r#"{"type":"hello","type":"hello","userId":"1"}"#,
            r#"{"userId":"\ud800"}"#,
            r#"{"userId":"1","since":1e400}"#,
            &format!(r#"{{"userId":{}"#, "[".repeat(100_000)),
        ] {
            let refusal = Hello::from_frame(bad).err().unwrap();
            assert_eq!(refusal.code, Code::InvalidFrame, "{bad:.60}");
            assert!(refusal.message.ends_with("each a text, where it is needed"), "{refusal:?}");
        }
    }
}
