//! Whom connections to servers by TLS trust.

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};

/// Trusts the system's authorities, or those of the file that `SSL_CERT_FILE` names.
///
/// # Errors
/// Where there are none.
pub fn trusting_system() -> Result<ClientConfig, String> {
    trusting(system()?.0)
}

/// The system's authorities, or those of the file that `SSL_CERT_FILE` names, as PEM.
///
/// # Errors
/// Where there are none.
pub fn system_pem() -> Result<Vec<u8>, String> {
    let (_, certificates) = system()?;
    let pem = |certificate: CertificateDer| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(certificate))
    };
    Ok(certificates.into_iter().map(pem).collect::<String>().into())
}

/// The system's authorities, twice; what cannot be read is passed over.
fn system() -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let mut roots = RootCertStore::empty();
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    certificates.retain(|certificate| roots.add(certificate.clone()).is_ok());
    if roots.is_empty() {
        return Err(nobody());
    }
    Ok((roots, certificates))
}

/// Why there is nobody to trust.
fn nobody() -> String {
    let Some(file) = std::env::var_os("SSL_CERT_FILE") else {
        return "this system has no certificates to trust; SSL_CERT_FILE may name a PEM file".to_owned();
    };
    let why = check_authorities(Path::new(&file)).err().unwrap_or_default();
    format!("SSL_CERT_FILE {file:?} names nobody to trust: {why}")
}

/// Trusts nobody, for where TLS will not be spoken.
///
/// # Errors
/// Never, as long as the provider knows the usual versions of TLS.
pub fn trusting_nobody() -> Result<ClientConfig, String> {
    trusting(RootCertStore::empty())
}

/// Looks for authorities in a PEM file. Of one that is of no use the Redis client would make a mistake with the URL.
///
/// # Errors
/// Why it has none, or cannot be read.
pub fn check_authorities(file: &Path) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    certificates(file)?.into_iter().try_for_each(|certificate| roots.add(certificate)).map_err(|_| broken())
}

/// Looks for this side's certificate in a PEM file; those behind it are for the other side.
///
/// # Errors
/// Why it has none, or cannot be read.
pub fn check_certificate(file: &Path) -> Result<(), String> {
    let certificates = certificates(file)?;
    let own = certificates.first().ok_or_else(|| why(pem::Error::NoItemsFound))?;
    ParsedCertificate::try_from(own).map(drop).map_err(|_| match RootCertStore::empty().add(own.clone()) {
        // Redis and `redis-cli` take it.
        Ok(()) => {
            "it is of X.509 version 1: `openssl x509 -req` makes one of version 3 with -extfile".to_owned()
        }
        Err(_) => broken(),
    })
}

/// Looks for a private key in a PEM file.
///
/// # Errors
/// Why it has none that can be used, or cannot be read.
pub fn check_key(file: &Path) -> Result<(), String> {
    let key = key(file)?;
    let usable = rustls::crypto::ring::default_provider().key_provider.load_private_key(key);
    usable.map(drop).map_err(|_| "it is none of RSA (2048 to 4096 bits), P-256, P-384 or Ed25519".to_owned())
}

/// Whether the private key is that of the certificate; each of them was found to be in order.
///
/// # Errors
/// Where it is not, or a file cannot be read any more.
pub fn check_pair(certificate: &Path, private_key: &Path) -> Result<(), String> {
    let provider = rustls::crypto::ring::default_provider();
    let pair = CertifiedKey::from_der(certificates(certificate)?, key(private_key)?, &provider);
    pair.map(drop).map_err(|_| "it is that of another certificate than the first one there".to_owned())
}

/// The certificates of a PEM file, whole ones: one at least.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(file).map_err(why)?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(why)?;
    if certificates.is_empty() { Err(why(pem::Error::NoItemsFound)) } else { Ok(certificates) }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| {
        let marks = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"];
        match std::fs::read_to_string(file) {
            Ok(text) if marks.iter().any(|mark| text.contains(mark)) => {
                "it is encrypted: nobody is here to ask for the passphrase".to_owned()
            }
            _ => why(error),
        }
    })
}

