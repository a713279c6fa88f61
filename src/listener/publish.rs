//! `POST /publish`: one object, an array, or NDJSON.

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, StatusCode};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::Ports;
use super::http::{self, Answer};
use crate::metrics::Via;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::json::{List, MAX_ITEMS};
use crate::protocol::publish::{ENVELOPE, Receipt, Request as PublishRequest, answer, not_json};

/// Events of one request that are queued at once, a quarter of those that may wait in a node; the next ones are queued
/// when these are answered. One item may go beyond it.
const AT_ONCE: usize = 4096;
/// Bytes of a body that carries many items.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// Publishes what a request carries.
pub async fn handle(request: &mut Request<Incoming>, ports: &Ports) -> Answer {
    match publish(request, ports).await {
        Ok(answer) => answer,
        Err(refusal) => {
            ports.router.metrics().refused(refusal.code);
            http::refuse(&refusal)
        }
    }
}

/// Whether a body is lines of JSON, by its type: without its parameters, in whatever case.
fn is_ndjson(content_type: &HeaderValue) -> bool {
    let named = content_type.to_str().ok().and_then(|text| text.split(';').next());
    named.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-ndjson"))
}

async fn publish(request: &mut Request<Incoming>, ports: &Ports) -> Result<Answer, Refusal> {
    let lines = request.headers().get(header::CONTENT_TYPE).is_some_and(is_ndjson);
    let most = MAX_BODY.max(ports.max_event + ENVELOPE);
    // Its share of the bounds is held until all of it is answered: what is published is a part of it, not a copy.
    let body = ports.bodies.read(request, most).await?;
    if lines {
        let lines = body.bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let item = |line: &[u8]| {
            Utf8Bytes::try_from(body.bytes.slice_ref(line))
                .map_err(|_| Refusal::new(Code::InvalidFrame, "the line is not UTF-8"))
        };
        let answers = all(lines.take(MAX_ITEMS + 1).map(item).collect(), ports).await?;
        let answers: String = answers.into_iter().map(|answer| answer + "\n").collect();
        return Ok(http::answer(StatusCode::OK, "application/x-ndjson", answers));
    }
    let text = Utf8Bytes::try_from(body.bytes.clone())
        .map_err(|_| Refusal::new(Code::InvalidFrame, "the request is not UTF-8"))?;
    if !text.trim_start().starts_with('[') {
        let request = PublishRequest::parse(&text, ports.max_event);
        let outcome = Ok(ports.router.publish(request.publish?).await?);
        ports.router.metrics().published(Via::Http, &outcome);
        return Ok(json(answer(request.reference.as_deref(), &outcome)));
    }
    let items: List<&RawValue> = serde_json::from_str(&text).map_err(|error| not_json(&error))?;
    let items = items.0.into_iter().map(|item| Ok(slice(&text, item.get()))).collect();
    Ok(json(format!("[{}]", all(items, ports).await?.join(","))))
}

/// Publishes each of many items, and answers each.
async fn all(items: Vec<Result<Utf8Bytes, Refusal>>, ports: &Ports) -> Result<Vec<String>, Refusal> {
    if items.len() > MAX_ITEMS {
        return Err(Refusal::new(
            Code::TooManyItems,
            format!("a request may carry at most {MAX_ITEMS} items"),
        ));
    }
    let mut answers = Vec::with_capacity(items.len());
    let mut items = items.into_iter().map(|item| parse(item, ports)).peekable();
    while let Some(first) = items.next() {
        let mut events = first.events();
        let mut queued = vec![one(first, ports)];
        while let Some(next) = items.next_if(|next| events + next.events() <= AT_ONCE) {
            events += next.events();
            queued.push(one(next, ports));
        }
        answers.extend(join_all(queued).await);
    }
    Ok(answers)
}

fn json(text: impl Into<Bytes>) -> Answer {
    http::answer(StatusCode::OK, "application/json", text)
}

/// A part of a shared text, shared too.
fn slice(text: &Utf8Bytes, part: &str) -> Utf8Bytes {
    let bytes = AsRef::<Bytes>::as_ref(text).slice_ref(part.as_bytes());
    Utf8Bytes::try_from(bytes).unwrap_or_default() // a `str` of it is UTF-8
}

fn parse(item: Result<Utf8Bytes, Refusal>, ports: &Ports) -> PublishRequest {
    match item {
        Ok(item) => PublishRequest::parse(&item, ports.max_event),
        Err(refusal) => PublishRequest { reference: None, publish: Err(refusal) },
    }
}

/// Publishes one of many items: queued at once, answered later.
fn one(request: PublishRequest, ports: &Ports) -> impl Future<Output = String> + '_ {
    let reference = request.reference;
    let published = request.publish.map(|publish| ports.router.publish(publish));
    async move {
        let outcome: Result<Receipt, Refusal> = match published {
            Ok(published) => published.await,
            Err(refusal) => Err(refusal),
        };
        ports.router.metrics().published(Via::Http, &outcome);
        answer(reference.as_deref(), &outcome).as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_compared_whole_and_without_its_case_and_parameters() {
        let is = |text| is_ndjson(&HeaderValue::from_static(text));
        for yes in ["application/x-ndjson", "Application/X-NDJSON", "application/x-ndjson ; charset=utf-8"] {
            assert!(is(yes), "{yes}");
        }
        for no in ["application/json", "application/x-ndjson-seq", "text/plain; application/x-ndjson", ""] {
            assert!(!is(no), "{no}");
        }
    }
}
