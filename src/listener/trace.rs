//! `/users/{id}/trace`: follows one user, and tells what was seen of them.

use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::Ports;
use super::http::{self, Answer};
use super::operator::user_id;
use crate::engine::unread;
use crate::id::EventId;
use crate::ms::ms;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::json;
use crate::protocol::publish::ENVELOPE;
use crate::trace::{LONGEST, MAX_USERS};

/// How long a user is followed where nobody says so.
const DEFAULT_MS: u64 = 10 * 60 * 1000;

/// Follows a user from here on; answers with the place after which their steps come.
///
/// # Errors
/// Where the body or the id is off, too many are followed already, or Redis is away.
pub async fn begin(user: &str, request: &mut Request<Incoming>, ports: &Ports) -> Result<Answer, Refusal> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
    struct Wish {
        for_ms: Option<u64>,
    }
    let user = user_id(user)?;
    let body = ports.bodies.read(request, ENVELOPE).await?;
    let most = ms(LONGEST);
    let wish: Wish =
        if body.bytes.is_empty() { Ok(Wish::default()) } else { json::object_of(&body.bytes) }
            .map_err(|_| Refusal::new(Code::InvalidFrame, r#"expected {"forMs":600000}, or no body"#))?;
    let for_ms = wish.for_ms.unwrap_or(DEFAULT_MS);
    if !(1..=most).contains(&for_ms) {
        return Err(Refusal::new(Code::InvalidFrame, format!("forMs must be from 1 to {most}")));
    }
    let engine = ports.router.engine();
    let Some(after) = engine.trace(user.clone(), Some(Duration::from_millis(for_ms))).await? else {
        let message = format!("{MAX_USERS} users are followed already; leave one, or wait until it lapses");
        return Err(Refusal::new(Code::TooManyItems, message));
    };
    Ok(http::json(&json!({"userId": user.as_str(), "forMs": for_ms, "after": after.to_string()})))
}

/// A user's steps after a place, at most [`PAGE`](crate::trace::PAGE).
///
/// # Errors
/// Where the id or the place is off, or Redis is away.
pub async fn read(user: &str, query: &str, ports: &Ports) -> Result<Answer, Refusal> {
    let user = user_id(user)?;
    let after = match http::query_values(query, "after").as_slice() {
        [] => EventId::ZERO,
        [text] => place(text)?,
        _ => return Err(Refusal::new(Code::InvalidSince, "after comes more than once")),
    };
    let steps = ports.router.engine().traces(user.clone(), after).await.map_err(unread)?;
    Ok(http::json(&json!({"userId": user.as_str(), "steps": steps})))
}

/// Follows a user no longer.
///
/// # Errors
/// Where the id is off, or Redis is away.
pub async fn end(user: &str, ports: &Ports) -> Result<Answer, Refusal> {
    ports.router.engine().trace(user_id(user)?, None).await?;
    Ok(http::no_content())
}

fn place(text: &str) -> Result<EventId, Refusal> {
    let off = |_| Refusal::new(Code::InvalidSince, "after must be 0, or the place of a step");
    text.parse().map_err(off)
}
