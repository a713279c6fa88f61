//! Where browsers may connect from.

/// The origins that `--client-origin` allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
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
            Pattern::Exactly(known) => *known == origin,
            Pattern::Subdomains { scheme, suffix } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|host| host.strip_suffix(suffix.as_str()))
                .is_some_and(|sub| {
                    !sub.is_empty() && sub.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
                }),
        })
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
        if !is_scheme || host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) {
            return None;
        }
        match host.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') && suffix.len() > 1 && !suffix.contains('*') => {
                Some(Pattern::Subdomains { scheme: format!("{scheme}://"), suffix: suffix.to_owned() })
            }
            None if !host.contains('*') => Some(Pattern::Exactly(text)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_origins_and_subdomains_pass() {
        let origins = Origins::parse("https://app.example.com, https://*.example.org").unwrap();
        for good in ["https://app.example.com", "HTTPS://APP.example.com", "https://a.b.example.org"] {
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
    fn what_is_no_origin_is_refused() {
        for bad in [
            "",
            "example.com",
            "https://",
            "https://*",
            "https://a.*.com",
            "https://*.",
            "https://x/y",
            "[http://x.com]",
        ] {
            assert!(Origins::parse(bad).is_none(), "{bad}");
        }
    }
}
