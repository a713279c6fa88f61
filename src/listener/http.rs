//! What every HTTP answer here has in common, and the WebSocket handshake.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Ports, cors};
use crate::protocol::code::{Code, Refusal};
use crate::session::events::EventBody;

/// An answer.
pub type Answer = Response<Body>;

/// The body of an answer: known in full, or a session's events until its end.
pub type Body = Either<Full<Bytes>, EventBody>;

/// An answer with a status, a content type and a body.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Body::Left(Full::new(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// An answer with a status alone.
fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::Left(Full::default()));
    *answer.status_mut() = status;
    answer
}

/// 200 with JSON.
pub fn json(body: &impl Serialize) -> Answer {
    // Plain structs of text and numbers always serialize.
    answer(StatusCode::OK, "application/json", serde_json::to_vec(body).unwrap_or_default())
}

/// 204: it is done, and there is nothing to tell.
pub fn no_content() -> Answer {
    empty(StatusCode::NO_CONTENT)
}

/// A refusal: its status, and `{"error":{"code","message"}}`.
pub fn refuse(refusal: &Refusal) -> Answer {
    let status = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let error = serde_json::json!({"error": {"code": refusal.code.as_str(), "message": refusal.message}});
    let mut answer = answer(status, "application/json", error.to_string());
    let headers = answer.headers_mut();
    match refusal.code {
        Code::Draining | Code::Unavailable => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        Code::UpgradeRequired => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
        }
        Code::Unauthorized => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    answer
}

/// Nothing is at this path.
pub fn not_found(what_is: &str) -> Answer {
    refuse(&Refusal::new(Code::NotFound, format!("there is nothing here; there is {what_is}")))
}

/// Something is at this path, but not with this method.
pub fn wrong_method(allowed: &str) -> Answer {
    let mut answer = refuse(&Refusal::new(Code::MethodNotAllowed, format!("here there is: {allowed}")));
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        answer.headers_mut().insert(header::ALLOW, allowed);
    }
    answer
}

/// Which node answers `GET /readyz`: at an address that several share, or that means another machine to whoever asks, it
/// need not be the one that was meant.
pub const NODE_HEADER: &str = "switchboard-node";

/// `GET /healthz`: the process is alive.
pub fn healthz() -> Answer {
    answer(StatusCode::OK, "text/plain; charset=utf-8", "ok\n")
}

/// `GET /readyz`: whether the node should get clients.
pub fn readyz(ports: &Ports) -> Answer {
    let (status, text) = match ports.is_ready() {
        Ok(()) => {
            let warning = ports.router.engine().warning().map(|warning| format!("warning: {warning}\n"));
            (StatusCode::OK, format!("ready\n{}", warning.unwrap_or_default()))
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    };
    let mut answer = answer(status, "text/plain; charset=utf-8", text);
    if let Ok(node) = HeaderValue::from_str(ports.router.node().as_str()) {
        answer.headers_mut().insert(NODE_HEADER, node);
    }
    answer
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    find_token(headers, name, token).is_some()
}

/// A word of a header's list, as it is written there.
fn find_token<'a>(headers: &'a HeaderMap, name: header::HeaderName, token: &str) -> Option<&'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .find(|word| word.eq_ignore_ascii_case(token))
}

/// Whether a request can be read in one way only. It says whom it is for, once: RFC 9112 wants others refused, lest two
/// programs on its way see two different hosts. Its body has no coding but `chunked`, once, which is all that hyper
/// undoes: it looks at the last one alone. A length beside that is gone by now; hyper goes by the chunks, and closes.
///
/// # Errors
/// `invalid_frame`.
pub fn check_head(request: &Request<Incoming>) -> Result<(), Refusal> {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next(), request.version() >= Version::HTTP_11) {
        (Some(_), None, _) | (None, None, false) => {}
        _ => return Err(Refusal::new(Code::InvalidFrame, "a request needs one Host header")),
    }
    if headers.get_all(header::ORIGIN).iter().nth(1).is_some() {
        return Err(Refusal::new(Code::InvalidFrame, "a request has one Origin header at most"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::new(Code::InvalidFrame, "of transfer codings only chunked is taken, once")),
    }
}

/// A refusal behind which nothing else is read: where the next request begins is anybody's guess.
pub fn refuse_and_close(refusal: &Refusal) -> Answer {
    let mut answer = refuse(refusal);
    end_with(&mut answer);
    answer
}

