//! Each parser, with what must hold of whatever it makes of any bytes. The targets under `fuzz/` run the same.

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use switchboard::auth::origin::Origins;
use switchboard::engine::redis::doors;
use switchboard::engine::{Hint, Node};
use switchboard::id::{ClientId, EventId, EventName, IdempotencyKey, Logged, NodeId, UserId};
use switchboard::protocol::client::{self, Incoming};
use switchboard::protocol::hello::Hello;
use switchboard::protocol::json::MAX_ITEMS;
use switchboard::protocol::publish::{Publish, Receipt, Request, Target, answer};
use switchboard::settings::Settings;
use switchboard::settings::read::Reader;
use switchboard::settings::table::SETTINGS;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// A parser's name, as of its target and its seeds, and what runs it.
pub type Entry = (&'static str, fn(&[u8]));

/// All of them.
#[allow(dead_code)] // each fuzz target runs one
pub const ENTRIES: &[Entry] = &[
    ("client_frames", client_frames),
    ("hello", hello),
    ("worker_frames", worker_frames),
    ("ids", ids),
    ("settings", settings),
    ("ingress", ingress),
    ("inbox", inbox),
    ("replies", replies),
];

/// Largest event, bytes: small, so that the bound is met.
const MAX_EVENT: usize = 256;

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

fn looks_like_an_object(text: &str) -> bool {
    text.trim().starts_with('{') && text.trim().ends_with('}')
}

fn holds_no(text: &str, forbidden: &[char]) {
    assert!(!text.contains(forbidden) && text.is_ascii() && !text.is_empty(), "{text:?}");
}

/// What a client sends once it is connected.
pub fn client_frames(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert!(looks_like_an_object(text) || Incoming::parse(text).is_err());
    match Incoming::parse(text) {
        Ok(Incoming::Message { event, data }) => {
            assert!(is_json(data) && text.contains(data) || data == "null", "{data:?}");
            let frame = client::event(None, event.as_str(), data);
            let frame: Value = serde_json::from_str(frame.as_str()).unwrap_or_default();
            // What JSON numbers beyond a double make unreadable was sent so, and goes out so.
            assert!(frame["type"] == "event" || serde_json::from_str::<Value>(data).is_err(), "{data:?}");
        }
        Ok(Incoming::Ack(id)) => assert_eq!(id.to_string().parse(), Ok(id)),
        Ok(_) => {}
        Err(refusal) => assert!(is_json(client::error(&refusal).as_str())),
    }
}

/// Who a client says it is: the same bytes as a query and as a frame.
pub fn hello(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let hellos = [Hello::from_query(text).ok(), Hello::from_frame(text).ok()];
    assert!(looks_like_an_object(text) || hellos[1].is_none());
    for hello in hellos.iter().flatten() {
        if let Ok(Some(user)) = hello.user() {
            holds_no(user.as_str(), &[' ', ',', '{', '}']);
        }
        if let Ok(client) = hello.client() {
            holds_no(client.as_str(), &[' ', ',', '{', '}', '@', ':', '/']);
        }
        if let Ok(Some(since)) = hello.since() {
            assert_eq!(since.to_string().parse(), Ok(since));
        }
    }
}

fn check_publish(publish: &Publish) {
    assert!(is_json(publish.data.as_str()), "{:?}", publish.data);
    assert!(publish.data.as_bytes().len() + publish.event.as_str().len() <= MAX_EVENT);
    holds_no(publish.event.as_str(), &[' ', ',', '"', '\\', '{', '}']);
    match &publish.target {
        Target::User(user) => holds_no(user.as_str(), &[' ', ',', '{', '}']),
        Target::Users(users) => {
            assert!(!users.is_empty() && users.len() <= MAX_ITEMS);
            users.iter().for_each(|user| holds_no(user.as_str(), &[' ', ',', '{', '}']));
            assert!(publish.client.is_none() && publish.except.is_none());
        }
        Target::Broadcast => {
            assert!(publish.transient && publish.client.is_none() && publish.except.is_none());
        }
    }
}

/// What a worker sends, by socket or HTTP.
pub fn worker_frames(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let request = Request::parse(&Utf8Bytes::from(text), MAX_EVENT);
    assert!(looks_like_an_object(text) || request.publish.is_err() && request.reference.is_none());
    if let Ok(publish) = &request.publish {
        check_publish(publish);
    }
    let outcome =
        request.publish.map(|_| Receipt { ids: vec![EventId::ZERO], nodes: Vec::new(), many: false });
    let answer: Value =
        serde_json::from_str(answer(request.reference.as_deref(), &outcome).as_str()).unwrap();
    assert_eq!(answer["ref"].as_str(), request.reference.as_deref());
}

/// Every kind of id: what is accepted is written as it was read, and stays within its alphabet.
pub fn ids(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(user) = text.parse::<UserId>() {
        holds_no(user.as_str(), &[' ', ',', '{', '}']);
        assert!(user.as_str() == text && text.len() <= 128);
    }
    if let Ok(client) = text.parse::<ClientId>() {
        holds_no(client.as_str(), &[' ', ',', '{', '}', '@', ':', '/', '=', '!']);
        assert!(client.as_str() == text && text.len() <= 64 && text.parse::<NodeId>().is_ok());
        assert!(text.parse::<EventName>().is_ok() && text.parse::<IdempotencyKey>().is_ok());
    }
    if let Ok(id) = text.parse::<EventId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id >= EventId::ZERO && id.ms < 1 << 53 && id.seq < 1 << 53);
    }
}

