//! Keys that tokens are checked with. Each is good for one algorithm, which the key itself names: what a token says of
//! its algorithm chooses nothing.

use std::ops::RangeInclusive;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;

/// Bytes of an RSA key's modulus that `ring` takes: of 2048 to 8192 bits.
const RSA_BYTES: RangeInclusive<usize> = 256..=1024;
/// An uncompressed point of P-256.
const P256_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;

/// A key. Printing it shows no secret.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its `kid`, where it comes out of a set and has one.
    pub id: Option<String>,
    /// What it is good for.
    pub algorithm: Algorithm,
    /// The key itself.
    pub decoding: DecodingKey,
}

impl Key {
    /// HS256, by a shared secret.
    pub fn of_secret(secret: &str) -> Self {
        Self { id: None, algorithm: Algorithm::HS256, decoding: DecodingKey::from_secret(secret.as_bytes()) }
    }

    /// RS256, ES256 or EdDSA, by the kind of a public key in PEM.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn of_pem(pem: &str) -> Result<Self, &'static str> {
        if pem.contains("PRIVATE KEY") {
            return Err("that is a private key; keep it where tokens are signed, and give the public one");
        }
        if !pem.contains("PUBLIC KEY") {
            return Err("there is no PUBLIC KEY in it");
        }
        if pem.matches("-----BEGIN ").count() > 1 {
            return Err("there is more than one key in it; JWT_JWKS is for several");
        }
        let bytes = pem.as_bytes();
        let kinds: [(Algorithm, jsonwebtoken::errors::Result<DecodingKey>); 3] = [
            (Algorithm::RS256, DecodingKey::from_rsa_pem(bytes)),
            (Algorithm::ES256, DecodingKey::from_ec_pem(bytes)),
            (Algorithm::EdDSA, DecodingKey::from_ed_pem(bytes)),
        ];
        let known = kinds.into_iter().find_map(|(algorithm, key)| Some((algorithm, key.ok()?)));
        let (algorithm, decoding) = known.ok_or("it is neither RSA, nor EC, nor Ed25519")?;
        let key = decoding.try_get_as_bytes().unwrap_or_default();
        match algorithm {
            Algorithm::RS256 if !RSA_BYTES.contains(&modulus_bytes(key)) => {
                Err("RSA keys need 2048 to 8192 bits")
            }
            Algorithm::ES256 if key.len() != P256_BYTES => {
                Err("of EC keys, only those of the curve P-256 are taken, and only uncompressed")
            }
            Algorithm::EdDSA if key.len() != ED25519_BYTES => Err("of Ed keys, only Ed25519 is taken"),
            _ => Ok(Self { id: None, algorithm, decoding }),
        }
    }

    /// None where the key is not for signatures, or of a kind that is not taken.
    fn of_jwk(jwk: &Jwk) -> Option<Self> {
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|what| *what == PublicKeyUse::Signature);
        let verifies =
            jwk.common.key_operations.as_ref().is_none_or(|what| what.contains(&KeyOperations::Verify));
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            // A shared secret has no place in a set of public keys.
            _ => return None,
        };
        let declared = jwk.common.key_algorithm.map(|declared| declared.to_string());
        let fits =
            declared.is_none_or(|declared| declared.parse::<Algorithm>().is_ok_and(|its| its == algorithm));
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        let length = decoding.try_get_as_bytes().map(<[u8]>::len);
        let whole = match algorithm {
            Algorithm::ES256 => length == Ok(P256_BYTES),
            Algorithm::EdDSA => length == Ok(ED25519_BYTES),
            _ => true,
        };
        (signs && verifies && fits && whole).then(|| Self {
            id: jwk.common.key_id.clone(),
            algorithm,
            decoding,
        })
    }

    /// Whether signatures by it can be checked, as far as its length goes.
    fn is_of_use(&self) -> bool {
        match self.decoding.kind() {
            DecodingKeyKind::RsaModulusExponent { n, .. } => RSA_BYTES.contains(&n.len()),
            DecodingKeyKind::SecretOrDer(_) => true,
        }
    }
}

/// Bytes of an RSA key's modulus, in DER the first of its numbers; 0 where there are so few, or so many, that another
/// number of bytes says how many.
fn modulus_bytes(der: &[u8]) -> usize {
    match der {
        // A zero in front is only the sign.
        [0x30, 0x82, _, _, 0x02, 0x82, high, low, first, ..] => {
            usize::from(u16::from_be_bytes([*high, *low])).saturating_sub(usize::from(*first == 0))
        }
        _ => 0,
    }
}

/// What a JWKS has.
pub struct Set {
    /// Those that are of use here; others are passed over. There may be none: keys that were taken away, or replaced by
    /// such as are of no use here, are trusted no more.
    pub keys: Vec<Key>,
    /// The `kid` of each RSA key that would be of use, were it not too short or too long.
    pub misfits: Vec<String>,
}

/// Reads a JWKS.
///
/// # Errors
/// What is wrong with it, in words.
pub fn set_of(text: &[u8]) -> Result<Set, &'static str> {
    #[derive(Deserialize)]
    struct Whole {
        keys: Vec<serde_json::Value>,
    }
    let set: Whole = serde_json::from_slice(text).map_err(|_| r#"it is not JSON like {"keys":[...]}"#)?;
    let jwks = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let (keys, misfits): (Vec<Key>, Vec<Key>) =
        jwks.filter_map(|jwk| Key::of_jwk(&jwk)).partition(Key::is_of_use);
    let named = |key: Key| key.id.unwrap_or_else(|| "(no kid)".to_owned());
    Ok(Set { keys, misfits: misfits.into_iter().map(named).collect() })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
    }

    /// An RSA key whose modulus has so many bytes, and begins with this one.
    fn rsa(length: usize, first: u8) -> String {
        let tagged = |tag: u8, value: &[u8]| {
            let length = u16::try_from(value.len()).unwrap().to_be_bytes();
            let length = if length[0] == 0 { vec![0x81, length[1]] } else { [&[0x82], &length[..]].concat() };
            [&[tag], &length[..], value].concat()
        };
        let sign = if first < 0x80 { &[][..] } else { &[0] };
        let modulus = tagged(0x02, &[sign, &[first], &vec![0xff; length - 1]].concat());
        pem("RSA PUBLIC KEY", &tagged(0x30, &[&modulus[..], b"\x02\x03\x01\x00\x01"].concat()))
    }

    #[test]
    fn an_rsa_key_that_no_signature_can_be_checked_by_is_refused() {
        for (length, first) in [(256, 0x80), (256, 0x01), (512, 0xff), (1024, 0xff)] {
            assert!(Key::of_pem(&rsa(length, first)).is_ok(), "{length} {first}");
        }
        for (length, first) in [(128, 0xff), (255, 0xff), (1025, 0x01), (2048, 0xff)] {
            let told = Key::of_pem(&rsa(length, first)).unwrap_err();
            assert!(told.contains("2048 to 8192 bits"), "{length} {first}: {told}");
        }
    }

    #[test]
    fn one_key_is_taken_and_a_point_that_is_whole() {
        let told = Key::of_pem(&(rsa(256, 0xff) + &rsa(512, 0xff))).unwrap_err();
        assert!(told.contains("more than one") && told.contains("JWT_JWKS"), "{told}");
        let head = b"\x30\x39\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x22\x00\x02";
        let told = Key::of_pem(&pem("PUBLIC KEY", &[&head[..], &[1; 32]].concat())).unwrap_err();
        assert!(told.contains("uncompressed"), "{told}");
    }
}
