//! Where a node is found: by its URL where one is given, else by bind and port on this machine; of several ways, by the
//! one that is a flag.

use hyper::Uri;

use super::Failure;
use crate::auth::remote::port;
use crate::settings::read::{BARE, Reader, Source, beside, first_token, is_bare};

/// A node's port, from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// TLS.
    pub secure: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path of a WebSocket; `/` where none is given.
    pub path: String,
    /// The bearer token, where there is one.
    pub token: Option<String>,
    /// Which settings say so, for whoever cannot connect.
    from: String,
}

impl Endpoint {
    /// The worker port, with the first of the worker tokens.
    ///
    /// # Errors
    /// Where the settings name no address, or a token that cannot be had.
    pub fn worker(reader: &mut Reader) -> Result<Self, Failure> {
        let found = Self::find(reader, "worker-url", "worker-port")?;
        Ok(Self { token: worker_token(reader)?, ..found })
    }

    /// The client port, with a client's token where there is one.
    ///
    /// # Errors
    /// Where the settings name no address.
    pub fn client(reader: &mut Reader, token: Option<String>) -> Result<Self, Failure> {
        Ok(Self { token, ..Self::find(reader, "client-url", "client-port")? })
    }

    /// What a URL names; none where it is no address.
    pub fn at(url: &str) -> Option<Self> {
        parse(url, "")
    }

    /// Whether it is the URL that says where a node's port is. A flag wins over the environment, also where one says where
    /// the node is and the other what it tells of itself.
    pub fn is_by_url(reader: &Reader, url: &str, port: &str) -> bool {
        let by_flag = ["bind", port].iter().any(|flag| reader.source(flag) == Source::Flag);
        reader.given(url).is_some() && (reader.source(url) == Source::Flag || !by_flag)
    }

    fn find(reader: &mut Reader, url: &str, port: &str) -> Result<Self, Failure> {
        let found = reader.checked(|reader| {
            // A URL that could not be read may have been that of another node.
            if Self::is_by_url(reader, url, port) {
                let from = named(url, reader.source(url));
                let usual = if port == "worker-port" { 4001 } else { 4000 };
                let allowed =
                    format!("an address like ws://host:{usual}, wss://, http:// or https://, {BARE}");
                return reader.value(url, &allowed, |given| parse(given, &from));
            }
            Self::here(reader, url, port)
        });
        found.map_err(Failure::Usage)
    }

    /// A node's port on this machine, by bind and port; `url` names another. Either may be off: the caller looks for
    /// mistakes.
    pub fn here(reader: &mut Reader, url: &str, port: &str) -> Option<Self> {
        let bind = reader.ip("bind").filter(|bind| !bind.is_unspecified());
        let number = reader.number(port, 1, u16::MAX)?;
        Some(Self {
            secure: false,
            host: bind.map_or_else(|| "127.0.0.1".to_owned(), |bind| bind.to_string()),
            port: number,
            path: "/".to_owned(),
            token: None,
            from: format!("--{port}, {}; --{url} names another", reader.source(port)),
        })
    }

    /// Host and port as they stand in a URL, and in the `Host` of a request: an address of IPv6 in brackets.
    pub fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The path of an HTTP resource beside the WebSocket.
    pub fn resource(&self, path: &str) -> String {
        beside(&self.path, path)
    }
}

impl std::fmt::Display for Endpoint {
    /// The address, and where it came from, if from a setting.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        write!(f, "{scheme}://{}", self.authority())?;
        if self.from.is_empty() { Ok(()) } else { write!(f, " ({})", self.from) }
    }
}

/// The token that opens the worker port: of several the first.
///
/// # Errors
/// Where it cannot be had.
pub fn worker_token(reader: &mut Reader) -> Result<Option<String>, Failure> {
    let token =
        reader.checked(|reader| Some(reader.given("worker-token").and_then(first_token).map(str::to_owned)));
    token.map_err(Failure::Usage)
}

fn named(flag: &str, source: Source) -> String {
    match source {
        Source::Flag => format!("--{flag}"),
        other => format!("--{flag} ({other})"),
    }
}