/// Lets the connection end with this answer, once it is out; but for one that becomes a WebSocket.
pub fn end_with(answer: &mut Answer) {
    let ends = has_token(answer.headers(), header::CONNECTION, "close");
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS && !ends {
        answer.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Whether a request asks for a WebSocket.
pub fn wants_websocket(request: &Request<Incoming>) -> bool {
    has_token(request.headers(), header::UPGRADE, "websocket")
}

/// Refuses what no WebSocket may follow on: an origin that is not on the list, a draining node.
///
/// # Errors
/// `origin_not_allowed` or `draining`.
pub fn admit(request: &Request<Incoming>, ports: &Ports) -> Result<(), Refusal> {
    if ports.is_draining() {
        return Err(Refusal::draining());
    }
    cors::admit(request, &ports.origins)
}

/// The 101 answer to a WebSocket handshake, as RFC 6455 has it. Extensions are declined by silence; of the offered
/// subprotocols `switchboard` is taken.
///
/// # Errors
/// `upgrade_required` for another version, `invalid_frame` for a broken handshake.
pub fn accept_websocket(request: &Request<Incoming>) -> Result<Answer, Refusal> {
    let headers = request.headers();
    let single = |name: &str| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    // Before HTTP/1.1 nothing could be upgraded, and what a body would be is anybody's guess.
    let body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    if request.version() != Version::HTTP_11 || body {
        return Err(Refusal::new(
            Code::InvalidFrame,
            "a WebSocket handshake is a GET of HTTP/1.1 without a body",
        ));
    }
    if single("sec-websocket-version").is_none_or(|version| version.as_bytes() != b"13") {
        return Err(Refusal::new(Code::UpgradeRequired, "Sec-WebSocket-Version must be 13"));
    }
    let key = single("sec-websocket-key").map(HeaderValue::as_bytes);
    // 16 bytes in base64: 22 characters and two of padding.
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    let key = key.filter(|key| key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(base64));
    let (Some(key), true) = (key, has_token(headers, header::CONNECTION, "upgrade")) else {
        return Err(Refusal::new(
            Code::InvalidFrame,
            "a WebSocket handshake needs Connection: Upgrade and one Sec-WebSocket-Key of 16 bytes in base64",
        ));
    };
    let mut answer = empty(StatusCode::SWITCHING_PROTOCOLS);
    let accept = HeaderValue::from_str(&derive_accept_key(key))
        .map_err(|_| Refusal::new(Code::InvalidFrame, "Sec-WebSocket-Key cannot be used"))?;
    let reply = answer.headers_mut();
    reply.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    reply.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    reply.insert("sec-websocket-accept", accept);
    // As the client wrote it: many compare it letter by letter with what they offered.
    let protocol = find_token(headers, header::SEC_WEBSOCKET_PROTOCOL, "switchboard");
    if let Some(protocol) = protocol.and_then(|protocol| HeaderValue::from_str(protocol).ok()) {
        reply.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(answer)
}

/// Waits until the connection is ours: the plain TCP stream, and what was read behind the handshake.
pub fn upgraded(
    request: &mut Request<Incoming>,
) -> impl Future<Output = Option<(TcpStream, Vec<u8>)>> + use<> {
    let upgraded = hyper::upgrade::on(request);
    async {
        let parts = upgraded.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
        Some((parts.io.into_inner(), parts.read_buf.to_vec()))
    }
}

/// The value of a query parameter; none where there are several, as nothing may depend on which of them counts.
pub fn query_value(query: &str, name: &str) -> Option<String> {
    let mut values = query_values(query, name);
    values.pop().filter(|_| values.is_empty())
}

/// All values of a query parameter.
pub fn query_values(query: &str, name: &str) -> Vec<String> {
    let values = form_urlencoded::parse(query.as_bytes()).filter(|(known, _)| known == name);
    values.map(|(_, value)| value.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_names_an_upgrade_may_end_the_connection_as_well() {
        let mut answer = refuse(&Refusal::new(Code::UpgradeRequired, "no upgrade"));
        let said = |answer: &Answer| {
            let values = answer.headers().get_all(header::CONNECTION).iter();
            values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(said(&answer), "Upgrade");
        for _ in 0..2 {
            end_with(&mut answer);
            assert_eq!(said(&answer), "Upgrade, close");
        }
        let mut answer = empty(StatusCode::SWITCHING_PROTOCOLS);
        end_with(&mut answer);
        assert_eq!(said(&answer), "");
    }
}
