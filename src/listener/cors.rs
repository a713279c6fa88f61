//! Which web pages may read an answer: those that may connect, by the same list.

use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response};

use super::http::{self, Answer};
use crate::auth::origin::Origins;
use crate::protocol::code::{Code, Refusal};

/// How long a browser may remember the answer to a preflight, seconds.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");
/// Headers that a page may read, besides those that need no leave: how long to stay away.
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after");
/// Headers that a page may set, besides those that need no leave.
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, last-event-id");

/// The `Origin` of a request. Only browsers send one, and they always do where pages of another origin ask.
pub fn origin_of<B>(request: &Request<B>) -> Option<HeaderValue> {
    request.headers().get(header::ORIGIN).cloned()
}

/// Whether pages of an origin may connect. Who sends none is no browser, and may.
///
/// # Errors
/// `origin_not_allowed`.
pub fn check(origin: Option<&HeaderValue>, origins: &Origins) -> Result<(), Refusal> {
    let listed = |origin: &HeaderValue| origin.to_str().is_ok_and(|origin| origins.allow(origin));
    if origin.is_none_or(listed) {
        return Ok(());
    }
    Err(not_allowed())
}

/// Whether a page may connect by this request. One without an `Origin` may still be a page's, for an image, say; where its
/// browser tells, that counts.
///
/// # Errors
/// `origin_not_allowed`.
pub fn admit<B>(request: &Request<B>, origins: &Origins) -> Result<(), Refusal> {
    let origin = origin_of(request);
    check(origin.as_ref(), origins)?;
    let from_elsewhere = |site: &HeaderValue| !matches!(site.as_bytes(), b"same-origin" | b"none");
    if origin.is_none()
        && !origins.is_any()
        && request.headers().get("sec-fetch-site").is_some_and(from_elsewhere)
    {
        return Err(not_allowed());
    }
    Ok(())
}

fn not_allowed() -> Refusal {
    Refusal::new(Code::OriginNotAllowed, "this origin is not on the list (--client-origin)")
}

/// The answer to a browser that asks, before the request itself, whether a page may send it; none where this is no
/// such question. `methods` are those of the port.
pub fn preflight<B>(request: &Request<B>, origins: &Origins, methods: &'static str) -> Option<Answer> {
    let asks = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let origin = origin_of(request).filter(|_| asks)?;
    let mut answer = match check(Some(&origin), origins) {
        Err(refusal) => http::refuse(&refusal),
        Ok(()) => {
            let mut answer = http::no_content();
            let headers = answer.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED);
            answer
        }
    };
    share(&mut answer, Some(&origin), origins);
    Some(answer)
}

/// Lets pages of an origin read an answer, where the list does. Cookies come along for origins that are listed by
/// name; under `*` they do not: that would lend every page the user's session.
pub fn share<B>(answer: &mut Response<B>, origin: Option<&HeaderValue>, origins: &Origins) {
    let headers = answer.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin.filter(|origin| check(Some(origin), origins).is_ok()) else { return };
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    if origins.is_any() {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(list: &str, origin: &str) -> Vec<(String, String)> {
        let mut answer = Response::new(());
        share(&mut answer, Some(&HeaderValue::from_str(origin).unwrap()), &Origins::parse(list).unwrap());
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    #[test]
    fn an_origin_reads_what_it_may_connect_to_and_brings_cookies_only_by_name() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let vary = pair("vary", "Origin");
        let exposed = pair("access-control-expose-headers", "retry-after");
        assert_eq!(shared("https://a.example", "https://b.example"), std::slice::from_ref(&vary));
        assert_eq!(
            shared("*", "https://b.example"),
            [vary.clone(), exposed.clone(), pair("access-control-allow-origin", "*")]
        );
        assert_eq!(
            shared("https://*.example", "https://a.example"),
            [
                vary,
                exposed,
                pair("access-control-allow-origin", "https://a.example"),
                pair("access-control-allow-credentials", "true"),
            ]
        );
    }
}
