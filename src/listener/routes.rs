//! What the worker port serves over HTTP: every path with its methods, in one table. `openapi.json` describes the same.

use hyper::Method;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// The process is alive.
    Healthz,
    /// It should get clients.
    Readyz,
    /// Publish what the body carries.
    Publish,
    /// A user's sessions.
    Sessions,
    /// Which of several users are online.
    Online,
    /// Close a user's sessions.
    SignOut,
    /// Close one of them.
    SignOutOne,
    /// The live nodes.
    Nodes,
    /// Nodes, streams and what waits in them.
    Status,
    /// Prometheus text.
    Metrics,
    /// A description of all this.
    OpenApi,
    /// Follow a user.
    TraceBegin,
    /// The steps of a user who is followed.
    Trace,
    /// Follow them no longer.
    TraceEnd,
}

/// The table. A part in braces stands for any one part.
pub const ROUTES: &[(Method, &str, Verb)] = &[
    (Method::GET, "/healthz", Verb::Healthz),
    (Method::GET, "/readyz", Verb::Readyz),
    (Method::POST, "/publish", Verb::Publish),
    (Method::POST, "/users/online", Verb::Online),
    (Method::GET, "/users/{id}", Verb::Sessions),
    (Method::DELETE, "/users/{id}/sessions", Verb::SignOut),
    (Method::DELETE, "/users/{id}/sessions/{clientId}", Verb::SignOutOne),
    (Method::GET, "/users/{id}/trace", Verb::Trace),
    (Method::PUT, "/users/{id}/trace", Verb::TraceBegin),
    (Method::DELETE, "/users/{id}/trace", Verb::TraceEnd),
    (Method::GET, "/nodes", Verb::Nodes),
    (Method::GET, "/status", Verb::Status),
    (Method::GET, "/metrics", Verb::Metrics),
    (Method::GET, "/openapi.json", Verb::OpenApi),
];

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// This, with the parts that stand for the braces, as they were sent.
    Verb(Verb, Vec<&'a str>),
    /// Something, but not with this method: those that it has, with commas.
    OtherMethods(String),
    /// Nothing.
    Nothing,
}

/// All of it in words.
pub fn listed() -> String {
    let routes: Vec<_> = ROUTES.iter().map(|(method, pattern, _)| format!("{method} {pattern}")).collect();
    routes.join(", ")
}

/// Looks a request up. HEAD is GET whose answer goes out without its body.
pub fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut others = Vec::new();
    for (its_method, pattern, verb) in ROUTES {
        let Some(parts) = parts(pattern, path) else { continue };
        if its_method == method {
            return Found::Verb(*verb, parts);
        }
        others.push(if its_method == Method::GET { "GET, HEAD" } else { its_method.as_str() });
    }
    match others.is_empty() {
        true => Found::Nothing,
        false => Found::OtherMethods(others.join(", ")),
    }
}

fn parts<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let mut parts = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(parts),
            (Some(wanted), Some(part)) if wanted.starts_with('{') => parts.push(part),
            (Some(wanted), Some(part)) if wanted == part => {}
            _ => return None,
        }
    }
}

/// What `GET /openapi.json` answers with.
pub const OPENAPI: &str = include_str!("../openapi.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::protocol::code::Code;

    #[test]
    fn the_description_names_what_is_served_and_every_code() {
        let api: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in api["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            described.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
        }
        let mut served: BTreeSet<_> =
            ROUTES.iter().map(|(method, pattern, _)| format!("{method} {pattern}")).collect();
        served.insert("GET /ws".to_owned()); // the WebSocket
        assert_eq!(described, served);
        let codes: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let told = api["components"]["schemas"]["Code"]["enum"].as_array().unwrap();
        assert_eq!(told.iter().filter_map(Value::as_str).collect::<BTreeSet<_>>(), codes);
        assert_eq!(api["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn a_request_finds_its_verb_or_the_methods_there_are() {
        assert_eq!(find(&Method::GET, "/users/a%2Fb"), Found::Verb(Verb::Sessions, vec!["a%2Fb"]));
        assert_eq!(find(&Method::POST, "/users/online"), Found::Verb(Verb::Online, vec![]));
        assert_eq!(find(&Method::GET, "/users/online"), Found::Verb(Verb::Sessions, vec!["online"]));
        assert_eq!(find(&Method::HEAD, "/nodes"), Found::Verb(Verb::Nodes, vec![]));
        assert_eq!(find(&Method::HEAD, "/publish"), Found::OtherMethods("POST".into()));
        assert_eq!(find(&Method::PATCH, "/users/online"), Found::OtherMethods("POST, GET, HEAD".into()));
        assert_eq!(
            find(&Method::DELETE, "/users/7/sessions/c"),
            Found::Verb(Verb::SignOutOne, vec!["7", "c"])
        );
        assert_eq!(find(&Method::GET, "/publish"), Found::OtherMethods("POST".into()));
        for nothing in ["/", "/users", "/users/7/", "/users/7/sessions/c/d", "/nodes/", "/favicon.ico"] {
            assert_eq!(find(&Method::GET, nothing), Found::Nothing, "{nothing}");
        }
    }
}
