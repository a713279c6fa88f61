//! What the settings come to, in words: for whoever asks what a node would run with, and how open it would be.

use std::net::SocketAddr;

use super::read::Reader;
use super::{LogFormat, Settings, files_for_others};
use crate::auth;

/// A listener's address as a URL that reaches it from this machine, also where it listens on all of them.
pub fn url_at(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        return format!("ws://localhost:{}", address.port());
    }
    format!("ws://{address}")
}

impl Settings {
    /// Notes in the reader what each setting comes to whose default depends on others.
    pub fn tell(&self, reader: &mut Reader) {
        reader.understand("mode", if self.redis.is_some() { "redis" } else { "local" });
        reader.understand("env", if self.development { "development" } else { "production" });
        reader.understand("node-id", &self.node_id);
        reader.understand("bind", self.bind);
        reader.understand(
            "log-format",
            match self.log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
        );
        reader.understand("threads", self.threads);
        reader.understand("max-connections", self.max_connections);
        reader.understand("max-workers", self.max_workers);
        let addresses = [
            ("client-url", &self.client_url, self.client_port),
            ("worker-url", &self.worker_url, self.worker_port),
        ];
        for (flag, url, port) in addresses {
            match (url, port) {
                (Some(_), _) => {} // as it was given, but for credentials
                (None, 0) => reader.understand(flag, "from bind and the port that the system gives"),
                (None, port) => {
                    reader.understand(flag, url_at(SocketAddr::new(self.bind, port)));
                }
            }
        }
    }

    /// Says so where the files that this process may open are fewer than its sockets.
    pub fn crowding(&self) -> Option<String> {
        let Self { max_connections, max_workers, waiting_connections, open_files, .. } = self;
        let others = files_for_others(*waiting_connections, *max_workers);
        (max_connections.saturating_add(others) > *open_files).then(|| {
            format!(
                "--max-connections {max_connections} and --max-workers {max_workers} need {others} files beside the \
                 clients' own, and this process may have {open_files} open: when they run out, nobody gets in; raise \
                 that limit (ulimit -n, LimitNOFILE), or lower these"
            )
        })
    }

    /// Says so where certificates were given for a Redis that is reached without TLS.
    pub fn unused(&self) -> Option<String> {
        let address = &self.redis.as_ref()?.address;
        let files =
            [("--redis-ca", &address.ca), ("--redis-cert", &address.cert), ("--redis-key", &address.key)];
        let given: Vec<_> =
            files.into_iter().filter_map(|(flag, file)| file.as_ref().map(|_| flag)).collect();
        (!given.is_empty() && !address.is_by_tls()).then(|| {
            format!("{} not used: --redis-url is one without TLS (rediss:// has it)", given.join(", "))
        })
    }

    /// What is open to everyone, each with the setting that opens it.
    pub fn openings(&self) -> Vec<&'static str> {
        let mut open = Vec::new();
        if matches!(self.auth, auth::Config::None) {
            open.push("--auth none: a client is whoever it says it is");
        }
        if self.worker_tokens.is_empty() {
            open.push("--worker-token none: whoever reaches the worker port may publish");
        }
        if self.origins.is_any() {
            // Cookies come along with whatever page asks.
            open.push(match self.auth {
                auth::Config::Api(_) => {
                    "--client-origin '*' with --auth api: any web page may connect as whoever looks at it"
                }
                _ => "--client-origin '*': any web page may connect",
            });
        }
        open
    }
}