fn parse(url: &str, from: &str) -> Option<Endpoint> {
    let uri: Uri = url.parse().ok().filter(|_| is_bare(url))?;
    let (secure, standard) = match uri.scheme_str()? {
        "ws" | "http" => (false, 80),
        "wss" | "https" => (true, 443),
        _ => return None,
    };
    let port = port(uri.authority()?.as_str(), standard)?;
    let host = uri.host()?.trim_matches(['[', ']']);
    (!host.is_empty()).then(|| Endpoint {
        secure,
        host: host.to_owned(),
        port,
        path: uri.path().to_owned(),
        token: None,
        from: from.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::read::Mistake;

    fn reader(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Reader {
        Reader::of_tests(flags, env, &[])
    }

    #[test]
    fn urls_are_read_as_people_write_them() {
        let read =
            |url: &str| parse(url, "").map(|it| format!("{} {} {} {}", it.secure, it.host, it.port, it.path));
        assert_eq!(read("ws://127.0.0.1:4001").as_deref(), Some("false 127.0.0.1 4001 /"));
        assert_eq!(read("https://relay.example.com").as_deref(), Some("true relay.example.com 443 /"));
        assert_eq!(read("wss://relay:4443/live/ws").as_deref(), Some("true relay 4443 /live/ws"));
        assert_eq!(read("http://[::1]:4001/").as_deref(), Some("false ::1 4001 /"));
        for bad in
            ["", "relay:4001", "ftp://relay", "ws://", "ws://relay:port", "ws://relay:0", "ws://relay:"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
        for more in ["ws://me:secret@relay", "ws://relay/?token=secret"] {
            assert_eq!(read(more), None, "{more}");
        }
        assert_eq!(parse("wss://relay/live/ws", "").unwrap().resource("/status"), "/live/status");
    }

    #[test]
    fn a_url_wins_over_bind_and_port_and_says_where_it_came_from() {
        let at =
            |flags: &[(&str, &str)], env: &[(&str, &str)]| Endpoint::worker(&mut reader(flags, env)).unwrap();
        assert_eq!(
            at(&[], &[]).to_string(),
            "ws://127.0.0.1:4001 (--worker-port, default; --worker-url names another)"
        );
        let port = at(&[("worker-port", "5001")], &[("BIND_ADDR", "0.0.0.0")]);
        assert_eq!(port.authority(), "127.0.0.1:5001");
        let url = at(&[], &[("WORKER_SOCKET_URL", "ws://relay:7"), ("WORKER_TOKEN", "first-one,second")]);
        assert_eq!(url.to_string(), "ws://relay:7 (--worker-url (environment))");
        assert_eq!(url.token.as_deref(), Some("first-one"));
        assert_eq!(at(&[("worker-token", "none")], &[]).token, None);
        let nearer = at(&[("worker-port", "5001")], &[("WORKER_SOCKET_URL", "ws://relay:7")]);
        assert_eq!(nearer.authority(), "127.0.0.1:5001");
        let both = at(&[("worker-port", "5001"), ("worker-url", "ws://relay:7")], &[]);
        assert_eq!(both.authority(), "relay:7");
        let told = Endpoint::worker(&mut reader(&[("worker-url", "relay")], &[])).unwrap_err();
        assert!(
            matches!(told, Failure::Usage(told) if told.contains("--worker-url") && told.contains("\"relay\""))
        );
        assert!(Endpoint::worker(&mut reader(&[("worker-port", "0")], &[])).is_err());
    }

    #[test]
    fn a_setting_that_cannot_be_read_stops_those_that_use_it() {
        let lost = |name: &str| format!("{name}_FILE \"/nowhere\" cannot be read");
        for url in [&[][..], &[("worker-url", "ws://relay:7")]] {
            let worker = |flags: &[(&str, &str)], name: &str| {
                Endpoint::worker(&mut reader(&[url, flags].concat(), &[(name, "/nowhere")]))
            };
            let told = worker(&[], "WORKER_TOKEN_FILE").unwrap_err();
            assert!(matches!(told, Failure::Usage(told) if told.starts_with(&lost("WORKER_TOKEN"))));
            let to = worker(&[("worker-token", "abc")], "WORKER_TOKEN_FILE").unwrap();
            assert_eq!(to.token.as_deref(), Some("abc"), "the flag's");
            assert!(worker(&[], "JWT_SECRET_FILE").is_ok(), "not used");
            let mut client = reader(&[("client-url", "ws://relay:7")], &[("WORKER_TOKEN_FILE", "/nowhere")]);
            assert!(Endpoint::client(&mut client, None).is_ok(), "not used");
        }
        let line = |flags: &[(&str, &str)], lost: &'static str| {
            let mut reader = reader(flags, &[("WORKER_SOCKET_PORT", "7")]);
            reader.refuse_lines(vec![Mistake { told: "line 1".to_owned(), flags: vec![lost] }]);
            Endpoint::worker(&mut reader).map(|to| to.authority()).ok()
        };
        assert_eq!(line(&[], "worker-url"), None, "it may have named another node");
        assert_eq!(line(&[("worker-url", "ws://relay:8")], "worker-url").as_deref(), Some("relay:8"));
        assert_eq!(line(&[], "worker-port").as_deref(), Some("127.0.0.1:7"), "the environment wins over it");
        assert_eq!(line(&[("worker-url", "ws://relay:8")], "worker-token"), None);
        let given = [("worker-url", "ws://relay:8"), ("worker-token", "abc")];
        assert_eq!(line(&given, "worker-token").as_deref(), Some("relay:8"));
    }
}
