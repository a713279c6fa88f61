//! Signed tokens of every kind that a node takes, and of kinds that it must not.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64_URL};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{hmac, rsa};
use serde_json::{Value, json};

use super::wait::{BOUND, eventually};

/// An RSA key that the whole world knows: `ring` makes none, and a fresh one would take seconds. PKCS#8.
const RSA_KEY: [&str; 17] = [
    "MIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSiAgEAAoIBAQCQTtUyST+9URcn+nUPbge9XiMDnACxymYO/yKnRkjhRKFnSGCW",
    "90T449UaekvyYJiwwf6rRMxOh5YT9TPkgmKBJzyLkoWhL/idlculPF4Znc84kMib7Svwt4Z7kQzmaKI1FIe7dYbBjkBGDTR8QbUD",
    "LI6IdJsyh/iB+lQrTQtR0iOaM/hUT8IlCnht9vgCHMqW6CdJMV8Z8CxZYU8vzq5mYt27yVTVVNLF9lsSUICZ0VePerkMI51Sc+xc",
    "nFu+jUh7tZLCeQ8l8vK1+XSnhMoyU5bAO2mpNbHg3Q+S9K3urE1oArYEObO5O8+0EzxqYI4sZYZh8pRIH8Er1FdZ03XNAgMBAAEC",
    "gf8EgnInICLdx6rxlOITmVykjkyJ0FY1OB34WgC7OXcNkxd4Isrh7Ng67uO58BhvepVK8MUElSHNUm9eMEtu2KQ7ZP5/XhTO9LDQ",
    "O94hS8GlC0luexfJx5+X5iRNuDqu+JYZEosrUIDli4x2o/L/7w25C6tomDxBV/5sEWaP89hmth5gYZbaRXbRGXQ9ShqD+dWgxJ9f",
    "NA/3FI0pzzWTXnkMw9wtAmhsGT7CbapReSu8hPcHLhHqdJGmwEo+ovZMPBTAI7t24zpuEiX1i84WbTnTaBQr16QLjTWRwxSk/ame",
    "Ga0sXx35CFbL4WtB4gUJK8UCnbtVKSwVMrXXkkgsPOECgYEAyPAMceMrUb1LUzmJpdR3aZZsT9b/2hdBvg0hi8NA3GFhcLI8JlPL",
    "Ff0rQFMy6nQvvPrcbrjMKdRdZ7TwPc0HV+NhukoPqwXmZg5hKacOJmYnVyA9lX14FENRBh4kqdPRcyzQCTMVot0okjS/jjx+aqXu",
    "p0P2UZete/obqPtJFP8CgYEAt9oonvWaTZW2elyiWGsaLa0z0vfDn54d5oCz1xoMRJ1kTu26gLFUYVM9gtqt72+LKQ/7J0KH8BPY",
    "ZMoFgAs50RFEZSSTOfZ6C7Ff1rkMm7fvTSKD18WVeb53PHKGMKJxcXmpYcxaFlUMWRWq0MfIXbofIMFsGuSY4+i0to3ouTMCgYEA",
    "nuJZJNCZF1gTsKolck/PYFlGKdd6lYugO1QMu4PXzKrfronwz+mgAzIdug5Pi131xXujQ5WyMj0u4msLMALoFJHCW9hmDThsFzS1",
    "lYb3xFswLk9bAtKkWXllHu5E1VidHHJJyYxwRkiT5Q/6i9C/sTqlu/McWSYTUp3Qs0yHXCcCgYAck+mag9y/UJUzwfBuQ/+mt/SF",
    "R4P97KsDKGBMAD2F8N0ls6g41teh5Tl7fJhqznDYKibE/H963urVB94BAD21dLSn8B5+dQSVirW1/7+o+NdWqxXJVWodqXCJUdfv",
    "+WAe3mVo0UXzkLbBpi+OEm/fuc2a3tX5/CyTyJlGgxp4pwKBgQCpH/Kd6QaU7Kz5ndmYuPtntqaSFHdmHyDbIDYghl1E4HWtvS+j",
    "FELAEj2nEoISz9TZ9Ha9YVuDfVYrTdwYwd1QdruRch8ATShuR12NnRXD6f2O/dlMpOOu07xUjhrX1GsA4t31J6b8ZHeMdOoHCitl",
    "nltFA8JlF/BDi/lL/to3qw==",
];

