//! `POST /publish`: one object, an array, or NDJSON.

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::body::Incoming;
use hyper::{Request, StatusCode, header};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::Ports;
use super::http::{self, Answer};
use crate::metrics::Via;
use crate::protocol::code::{Code, Refusal};
use crate::protocol::json::{List, MAX_ITEMS};
use crate::protocol::publish::{ENVELOPE, Receipt, Request as PublishRequest, answer};

/// Bytes of a body that carries many items.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// Publishes what a request carries.
pub async fn handle(request: Request<Incoming>, ports: &Ports) -> Answer {
    match publish(request, ports).await {
        Ok(answer) => answer,
        Err(refusal) => http::refuse(&refusal),
    }
}

async fn publish(request: Request<Incoming>, ports: &Ports) -> Result<Answer, Refusal> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let lines = content_type.is_some_and(|kind| kind.trim_start().starts_with("application/x-ndjson"));
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
        let outcome = match request.publish {
            Ok(publish) => ports.router.publish(publish).await,
            Err(refusal) => Err(refusal),
        };
        ports.router.metrics().published(Via::Http, &outcome);
        let receipt = outcome?;
        return Ok(json(answer(request.reference.as_deref(), &Ok(receipt))));
    }
    let items: List<&RawValue> = serde_json::from_str(&text)
        .map_err(|_| Refusal::new(Code::InvalidFrame, "the request is neither a JSON object nor an array"))?;
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
    Ok(join_all(items.into_iter().map(|item| one(item, ports))).await)
}

fn json(text: impl Into<Bytes>) -> Answer {
    http::answer(StatusCode::OK, "application/json", text)
}

/// A part of a shared text, shared too.
fn slice(text: &Utf8Bytes, part: &str) -> Utf8Bytes {
    let bytes = AsRef::<Bytes>::as_ref(text).slice_ref(part.as_bytes());
    Utf8Bytes::try_from(bytes).unwrap_or_default() // a `str` of it is UTF-8
}

/// Publishes one of many items: queued at once, answered later.
fn one(item: Result<Utf8Bytes, Refusal>, ports: &Ports) -> impl Future<Output = String> + '_ {
    let (reference, publish) = match item {
        Ok(item) => {
            let request = PublishRequest::parse(&item, ports.max_event);
            (request.reference, request.publish)
        }
        Err(refusal) => (None, Err(refusal)),
    };
    let published = publish.map(|publish| ports.router.publish(publish));
    async move {
        let outcome: Result<Receipt, Refusal> = match published {
            Ok(published) => published.await,
            Err(refusal) => Err(refusal),
        };
        ports.router.metrics().published(Via::Http, &outcome);
        answer(reference.as_deref(), &outcome).as_str().to_owned()
    }
}
