//! Whom connections to servers by TLS trust.

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
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
        return Err("this system has no certificates to trust; SSL_CERT_FILE may name a PEM file".to_owned());
    }
    Ok((roots, certificates))
}

/// Trusts nobody, for where TLS will not be spoken.
///
/// # Errors
/// Never, as long as the provider knows the usual versions of TLS.
pub fn trusting_nobody() -> Result<ClientConfig, String> {
    trusting(RootCertStore::empty())
}

/// Looks for certificates in a PEM file, whole ones.
///
/// # Errors
/// Why it has none, or cannot be read.
pub fn check_certificates(file: &Path) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(file).map_err(why)?;
    match certificates.collect::<Result<Vec<_>, _>>().map_err(why)?.is_empty() {
        true => Err(why(pem::Error::NoItemsFound)),
        false => Ok(()),
    }
}

/// Looks for a private key in a PEM file.
///
/// # Errors
/// Why it has none, or cannot be read.
pub fn check_key(file: &Path) -> Result<(), String> {
    PrivateKeyDer::from_pem_file(file).map(drop).map_err(why)
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
            [check_key(&file).unwrap_err(), check_certificates(&file).unwrap_err()]
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
}