fn broken() -> String {
    "what is encoded there is no certificate".to_owned()
}

/// The library's own words quote what it could not read, such as a key.
fn why(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "it has none".to_owned(),
        _ => "it is cut off, or its line breaks are lost".to_owned(),
    }
}

fn trusting(roots: RootCertStore) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_file_is_of_no_use_is_told_without_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        let told = |text: &str| {
            std::fs::write(&file, text).unwrap();
            [check_key(&file).unwrap_err(), check_certificate(&file).unwrap_err()]
        };
        for text in [
            "-----BEGIN PRIVATE KEY-----s3cret-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\\ns3cret\\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\ns3cret\n",
            "----BEGIN PRIVATE KEY-----\ns3cret\n",
            "s3cret",
        ] {
            for told in told(text) {
                assert!(
                    ["it has none", "it is cut off, or its line breaks are lost"].contains(&&*told),
                    "{told}"
                );
            }
        }
        let missing = check_key(&dir.path().join("nowhere.pem")).unwrap_err();
        assert!(missing.contains("No such file"), "{missing}");
    }

    /// A file with this text.
    fn holding(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_key_is_one_that_can_be_used_and_that_of_its_certificate() {
        let pairs =
            [(); 2].map(|()| rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap());
        let certificates = pairs.each_ref().map(|pair| holding(&pair.cert.pem()));
        let keys = pairs.each_ref().map(|pair| holding(&pair.signing_key.serialize_pem()));
        check_key(keys[0].path()).unwrap();
        check_certificate(certificates[0].path()).unwrap();
        check_authorities(certificates[0].path()).unwrap();
        check_pair(certificates[0].path(), keys[0].path()).unwrap();
        let told = check_pair(certificates[0].path(), keys[1].path()).unwrap_err();
        assert!(told.contains("another certificate"), "{told}");

        let told = |text: &str| check_key(holding(text).path()).unwrap_err();
        let unknown = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(told(unknown).contains("P-256"), "{}", told(unknown));
        for encrypted in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n\
             AAAA\n-----END EC PRIVATE KEY-----\n",
        ] {
            assert!(told(encrypted).contains("is encrypted"), "{}", told(encrypted));
        }
    }

    #[test]
    fn a_certificate_of_version_1_is_told_as_one() {
        let text = "-----BEGIN CERTIFICATE-----\n\
             MIIBGzCBwQIUWRQYYI1JhJswXHALkTFb13fAx/0wCgYIKoZIzj0EAwIwDzENMAsG\n\
             A1UEAwwEbm9kZTAgFw0yNjExMjgyMTU4NTdaGA8yMTI2MTEwNDIxNTg1N1owDzEN\n\
             MAsGA1UEAwwEbm9kZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPQeapcCElV1\n\
             gZ5QzWvU0iZgffIR4k85VOXoiJ+a5c4AjAdmWWbARiB89UpK20EG89o/38HFZZ7G\n\
             SFAKZxVkpvswCgYIKoZIzj0EAwIDSQAwRgIhAPTx3KS803rjaoHin0HI5gVQIKGh\n\
             p4ehs/6QNHH3hoztAiEAxFoFBGsmO9/vm17CJQb0LtzEC4smQluD2d2dqL9iAHw=\n\
             -----END CERTIFICATE-----\n";
        let told = check_certificate(holding(text).path()).unwrap_err();
        assert!(told.contains("version 1"), "{told}");
    }

    #[test]
    fn what_is_no_certificate_inside_is_none() {
        let rubbish = holding("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        for check in [check_authorities, check_certificate] {
            assert!(check(rubbish.path()).unwrap_err().contains("no certificate"));
        }
    }
}