/// Long enough that nothing warns.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Whoever issues tokens.
pub enum Issuer {
    Secret(String),
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Issuer {
    /// HS256, with [`SECRET`].
    pub fn hs256() -> Self {
        Self::Secret(SECRET.to_owned())
    }

    /// RS256, with a key that is always the same.
    pub fn rs256() -> Self {
        let der = BASE64_STANDARD.decode(RSA_KEY.concat()).unwrap();
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).unwrap()))
    }

    /// ES256, with a new key.
    pub fn es256() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), &random).unwrap())
    }

    /// EdDSA, with a new key.
    pub fn eddsa() -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap())
    }

    /// The name of the algorithm.
    pub fn alg(&self) -> &'static str {
        match self {
            Self::Secret(_) => "HS256",
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    /// The public key in PEM, as `openssl pkey -pubout` writes it.
    pub fn pem(&self) -> String {
        // The key's algorithm in DER, up to where the key begins.
        let (head, key): (&[u8], &[u8]) = match self {
            Self::Secret(_) => panic!("a secret has no public key"),
            Self::Rsa(key) => (
                b"\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03\x82\x01\x0f\x00",
                key.public_key().as_ref(),
            ),
            Self::Ec(key) => (
                b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
                key.public_key().as_ref(),
            ),
            Self::Ed(key) => {
                (b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", key.public_key().as_ref())
            }
        };
        let text = BASE64_STANDARD.encode([head, key].concat());
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The public key as a member of a JWKS.
    pub fn jwk(&self, kid: &str) -> Value {
        let encoded = |bytes: &[u8]| BASE64_URL.encode(bytes);
        let mut jwk = match self {
            Self::Secret(secret) => json!({"kty": "oct", "k": encoded(secret.as_bytes())}),
            Self::Rsa(key) => {
                let parts = rsa::PublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "n": encoded(&parts.n), "e": encoded(&parts.e)})
            }
            Self::Ec(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y)})
            }
            Self::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(key.public_key().as_ref())})
            }
        };
        jwk["kid"] = json!(kid);
        jwk
    }

    /// A token with these claims.
    pub fn token(&self, claims: Value) -> String {
        self.sign(&json!({"typ": "JWT", "alg": self.alg()}), &claims)
    }

    /// A token with these claims that names its key.
    pub fn token_by(&self, kid: &str, claims: Value) -> String {
        self.sign(&json!({"typ": "JWT", "alg": self.alg(), "kid": kid}), &claims)
    }

    /// A good token of one user's whose claims somebody has changed afterwards: it is signed, for what it said before.
    pub fn tampered(good: &str, claims: &Value) -> String {
        let mut parts: Vec<&str> = good.split('.').collect();
        let claims = BASE64_URL.encode(claims.to_string());
        parts[1] = &claims;
        parts.join(".")
    }

    /// A token for this user, good for a minute.
    pub fn token_of(&self, user: &str) -> String {
        self.token(json!({"sub": user, "exp": unix(60)}))
    }

    /// A token with this header, signed in this issuer's way whatever the header says.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
            }
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", BASE64_URL.encode(signature))
    }
}

/// Opens something that ends in a second or two, and gives it with its end. Where the end was over before it was open
/// (`None`), because the machine was busy, it is tried again with a later one.
pub async fn ending_soon<T>(mut open: impl AsyncFnMut(i64) -> Option<T>) -> (T, i64) {
    for seconds in [2, 4, 8, 16] {
        let end = unix(seconds);
        if let Some(opened) = open(end).await {
            return (opened, end);
        }
    }
    panic!("refused, however late the end is");
}

/// Waits until this second (Unix) has come.
pub async fn passed(second: i64) {
    eventually(BOUND, "its time", async || {
        let now = unix(0);
        if now >= second { Ok(()) } else { Err(format!("{now} of {second}")) }
    })
    .await;
}

/// Unix seconds, so many from now.
pub fn unix(from_now: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + from_now
}
