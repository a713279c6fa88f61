//! Who may connect: the settings that lock a node, and what opens it.

use std::net::IpAddr;
use std::path::PathBuf;

use hyper::Uri;
use ipnet::{IpNet, Ipv4Net};

use super::read::Reader;
use crate::auth::jwks::Source;
use crate::auth::jwt::{self, Keys};
use crate::auth::key::{Key, set_of};
use crate::auth::origin::Origins;
use crate::auth::{self, remote};
use crate::tls;

/// What locks a node.
pub(super) struct Access {
    pub(super) auth: auth::Config,
    pub(super) origins: Origins,
    pub(super) worker_origins: Origins,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) worker_tokens: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    None,
    Jwt,
    Api,
}

/// None where a value is off; by then each mistake is noted, because nothing here returns early.
pub(super) fn read(r: &mut Reader, development: bool) -> Option<Access> {
    for (flag, opening) in [
        ("auth", "--auth none"),
        ("worker-token", "--worker-token none"),
        ("client-origin", "--client-origin '*'"),
    ] {
        if !development && r.given(flag).is_none() {
            r.mistake(flag, &format!("set in production; {opening} opens it to everyone"));
        }
    }
    let auth = auth(r);
    let origins = r.or("client-origin", Origins::any(), |r, flag| {
        r.value(flag, "*, or comma-separated origins like https://app.example.com", Origins::parse)
    });
    // A page that a developer happens to visit must not publish.
    let worker_origins = match r.given("client-origin") {
        Some(_) => origins.clone(),
        None => {
            let of_url = |url| Some(r.given(url)?.parse::<Uri>().ok()?.host()?.to_owned());
            let hosts = [of_url("client-url"), of_url("worker-url"), r.given("bind").map(str::to_owned)];
            Some(Origins::near(hosts.into_iter().flatten()))
        }
    };
    let worker_tokens = match r.given("worker-token") {
        None | Some("none") => Some(Vec::new()),
        Some(_) => {
            r.value("worker-token", "none, or tokens of printable characters, comma-separated", tokens)
        }
    };
    let trusted_proxies = r
        .optional("trusted-proxies", "comma-separated networks like 10.0.0.0/8", networks)
        .map(Option::unwrap_or_default);
    Some(Access {
        auth: auth?,
        origins: origins?,
        worker_origins: worker_origins?,
        trusted_proxies: trusted_proxies?,
        worker_tokens: worker_tokens?,
    })
}

fn auth(r: &mut Reader) -> Option<auth::Config> {
    let mode = r.or("auth", Mode::None, |r, flag| {
        r.choice(flag, &[("none", Mode::None), ("jwt", Mode::Jwt), ("api", Mode::Api)])
    });
    // What is given is checked whatever the mode: it may be switched on any time.
    if r.given("jwt-secret") == Some("") {
        r.mistake("jwt-secret", "not empty: whoever knows it makes tokens for any user");
    }
    if r.given("jwt-secret").is_some_and(|secret| secret.contains("-----BEGIN ")) {
        r.mistake("jwt-secret", "a secret: a public key, which others know, belongs into JWT_PUBLIC_KEY");
    }
    let secret = r.given("jwt-secret").map(Key::of_secret);
    let public_key = r.given("jwt-public-key").map(str::to_owned).map(|given| public_key(r, &given));
    let jwks = r.given("jwt-jwks").map(str::to_owned).map(|given| jwks(r, &given));
    let audiences = names(r, "jwt-audience");
    let issuers = names(r, "jwt-issuer");
    let api = api(r);
    let keys = [
        secret.map(|key| Some(Keys::One(key))),
        public_key.map(|key| key.map(Keys::One)),
        jwks.map(|source| source.map(Keys::Set)),
    ];
    let mut given = keys.into_iter().flatten();
    let (first, second) = (given.next(), given.next());
    match mode? {
        Mode::None => Some(auth::Config::None),
        Mode::Api => {
            if r.given("api-server-url").is_none() {
                r.mistake("api-server-url", "set where --auth is api: it is who knows clients");
            }
            let url = api??;
            look_for_trust(r, "api-server-url", &url)?;
            Some(auth::Config::Api(url))
        }
        Mode::Jwt => {
            let (Some(keys), None) = (first, second) else {
                r.mistake(
                    "auth",
                    "given with one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS where it is jwt, and with no more than one",
                );
                return None;
            };
            let keys = keys?;
            if let Keys::Set(Source::Url(url)) = &keys {
                look_for_trust(r, "jwt-jwks", url)?;
            }
            Some(auth::Config::Jwt(jwt::Config { keys, audiences: audiences?, issuers: issuers? }))
        }
    }
}

