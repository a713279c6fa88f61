//! From settings to connections: addresses of one server, of Sentinels, of a Cluster; databases, TLS.

use std::fmt;
use std::path::{Path, PathBuf};

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    TlsCertificates,
};

use crate::tls;

mod login;

pub use login::Login;

/// How Redis is reached. Printing it shows no password.
#[derive(Clone)]
pub struct Address {
    /// One of [`FORMS`].
    pub url: String,
    /// The file that it came from, if it did.
    pub url_file: Option<PathBuf>,
    /// Wins over a database in the URL.
    pub db: Option<i64>,
    /// PEM file of the authorities to trust, instead of the public ones.
    pub ca: Option<PathBuf>,
    /// PEM file of this client's certificate.
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("db", &self.db).finish_non_exhaustive()
    }
}

/// The forms of a URL, in words.
pub const FORMS: &str = "redis:// or rediss:// (TLS) with host:port, unix:// with a path, \
     redis+sentinel://host:port,host:port/name, redis+cluster://host:port,host:port (rediss+... with TLS)";

/// Where Redis is.
#[derive(Debug, Clone)]
pub enum Topology {
    /// One server.
    Server(ConnectionInfo),
    /// A master and its replicas; Sentinels know which is the master.
    Sentinel {
        /// The Sentinels, each with their own credentials.
        sentinels: Vec<ConnectionInfo>,
        /// What they call the master.
        name: String,
        /// How to connect to it, but for its address.
        master: ConnectionInfo,
    },
    /// A Cluster, of which these servers are known.
    Cluster(Vec<ConnectionInfo>),
}

