//! What a request brings along to show who it is from.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderValue};

/// Subprotocols that begin like this carry a token.
const TOKEN_PROTOCOL: &str = "token.";

/// What a request brings along. It cannot be printed: nothing of it belongs into a log.
pub struct Credentials {
    token: Option<String>,
    pub(super) cookie: Option<HeaderValue>,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) origin: Option<HeaderValue>,
    pub(super) ip: IpAddr,
}

impl Credentials {
    /// Takes them out of the headers of a request from `ip`.
    pub fn of(headers: &HeaderMap, ip: IpAddr) -> Self {
        Self {
            token: bearer(headers).or_else(|| subprotocol(headers)),
            cookie: cookie(headers),
            authorization: headers.get(header::AUTHORIZATION).cloned(),
            origin: headers.get(header::ORIGIN).cloned(),
            ip,
        }
    }

    /// The token of the `Authorization` header, or else of the subprotocols.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }
}

/// The token of an `Authorization: Bearer` header.
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// Some proxies split the header; many servers look at the first one only.
fn cookie(headers: &HeaderMap) -> Option<HeaderValue> {
    let parts: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&parts.join(&b"; "[..])).ok().filter(|_| !parts.is_empty())
}

fn subprotocol(headers: &HeaderMap) -> Option<String> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|list| list.to_str().ok());
    let mut tokens =
        lists.flat_map(|list| list.split(',')).filter_map(|word| word.trim().strip_prefix(TOKEN_PROTOCOL));
    tokens.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(pairs: &[(&'static str, &'static str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        Credentials::of(&headers, [127, 0, 0, 1].into()).token
    }

    #[test]
    fn tokens_are_found_where_they_may_be() {
        let found = |pairs: &[(&'static str, &'static str)]| token(pairs).unwrap();
        assert_eq!(found(&[("authorization", "Bearer a.b.c")]), "a.b.c");
        assert_eq!(found(&[("authorization", "bearer  a.b.c")]), "a.b.c");
        assert_eq!(found(&[("sec-websocket-protocol", "switchboard, token.a.b.c")]), "a.b.c");
        assert_eq!(
            found(&[("sec-websocket-protocol", "switchboard"), ("sec-websocket-protocol", "token.x")]),
            "x"
        );
        assert_eq!(found(&[("authorization", "Bearer h"), ("sec-websocket-protocol", "token.p")]), "h");
        for none in
            [("authorization", "Basic YTpi"), ("authorization", "Bearer"), ("sec-websocket-protocol", "v1")]
        {
            assert_eq!(token(&[none]), None, "{none:?}");
        }
    }
}
