//! Where browsers may connect from.

use std::net::{IpAddr, Ipv6Addr};

use hyper::Uri;

/// The origins that `--client-origin` allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    /// Pages of this machine, or of one in its network, known by its address.
    Near,
    /// Pages of this host, by whatever scheme and port.
    Host(String),
    Exactly(String),
    /// `https://*.example.com`: the scheme with its slashes, and what follows the star.
    Subdomains {
        scheme: String,
        suffix: String,
    },
}

impl Origins {
    /// Any origin.
    pub fn any() -> Self {
        Self(vec![Pattern::Any])
    }

    /// Pages of this machine and of its network, and of these hosts: nothing that a name on the Internet stands for.
    pub fn near(hosts: impl IntoIterator<Item = String>) -> Self {
        let bare = |host: String| host.trim_matches(['[', ']']).to_ascii_lowercase();
        let hosts = hosts.into_iter().map(|host| Pattern::Host(bare(host)));
        Self([Pattern::Near].into_iter().chain(hosts).collect())
    }

    /// Whether this is any origin.
    pub fn is_any(&self) -> bool {
        self.0.contains(&Pattern::Any)
    }

    /// Reads a comma-separated list.
    pub fn parse(text: &str) -> Option<Self> {
        text.split(',').map(|text| Pattern::parse(text.trim())).collect::<Option<Vec<_>>>().map(Self)
    }

    /// Whether an `Origin` header may pass. Schemes and hosts do not tell case.
    pub fn allow(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        self.0.iter().any(|pattern| match pattern {
            Pattern::Any => true,
            Pattern::Near => host(&origin).is_some_and(|host| is_near(&host)),
            Pattern::Host(known) => host(&origin).is_some_and(|host| host == *known),
            Pattern::Exactly(known) => *known == origin,
            Pattern::Subdomains { scheme, suffix } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|host| host.strip_suffix(suffix.as_str()))
                .is_some_and(|sub| {
                    !sub.is_empty() && sub.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
                }),
        })
    }
}

/// A host, and a port where there is one, as browsers write them: they leave the port out where it is the scheme's own.
fn as_written(scheme: &str, text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (ipv6(address.parse().ok()?), port),
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (Some(host).filter(|host| !host.is_empty() && !host.contains(['[', ']']))?.to_owned(), port)
        }
    };
    if port.is_empty() {
        return Some(host);
    }
    match (scheme, port.strip_prefix(':')?.parse::<u16>().ok()?) {
        ("http", 80) | ("https", 443) => Some(host),
        (_, port) => Some(format!("{host}:{port}")),
    }
}

/// Where an address stands for one of IPv4, browsers write no dots.
fn ipv6(address: Ipv6Addr) -> String {
    match (address.to_ipv4_mapped(), address.segments()) {
        (Some(_), [.., high, low]) => format!("[::ffff:{high:x}:{low:x}]"),
        (None, _) => format!("[{address}]"),
    }
}

/// The host of an origin, an IPv6 address without its brackets.
fn host(origin: &str) -> Option<String> {
    let uri: Uri = origin.parse().ok()?;
    Some(uri.host()?.trim_matches(['[', ']']).to_owned())
}

fn is_near(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Pattern::Any);
        }
        let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
        let (scheme, host) = text.split_once("://")?;
        // As browsers spell them: `chrome-extension://...` is one, too.
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        // What is beyond ASCII they write in its other form, `xn--...`.
        if !is_scheme || !host.is_ascii() || host.contains(['/', '?', '#', '@', ' ']) {
            return None;
        }
        let above = host.strip_prefix("*.");
        let host = as_written(scheme, above.unwrap_or(host)).filter(|host| !host.contains('*'))?;
        Some(match above {
            Some(_) => Pattern::Subdomains { scheme: format!("{scheme}://"), suffix: format!(".{host}") },
            None => Pattern::Exactly(format!("{scheme}://{host}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_what_no_name_on_the_internet_stands_for() {
        let origins = Origins::near(["Relay.example.com", "[2001:db8::7]"].map(str::to_owned));
        for good in [
            "http://localhost:4000",
            "http://app.localhost",
            "http://127.0.0.1:4000",
            "http://[::1]:4000",
            "http://192.168.1.7:3000",
            "https://relay.example.com",
            "http://[2001:db8::7]:4000",
        ] {
            assert!(origins.allow(good), "{good}");
        }
        for bad in [
            "null",
            "https://example.com",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "http://8.8.8.8",
            "http://[2001:db8::1]",
            "https://relay.example.com.evil.example",
        ] {
            assert!(!origins.allow(bad), "{bad}");
        }
        assert!(!origins.is_any());
    }

    #[test]
    fn only_listed_origins_and_subdomains_pass() {
        let origins = Origins::parse("https://app.example.com, https://*.example.org").unwrap();
        for good in ["https://app.example.com", "HTTPS://APP.example.com", "https://a.b_c.example.org"] {
            assert!(origins.allow(good), "{good}");
        }
        for bad in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://example.org",
            "https://evil.com/.example.org",
            "https://evil.com#.example.org",
            "https://.example.org",
            "https://evilexample.org",
            "null",
            "",
        ] {
            assert!(!origins.allow(bad), "{bad}");
        }
        assert!(Origins::parse("*").unwrap().allow("null"));
    }

    #[test]
    fn a_schemes_own_port_may_be_named_as_well() {
        let listed =
            "https://app.example.com:443,http://[::1]:80/,https://*.example.org:443,http://a.example:443";
        let origins = Origins::parse(listed).unwrap();
        for good in
            ["https://app.example.com", "http://[::1]", "https://a.example.org", "http://a.example:443"]
        {
            assert!(origins.allow(good), "{good}");
        }
        for bad in ["http://app.example.com", "http://a.example", "https://a.example.org:8443"] {
            assert!(!origins.allow(bad), "{bad}");
        }
    }

    #[test]
    fn an_origin_may_be_written_otherwise_than_browsers_do() {
        for (listed, written) in [
            ("http://[2001:DB8:0:0::1]:3000", "http://[2001:db8::1]:3000"),
            ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
            ("http://[::ffff:127.0.0.1]:0080", "http://[::ffff:7f00:1]"),
            ("http://[::FFFF:7F00:1]", "http://[::ffff:7f00:1]"),
            ("http://host:0443", "http://host:443"),
            ("https://host:0443", "https://host"),
            ("https://*.example.org:08443", "https://a.example.org:8443"),
        ] {
            assert!(Origins::parse(listed).unwrap().allow(written), "{listed}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for bad in [
            "",
            "example.com",
            "https://",
            "https://*",
            "https://a.*.com",
            "https://*.",
            "https://*.*.com",
            "https://*example.com",
            "https://*.:8443",
            "https://:443",
            "https://*.:443",
            "https://x/y",
            "[http://x.com]",
            "https://münchen.example",
            "https://[::1",
            "https://[app.example.com]",
            "https://app.example.com:",
            "https://app.example.com:99999",
            "https://*.example.com:x",
        ] {
            assert!(Origins::parse(bad).is_none(), "{bad}");
        }
    }
}
