//! From settings to a Redis client: addresses, databases, TLS.

use std::path::{Path, PathBuf};

use redis::{Client, ClientTlsConfig, IntoConnectionInfo, TlsCertificates};

/// How Redis is reached.
#[derive(Debug, Clone)]
pub struct Address {
    /// `redis://`, `rediss://` or `unix://`.
    pub url: String,
    /// Wins over a database in the URL.
    pub db: Option<i64>,
    /// PEM file of the authorities to trust, instead of the public ones.
    pub ca: Option<PathBuf>,
    /// PEM file of this client's certificate.
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
}

/// Why no client could be made of the settings.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The URL cannot be used.
    #[error("--redis-url cannot be used: {0}")]
    Url(#[from] redis::RedisError),
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

impl Address {
    /// A client for this address. Connects to nothing yet.
    ///
    /// # Errors
    /// Where the URL or a PEM file cannot be used.
    pub fn client(&self) -> Result<Client, AddressError> {
        let client = if self.url.starts_with("rediss:") {
            // Fails where one is installed already, which does as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let client_tls = match (&self.cert, &self.key) {
                (Some(cert), Some(key)) => Some(ClientTlsConfig {
                    client_cert: read("--redis-cert", cert)?,
                    client_key: read("--redis-key", key)?,
                }),
                _ => None,
            };
            let root_cert = self.ca.as_deref().map(|ca| read("--redis-ca", ca)).transpose()?;
            Client::build_with_tls(self.url.as_str(), TlsCertificates { client_tls, root_cert })?
        } else {
            Client::open(self.url.as_str())?
        };
        let info = client.get_connection_info().clone();
        let mut settings = info.redis_settings().clone();
        if let Some(db) = self.db {
            settings = settings.set_db(db);
        }
        // A batch goes out at once; waiting for more of it would cost 40 ms.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        Ok(Client::open(info.into_connection_info()?)?)
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, AddressError> {
    std::fs::read(path).map_err(|source| AddressError::Pem { flag, path: path.to_owned(), source })
}
