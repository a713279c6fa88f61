//! Settings of Redis: where it is, and how it is used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::read::{Mistake, Reader};
use crate::engine::redis::connection::{Address, AddressError, FORMS, MOST_DB};
use crate::engine::redis::is_taken;
use crate::tls::{check_authorities, check_certificate, check_key, check_pair};

/// Redis, checked.
#[derive(Debug, Clone)]
pub struct Redis {
    /// How it is reached.
    pub address: Address,
    /// Most pooled connections, to each master.
    pub pool_size: u32,
    /// Put before every key.
    pub key_prefix: String,
    /// Replicas that must have an event before it counts as published.
    pub wait_replicas: u32,
    /// How long they may take.
    pub wait_timeout: Duration,
    /// The ingress streams.
    pub ingress: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Local,
    Redis,
    Auto,
}

/// The outer option is none where anything is off, the inner in local mode.
pub fn read(r: &mut Reader) -> Option<Option<Redis>> {
    let mode = r.choice("mode", &[("auto", Mode::Auto), ("local", Mode::Local), ("redis", Mode::Redis)]);
    let given = r.given("redis-url").is_some();
    let address = address(r, given || mode == Some(Mode::Redis));
    let pool_size = r.number("redis-pool-size", 1, 1000);
    let key_prefix = key_prefix(r);
    let wait_replicas = r.number("wait-replicas", 0, 100);
    let wait_timeout = r.time("wait-timeout", Duration::from_millis(1));
    let ingress = r.value(
        "ingress",
        "comma-separated names of streams, each 1 to 64 printable ASCII characters and none of the node's own keys",
        streams,
    );
    let redis = Redis {
        address: address?,
        pool_size: pool_size?,
        key_prefix: key_prefix?,
        wait_replicas: wait_replicas?,
        wait_timeout: wait_timeout?,
        ingress: ingress?,
    };
    match mode? {
        Mode::Local => Some(None),
        Mode::Auto if !given => Some(None),
        Mode::Auto | Mode::Redis => Some(Some(redis)),
    }
}

/// An address; the default one where none is wanted.
fn address(r: &mut Reader, wanted: bool) -> Option<Address> {
    let db = r.or("redis-db", None, |r, flag| r.number(flag, 0, MOST_DB).map(Some));
    let mut pem = |flag, allowed, check: fn(&Path) -> Result<(), String>| {
        r.or(flag, None, |r, flag| {
            let path = PathBuf::from(r.given(flag)?);
            let checked = check(&path).map_err(|error| r.mistake(flag, &format!("{allowed} ({error})")));
            checked.is_ok().then_some(Some(path))
        })
    };
    let ca = pem("redis-ca", "a PEM file with certificates", check_authorities);
    let cert = pem("redis-cert", "a PEM file with a certificate", check_certificate);
    let key = pem("redis-key", "a PEM file with a private key", check_key);
    let (ca, cert, key) = (ca?, cert?, key?);
    if cert.is_some() != key.is_some() {
        r.mistake(
            if cert.is_some() { "redis-key" } else { "redis-cert" },
            "given together with its other half",
        );
    }
    if let (Some(cert), Some(key)) = (&cert, &key)
        && let Err(error) = check_pair(cert, key)
    {
        r.mistake("redis-key", &format!("the key of --redis-cert {cert:?} ({error})"));
    }
    let url = r.value("redis-url", FORMS, |text| is_known(text).then(|| text.to_owned()))?;
    // A mistake with the database is noted, and hides none with the URL.
    let url_file = r.file("redis-url").map(Path::to_owned);
    let address = Address { url, url_file, db: db.flatten(), ca, cert, key };
    if wanted && let Err(error) = address.topology() {
        match error {
            AddressError::Form(form) => r.mistake("redis-url", form),
            AddressError::Database => {
                r.mistake("redis-db", "0 with redis+cluster://: a Cluster has no other")
            }
            AddressError::Url(error) => r.mistake("redis-url", &format!("{FORMS} ({error})")),
            error @ (AddressError::Pem { .. } | AddressError::Authorities(_)) => {
                r.mistakes.push(Mistake { told: error.to_string(), flags: vec!["redis-url"] })
            }
        }
        return None;
    }
    db.map(|_| address)
}

/// Whether a URL has one of the schemes. What is wrong with what stands behind it, the address itself tells.
fn is_known(url: &str) -> bool {
    let kinds = ["redis", "rediss", "unix", "redis+unix"];
    let many = ["redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];
    url.split_once("://").is_some_and(|(scheme, _)| kinds.contains(&scheme) || many.contains(&scheme))
}

fn key_prefix(r: &mut Reader) -> Option<String> {
    let allowed =
        "at most 64 printable ASCII characters, except space, { and }, and without user: or node: in it";
    r.optional("key-prefix", allowed, |text| {
        let fits =
            text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'{' | b'}'));
        (fits && !spells_an_id(text)).then(|| text.to_owned())
    })
    .map(Option::unwrap_or_default)
}

/// Keys of users and nodes end in an id: where another deployment's prefix is what stands before that here, or it has
/// none, an id there could spell the rest, and a key of this one.
fn spells_an_id(text: &str) -> bool {
    text.contains("user:") || text.contains("node:")
}

fn streams(text: &str) -> Option<Vec<String>> {
    let fits =
        |name: &str| (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    let twice = names.iter().enumerate().any(|(at, name)| names[..at].contains(name));
    (!twice && names.iter().all(|name| fits(name) && !is_taken(name) && !spells_an_id(name))).then_some(names)
}