/// A flag's name, an end of line, its value; as many as there are.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // A setting that names a file would read what happens to be there, or wait for it.
    let lines: Vec<&str> = text.split('\n').collect();
    let given = |flag: &str| {
        let file = ["redis-ca", "redis-cert", "redis-key", "jwt-public-key", "jwt-jwks"].contains(&flag);
        let at = lines.chunks(2).find(|pair| pair[0] == flag).filter(|_| !file)?;
        at.get(1).map(|&value| value.to_owned())
    };
    match Settings::parse(Reader::new(given, |_| None, &Default::default())) {
        Ok(settings) => {
            holds_no(settings.node_id.as_str(), &[' ', ',', '{', '}', '@']);
            let prefix = settings.redis.map(|redis| redis.key_prefix).unwrap_or_default();
            assert!(!prefix.contains(['{', '}', ' ']) && prefix.len() <= 64);
            assert!(settings.max_connections > 0 && settings.send_queue > 0 && settings.log_length > 0);
            assert!(!settings.node_ttl.is_zero() && !settings.session_ttl.is_zero());
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            for setting in SETTINGS.iter().filter(|setting| setting.secret && setting.flag != "redis-url") {
                let name = format!("--{} ({}) ", setting.flag, setting.env);
                for shown in mistakes.iter().filter_map(|mistake| mistake.told.strip_prefix(&name)) {
                    assert!(shown.starts_with("(not shown): ") || shown.starts_with("not set: "), "{shown}");
                }
            }
        }
    }
    for origins in lines.iter().filter_map(|line| Origins::parse(line)) {
        assert!(origins.is_any() || !origins.allow("null") && !origins.allow(""));
        assert!(origins.is_any() || !origins.allow("https://evil.example/.x"));
    }
}

/// Fields and values, each up to the next byte 0.
pub fn ingress(bytes: &[u8]) {
    let parts: Vec<Bytes> = bytes.split(|byte| *byte == 0).map(Bytes::copy_from_slice).collect();
    let pairs = parts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
    match doors::ingress(&pairs.collect::<Vec<_>>(), MAX_EVENT) {
        Ok(publish) => check_publish(&publish),
        Err(refusal) => assert!(!refusal.message.is_empty()),
    }
}

struct Nobody;

impl Node for Nobody {
    fn hint(&self, hint: Hint<'_>) {
        for word in [Some(hint.user), Some(hint.event), hint.client, hint.except].into_iter().flatten() {
            assert!(!word.contains(' '));
        }
        assert!(hint.logged.is_none_or(|Logged { id, prev }| id >= EventId::ZERO && prev >= EventId::ZERO));
    }
    fn look(&self, user: &str, newest: Option<EventId>) {
        assert!(!user.contains(' ') && newest.is_none_or(|newest| newest >= EventId::ZERO));
    }
    fn broadcast(&self, event: &str, _: &str) {
        assert!(!event.contains(' '));
    }
    fn crowded(&self, _: Option<&UserId>, _: usize) -> usize {
        0
    }
    fn replaced(&self, user: &str, client: &str, _: u64) {
        assert!(!user.contains(' ') && !client.contains(' '));
    }
    fn sign_out(&self, user: &str, client: Option<&str>) {
        assert!(!user.contains(' ') && client.is_none_or(|client| !client.contains(' ')));
    }
    fn inbox_lost(&self) {
        panic!("no entry says that");
    }
    fn doubted(&self, _: &dyn Fn(&UserId) -> bool) {
        panic!("no entry says that");
    }
    fn listed(&self, _: &UserId, _: Vec<ClientId>) -> bool {
        panic!("no entry says that");
    }
}

/// An inbox entry's hints: lengths, heads and data.
pub fn inbox(bytes: &[u8]) {
    doors::inbox(&Nobody, bytes);
}

/// What Redis answers, in its own words (RESP).
pub fn replies(bytes: &[u8]) {
    if let Ok(value) = redis::parse_redis_value(bytes) {
        doors::answer(&value);
    }
}