/// None where a server would be asked by TLS, and nobody is trusted.
fn look_for_trust(r: &mut Reader, flag: &str, url: &Uri) -> Option<()> {
    if url.scheme_str() == Some("https")
        && let Err(error) = tls::trusting_system()
    {
        r.mistake(flag, &format!("on a server that can be trusted ({error})"));
        return None;
    }
    Some(())
}

/// Where the API server is asked; the inner option is none where there is none.
fn api(r: &mut Reader) -> Option<Option<Uri>> {
    let path = r.value("auth-path", "a path that begins with /, like /socket/auth", |path| {
        path.starts_with('/').then(|| path.to_owned())
    });
    let allowed =
        "a URL like https://api.example.com, with a port from 1 to 65535 if any, without credentials";
    let base = r.optional("api-server-url", allowed, |base| {
        let base = base.trim_end_matches('/');
        (remote::url(base).is_some() && !base.contains(['?', '#'])).then(|| base.to_owned())
    });
    let (path, Some(base)) = (path?, base?) else { return Some(None) };
    let url = remote::url(&format!("{base}{path}"));
    if url.is_none() {
        r.mistake("auth-path", "a path that begins with /, like /socket/auth");
    }
    url.map(Some)
}

/// PEM text, with real line ends or with `\n`, or the path of a file that holds it.
fn public_key(r: &mut Reader, given: &str) -> Option<Key> {
    let text = if given.contains("-----BEGIN") {
        Ok(given.replace("\\n", "\n"))
    } else {
        std::fs::read_to_string(given).map_err(|error| error.to_string())
    };
    match text.and_then(|pem| Key::of_pem(&pem).map_err(str::to_owned)) {
        Ok(key) => Some(key),
        Err(error) => {
            r.mistake("jwt-public-key", &format!("a public key in PEM, or its file ({error})"));
            None
        }
    }
}

fn jwks(r: &mut Reader, given: &str) -> Option<Source> {
    if given.contains("://") {
        let allowed =
            "a file, or an http:// or https:// URL with a port from 1 to 65535 if any, without credentials";
        return r.value("jwt-jwks", allowed, remote::url).map(Source::Url);
    }
    let text = std::fs::read(given).map_err(|error| error.to_string());
    match text.and_then(|text| set_of(&text).map_err(str::to_owned)) {
        Ok(set) if set.keys.is_empty() => {
            let allowed = "a JWKS with a key for signatures by RS256 (of 2048 to 8192 bits), ES256 or EdDSA";
            r.mistake("jwt-jwks", allowed);
            None
        }
        Ok(_) => Some(Source::File(PathBuf::from(given))),
        Err(error) => {
            r.mistake("jwt-jwks", &format!("a JWKS file, or its URL ({error})"));
            None
        }
    }
}

/// Whom a token may be for, or from: none where that is left out. An empty one would let in any.
fn names(r: &mut Reader, flag: &str) -> Option<Vec<String>> {
    r.optional(flag, "names, comma-separated, none of them empty", |text| {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        names.iter().all(|name| !name.is_empty()).then_some(names)
    })
    .map(Option::unwrap_or_default)
}

fn tokens(text: &str) -> Option<Vec<String>> {
    let tokens: Vec<String> = text.split(',').map(|token| token.trim().to_owned()).collect();
    // `none` alone stands for no lock; in a list it was hardly meant to open one.
    let fits = |token: &String| {
        !token.is_empty() && token != "none" && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    tokens.iter().all(fits).then_some(tokens)
}

fn networks(text: &str) -> Option<Vec<IpNet>> {
    let network = |text: &str| {
        let text = text.trim();
        let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
        // Peers are known by their IPv4 addresses where they have one; so are networks.
        let mapped = match network.addr().to_canonical() {
            IpAddr::V4(ip) => network.prefix_len().checked_sub(96).and_then(|len| Ipv4Net::new(ip, len).ok()),
            IpAddr::V6(_) => None,
        };
        Some(mapped.map_or(network, IpNet::from))
    };
    text.split(',').map(network).collect()
}