/// Why no connection can be made of the settings.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The URL cannot be used.
    #[error("--redis-url cannot be used: {0}")]
    Url(#[from] redis::RedisError),
    /// The URL has not the form of its scheme.
    #[error("--redis-url must be {0}")]
    Form(&'static str),
    /// A Cluster has one database.
    #[error("--redis-db must be 0 with redis+cluster://")]
    Database,
    /// Nobody is trusted.
    #[error("--redis-ca is not set, and {0}")]
    Authorities(String),
    /// A PEM file cannot be read.
    #[error("{flag} {path} cannot be read: {source}")]
    Pem {
        /// The setting.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

const SERVER_FORM: &str = "redis://[user:password@]host:port[/database] or rediss://..., without a query: \
     --redis-db names a database, too, and ? of a password is %3F";
const SOCKET_FORM: &str = "unix:///path[?db=...&user=...&pass=...]";
const NO_FRAGMENT: &str = "without a # part: certificates are always looked at (--redis-ca says whom to trust), and # of \
     a password is %23";
const SENTINEL_FORM: &str = "redis+sentinel://[user:password@]host:port,host:port/name[/database]\
     [?sentinel_user=...&sentinel_password=...]";
const CLUSTER_FORM: &str = "redis+cluster://[user:password@]host:port,host:port, without a database";

/// The highest number of a database.
pub const MOST_DB: i64 = 65_535;
const DATABASE: &str = "with a database from 0 to 65535, if any";

impl Address {
    /// Whether servers, and Sentinels, are reached by TLS: else no certificates are used.
    pub fn is_by_tls(&self) -> bool {
        self.url.starts_with("rediss")
    }

    /// What the URL and the files come to. Connects to nothing.
    ///
    /// # Errors
    /// Where the URL or a PEM file cannot be used.
    pub fn topology(&self) -> Result<Topology, AddressError> {
        if self.url.contains('#') {
            return Err(AddressError::Form(NO_FRAGMENT));
        }
        let (scheme, rest) = self.url.split_once("://").ok_or(AddressError::Form(FORMS))?;
        let Some((base, kind)) = scheme.split_once('+').filter(|(_, kind)| *kind != "unix") else {
            // The client passes over what it does not know.
            let (form, known) = match scheme {
                "redis" | "rediss" => (SERVER_FORM, &["protocol"][..]),
                _ => (SOCKET_FORM, &["protocol", "db", "user", "pass"][..]),
            };
            let (_, query) = rest.split_once('?').unwrap_or_default();
            if form_urlencoded::parse(query.as_bytes()).any(|(name, _)| !known.contains(&&*name)) {
                return Err(AddressError::Form(form));
            }
            return Ok(Topology::Server(self.info(&self.url)?));
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = authority
            .rsplit_once('@')
            .map_or(("", authority), |(_, hosts)| (&authority[..authority.len() - hosts.len()], hosts));
        match kind {
            "cluster" => {
                if !path.is_empty() || !query.is_empty() {
                    return Err(AddressError::Form(CLUSTER_FORM));
                }
                if self.db.unwrap_or_default() != 0 {
                    return Err(AddressError::Database);
                }
                let seeds = hosts.split(',').map(|host| self.info(&format!("{base}://{credentials}{host}")));
                Ok(Topology::Cluster(seeds.collect::<Result<_, _>>()?))
            }
            "sentinel" => {
                let (name, db) = path.split_once('/').unwrap_or((path, ""));
                if name.is_empty() {
                    return Err(AddressError::Form(SENTINEL_FORM));
                }
                let own = Self { db: Some(0), ..self.clone() };
                let sentinels = hosts.split(',').map(|host| {
                    let port = if host.ends_with(']') || !host.contains(':') { ":26379" } else { "" };
                    with_credentials(own.info(&format!("{base}://{host}{port}"))?, query)
                });
                let sentinels = sentinels.collect::<Result<_, _>>()?;
                let first = hosts.split(',').next().unwrap_or_default();
                let master = self.info(&format!("{base}://{credentials}{first}/{db}"))?;
                Ok(Topology::Sentinel { sentinels, name: name.to_owned(), master })
            }
            _ => Err(AddressError::Form(FORMS)),
        }
    }

    /// How to connect to one server.
    fn info(&self, url: &str) -> Result<ConnectionInfo, AddressError> {
        let info = if url.starts_with("rediss:") {
            // Fails where one is installed already, which does as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let client_tls = match (&self.cert, &self.key) {
                (Some(cert), Some(key)) => Some(ClientTlsConfig {
                    client_cert: read("--redis-cert", cert)?,
                    client_key: read("--redis-key", key)?,
                }),
                _ => None,
            };
            let root_cert = match &self.ca {
                Some(ca) => read("--redis-ca", ca)?,
                None => tls::system_pem().map_err(AddressError::Authorities)?,
            };
            let root_cert = Some(root_cert);
            let client = Client::build_with_tls(url, TlsCertificates { client_tls, root_cert })?;
            client.get_connection_info().clone()
        } else {
            url.into_connection_info()?
        };
        // Answers are read as RESP2 shapes them, whatever the URL asks for. No connection tells its library: Redis before 7.2,
        // and a rule without that right, count two errors for each.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        let mut settings = settings.set_skip_set_lib_name();
        if let Some(db) = self.db {
            settings = settings.set_db(db);
        }
        if !(0..=MOST_DB).contains(&settings.db()) {
            return Err(AddressError::Form(DATABASE));
        }
        // A batch goes out at once; waiting for more of it would cost 40 ms.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        Ok(info.set_redis_settings(settings).set_tcp_settings(tcp))
    }
}

/// A Sentinel's own credentials: those of the master stand before its host and are not for it.
fn with_credentials(info: ConnectionInfo, query: &str) -> Result<ConnectionInfo, AddressError> {
    let mut settings = info.redis_settings().clone();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        settings = match &*name {
            "sentinel_user" => settings.set_username(value),
            "sentinel_password" => settings.set_password(value),
            _ => return Err(AddressError::Form(SENTINEL_FORM)),
        };
    }
    Ok(info.set_redis_settings(settings))
}

/// The same way of connecting, to another host.
pub fn at(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.to_owned();
    let address = match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.clone().set_addr(address)
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, AddressError> {
    std::fs::read(path).map_err(|source| AddressError::Pem { flag, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(url: &str, db: Option<i64>) -> Result<Topology, String> {
        let address = Address { url: url.to_owned(), url_file: None, db, ca: None, cert: None, key: None };
        address.topology().map_err(|error| error.to_string())
    }

    fn shown(info: &ConnectionInfo) -> String {
        let settings = info.redis_settings();
        let (user, password) = (settings.username().unwrap_or("-"), settings.password().unwrap_or("-"));
        let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        format!("{} {user} {password} {} {tls}", info.addr(), settings.db())
    }

    #[test]
    fn one_server() {
        let Ok(Topology::Server(info)) = topology("redis://u:p%40@h:1/2", Some(3)) else { panic!() };
        assert_eq!(shown(&info), "h:1 u p@ 3 false");
        for bad in ["redis://h/65536", "redis://h/-1"] {
            assert!(topology(bad, None).unwrap_err().contains("0 to 65535"), "{bad}");
        }
        let Ok(Topology::Server(info)) = topology("unix:///run/redis.sock?db=1", None) else { panic!() };
        assert_eq!(shown(&info), "/run/redis.sock - - 1 false");
    }

    #[test]
    fn no_part_of_a_url_is_passed_over() {
        for (url, allowed) in [
            ("redis://h?db=3", "--redis-db"),
            ("rediss://h/1?password=p", "host:port[/database]"),
            ("unix:///run/redis.sock?password=p", "&pass=..."),
            ("redis+cluster://h?db=0", "without a database"),
            ("rediss://h/#insecure", "--redis-ca"),
            ("rediss+cluster://h1#insecure,h2", "--redis-ca"),
            ("rediss+sentinel://h/m/0#insecure", "--redis-ca"),
        ] {
            assert!(topology(url, None).unwrap_err().contains(allowed), "{url}");
        }
        let Ok(Topology::Server(info)) = topology("unix:///s?user=u&pass=p%23", None) else { panic!() };
        assert_eq!(shown(&info), "/s u p# 0 false");
    }

    #[test]
    fn answers_have_one_shape_whatever_the_url_says() {
        let Ok(Topology::Server(info)) = topology("redis://h/?protocol=resp3", None) else { panic!() };
        assert!(!info.redis_settings().protocol().supports_resp3());
    }

    #[test]
    fn a_cluster() {
        let Ok(Topology::Cluster(seeds)) = topology("redis+cluster://u:p@h1:7000,[::1]:7001,h3", None) else {
            panic!()
        };
        let seeds: Vec<_> = seeds.iter().map(shown).collect();
        assert_eq!(seeds, ["h1:7000 u p 0 false", "::1:7001 u p 0 false", "h3:6379 u p 0 false"]);
        let Ok(Topology::Cluster(seeds)) = topology("rediss+cluster://h1:7000", Some(0)) else { panic!() };
        assert_eq!(shown(&seeds[0]), "h1:7000 - - 0 true");
        assert_eq!(shown(&at(&seeds[0], "h2", 5)), "h2:5 - - 0 true");
        assert!(topology("redis+cluster://h/1", None).unwrap_err().contains("without a database"));
        assert!(topology("redis+cluster://h", Some(1)).unwrap_err().contains("--redis-db"));
    }

    #[test]
    fn sentinels() {
        let url = "redis+sentinel://u:p@h1,h2:5/mymaster/4?sentinel_user=s&sentinel_password=q%26";
        let Ok(Topology::Sentinel { sentinels, name, master }) = topology(url, None) else { panic!() };
        let sentinels: Vec<_> = sentinels.iter().map(shown).collect();
        assert_eq!(sentinels, ["h1:26379 s q& 0 false", "h2:5 s q& 0 false"]);
        assert_eq!(name, "mymaster");
        assert_eq!(shown(&at(&master, "m", 6)), "m:6 u p 4 false");
        for url in ["redis+sentinel://h1", "redis+sentinel://h1/m?password=q"] {
            assert!(topology(url, None).unwrap_err().contains("/name"), "{url}");
        }
        assert!(topology("redis+ring://h", None).unwrap_err().contains("redis+cluster"));
    }
}
