//! With what new connections are let in: certificates and credentials, read again where a file of theirs has changed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::{ConnectionAddr, ConnectionInfo};
use tracing::{info, warn};

use super::{Address, Topology, at};
use crate::lock::lock;
use crate::tls::{check_authorities, check_certificate, check_key, check_pair};

/// Between two looks at the files: where Redis is away there are many attempts.
const LOOK: Duration = Duration::from_secs(1);
const URL_FILE: &str = "REDIS_URL_FILE";

/// What the files hold now. Connections that are there stay as they are.
#[derive(Default)]
pub struct Login {
    /// None: nothing is read again.
    address: Option<Address>,
    seen: Mutex<Seen>,
}

type Contents = BTreeMap<&'static str, Option<Vec<u8>>>;

#[derive(Default)]
struct Seen {
    looked: Option<Instant>,
    contents: Contents,
    /// What they come to; none as long as that is what the node started with.
    topology: Option<Topology>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

impl Login {
    /// By the files of this address, from now on. The certificates that are used at first must not have been read before
    /// this: what comes in between would be seen as no change.
    pub fn new(mut address: Address) -> Self {
        address.url_file = address.url_file.filter(|file| file.is_file()); // a pipe is read once
        if !address.is_by_tls() {
            // Not used: then it does not matter what becomes of them, either.
            (address.ca, address.cert, address.key) = (None, None, None);
        }
        let mut contents = contents(&address);
        if let Some(url) = contents.get_mut(URL_FILE) {
            *url = Some(address.url.clone().into()); // which was read before this, with the settings
        }
        Self { address: Some(address), seen: Mutex::new(Seen { contents, ..Seen::default() }) }
    }

    /// How to connect to a server there now. Only how it is entered may be another: what is at another place, or in another
    /// database, are other data.
    pub fn server(&self, place: ConnectionInfo) -> ConnectionInfo {
        self.by(place, |topology| match topology {
            Topology::Server(info) | Topology::Sentinel { master: info, .. } => Some(info),
            Topology::Cluster(seeds) => seeds.first(),
        })
    }

    /// How to connect to a Sentinel there now.
    pub fn sentinel(&self, place: ConnectionInfo) -> ConnectionInfo {
        self.by(place, |topology| match topology {
            Topology::Sentinel { sentinels, .. } => sentinels.first(),
            _ => None,
        })
    }

    fn by(&self, place: ConnectionInfo, of: impl Fn(&Topology) -> Option<&ConnectionInfo>) -> ConnectionInfo {
        let mut seen = lock(&self.seen);
        if let Some(address) = &self.address
            && seen.looked.is_none_or(|looked| looked.elapsed() >= LOOK)
        {
            seen.look(address);
        }
        let Some(how) = seen.topology.as_ref().and_then(of) else { return place };
        let settings = how.redis_settings().clone().set_db(place.redis_settings().db());
        let info = match place.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                at(how, host, *port)
            }
            addr => how.clone().set_addr(addr.clone()),
        };
        info.set_redis_settings(settings)
    }
}

impl Seen {
    fn look(&mut self, address: &Address) {
        self.looked = Some(Instant::now());
        let before = std::mem::replace(&mut self.contents, contents(address));
        let other = self.contents.iter().filter(|(name, now)| before.get(*name) != Some(*now));
        let changed = other.map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        if changed.is_empty() {
            return;
        }
        match topology(address) {
            Ok(topology) => {
                self.topology = Some(topology);
                info!(changed, "new connections to Redis go by files that have changed");
            }
            Err(error) => {
                warn!(changed, error, "files for connections to Redis have changed, and are of no use")
            }
        }
    }
}

/// What each of the files holds, by what names it; none where it cannot be read.
fn contents(address: &Address) -> Contents {
    let is_trusted = address.ca.is_none() && address.is_by_tls();
    let system = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from).filter(|_| is_trusted);
    let files = [
        ("--redis-ca", &address.ca),
        ("--redis-cert", &address.cert),
        ("--redis-key", &address.key),
        (URL_FILE, &address.url_file),
        ("SSL_CERT_FILE", &system),
    ];
    let read = |file: &PathBuf| if file.is_file() { std::fs::read(file).ok() } else { None };
    let trimmed = |text: Vec<u8>| text.trim_ascii().to_vec();
    files.into_iter().filter_map(|(name, file)| Some((name, read(file.as_ref()?).map(trimmed)))).collect()
}

