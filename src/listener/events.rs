//! `GET /events`: a session as server-sent events, for networks that break WebSockets, and for `curl -N`.

use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};

use super::http::{self, Answer, Body};
use super::turned_away::Caller;
use super::{Ports, client};
use crate::auth::Credentials;
use crate::close::Close;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::hello::Hello;
use crate::session::events::{EventBody, pair};
use crate::session::transport::Transport;

/// Lets a client in and answers with its events; identity and refusals are those of an upgrade.
///
/// # Errors
/// Any refusal of an upgrade. But an `EventSource` that comes back, and may do so later, is told by a stream.
pub async fn open(
    request: Request<Incoming>,
    ports: Arc<Ports>,
    caller: &mut Caller,
) -> Result<Answer, Refusal> {
    let comes_back = last_event_id(&request).is_some();
    match let_in(&request, &ports, caller).await {
        Err(refusal) if comes_back && matches!(refusal.code, Code::Draining | Code::Unavailable) => {
            ports.turned_away(&refusal, caller);
            // It would never come back after an answer that is none of its kind.
            let (events, body) = pair();
            tokio::spawn(Transport::from(events).goodbye(Close::Overloaded));
            Ok(stream(body))
        }
        answered => answered,
    }
}

fn last_event_id(request: &Request<Incoming>) -> Option<&HeaderValue> {
    request.headers().get("last-event-id").filter(|last| !last.is_empty())
}

async fn let_in(request: &Request<Incoming>, ports: &Ports, caller: &mut Caller) -> Result<Answer, Refusal> {
    http::admit(request, ports)?;
    let mut hello = Hello::from_query(request.uri().query().unwrap_or_default())?;
    caller.says(&hello);
    // A browser comes back to the address that it first came to: what it has got since then stands here.
    if let Some(last) = last_event_id(request) {
        let last =
            last.to_str().map_err(|_| Refusal::new(Code::InvalidSince, "Last-Event-ID is no event id"))?;
        hello.since = Some(last.to_owned());
    }
    let credentials = Credentials::of(request.headers(), caller.ip);
    let place = client::place(ports)?;
    let opened = client::let_in(&credentials, &hello, ports, caller).await?;
    let (events, body) = pair();
    opened.serve(events, ports, place);
    Ok(stream(body))
}

fn stream(body: EventBody) -> Answer {
    let mut answer = Answer::new(Body::Right(body));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    // Neither kept nor held up nor compressed on the way.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    // Who comes back takes a new connection, which may lead to another node.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}