/// What the files come to. Checked first: the library's own words quote what it could not read, such as a key.
fn topology(address: &Address) -> Result<Topology, String> {
    let mut address = address.clone();
    if let Some(file) = &address.url_file {
        let url =
            std::fs::read_to_string(file).map_err(|error| format!("{URL_FILE} cannot be read: {error}"))?;
        let (scheme, _) = address.url.split_once("://").unwrap_or_default();
        if url.trim().split_once("://").is_none_or(|(now, _)| now != scheme) {
            return Err(format!("{URL_FILE} must go on with {scheme}://, or the node be restarted"));
        }
        address.url = url.trim().to_owned();
    }
    let checks: [(_, _, fn(&Path) -> _); 3] = [
        ("--redis-ca", &address.ca, check_authorities),
        ("--redis-cert", &address.cert, check_certificate),
        ("--redis-key", &address.key, check_key),
    ];
    for (flag, file, check) in checks {
        file.as_deref().map_or(Ok(()), check).map_err(|error| format!("{flag}: {error}"))?;
    }
    if let (Some(cert), Some(key)) = (&address.cert, &address.key) {
        // One was replaced, and the other one will be in a moment.
        check_pair(cert, key).map_err(|error| format!("--redis-key: {error}"))?;
    }
    address.topology().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::write;

    use super::*;

    impl Login {
        /// As if it was long ago that somebody looked.
        fn forget(&self) {
            lock(&self.seen).looked = None;
        }
    }

    fn shown(info: &ConnectionInfo) -> String {
        let settings = info.redis_settings();
        let (user, password) = (settings.username().unwrap_or("-"), settings.password().unwrap_or("-"));
        format!("{} {user} {password} {}", info.addr(), settings.db())
    }

    #[test]
    fn credentials_are_read_again_and_nothing_else_of_the_address() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = |url: &str| {
            write(file.path(), url).unwrap();
            let (url, url_file) = (url.to_owned(), Some(file.path().to_owned()));
            let address = Address { url, url_file, db: None, ca: None, cert: None, key: None };
            (address.topology().unwrap(), Login::new(address))
        };
        let then = |login: &Login, url: &str| {
            write(file.path(), url).unwrap();
            login.forget();
        };

        let (Topology::Server(place), login) = first("redis://u:old@h:1/2") else { panic!() };
        assert_eq!(shown(&login.server(place.clone())), "h:1 u old 2");
        write(file.path(), "redis://u:new@h:1/2").unwrap();
        assert_eq!(shown(&login.server(place.clone())), "h:1 u old 2", "it was looked at a moment ago");
        then(&login, "redis://v:new@other:3/4\n");
        assert_eq!(shown(&login.server(place.clone())), "h:1 v new 2");
        let of_no_use =
            ["", "redis://u:worse@h:1/x/y", "rediss://u:newer@h:1", "redis+cluster://u:newer@h:1"];
        for url in of_no_use {
            then(&login, url);
            assert_eq!(shown(&login.server(place.clone())), "h:1 v new 2", "{url}");
        }

        let url = "redis+sentinel://u:old@h1,h2:5/m/4?sentinel_password=old";
        let (Topology::Sentinel { sentinels, master, .. }, login) = first(url) else { panic!() };
        then(&login, &url.replace("old", "new"));
        assert_eq!(shown(&login.server(at(&master, "m", 6))), "m:6 u new 4");
        assert_eq!(shown(&login.sentinel(sentinels[1].clone())), "h2:5 - new 0");

        let (Topology::Cluster(seeds), login) = first("redis+cluster://u:old@h1:7000") else { panic!() };
        then(&login, "redis+cluster://u:new@h1:7000");
        assert_eq!(shown(&login.server(at(&seeds[0], "h2", 5))), "h2:5 u new 0");
        assert_eq!(shown(&Login::default().server(seeds[0].clone())), "h1:7000 u old 0");
    }

    #[test]
    fn a_password_that_is_replaced_after_the_settings_were_read_is_taken_up() {
        let (file, url) = (tempfile::NamedTempFile::new().unwrap(), "redis://u:old@h:1");
        write(file.path(), "redis://u:new@h:1\n").unwrap();
        let url_file = Some(file.path().to_owned());
        let address = Address { url: url.to_owned(), url_file, db: None, ca: None, cert: None, key: None };
        let Ok(Topology::Server(place)) = address.topology() else { panic!() };
        assert_eq!(shown(&Login::new(address).server(place)), "h:1 u new 0");
    }

    #[test]
    fn without_tls_no_certificate_counts() {
        let (file, url) = (tempfile::NamedTempFile::new().unwrap(), "redis://u:old@h:1");
        write(file.path(), url).unwrap();
        let (url, url_file, ca) = (url.to_owned(), Some(file.path().to_owned()), Some("/nowhere".into()));
        let address = Address { url, url_file, db: None, ca, cert: None, key: None };
        let Ok(Topology::Server(place)) = address.topology() else { panic!() };
        let login = Login::new(address);
        write(file.path(), "redis://u:new@h:1").unwrap();
        assert_eq!(shown(&login.server(place)), "h:1 u new 0");
    }

    #[test]
    fn what_is_of_no_use_is_not_quoted() {
        let key = tempfile::NamedTempFile::new().unwrap();
        write(key.path(), "-----BEGIN PRIVATE KEY-----\ns3cret\n").unwrap();
        let file = Some(key.path().to_owned());
        let address = Address {
            url: "rediss://h".to_owned(),
            url_file: None,
            db: None,
            ca: None,
            cert: None,
            key: file,
        };
        let told = topology(&address).unwrap_err();
        assert!(told.contains("--redis-key") && !told.contains("s3cret"), "{told}");
    }
}
