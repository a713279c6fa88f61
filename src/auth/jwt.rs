//! Signed tokens: `sub` is the user, `exp` the end.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::jwks::{Jwks, Source};
use super::key::Key;
use super::{crypto, instant_at, unauthorized};
use crate::id::UserId;
use crate::protocol::code::Refusal;

/// How far the clock of whoever issues tokens may be ahead of this one, seconds: `nbf` may lie so far in the future.
/// `exp` has no such allowance: at that second a token is over.
const LEEWAY: u64 = 10;
/// Secrets of HS256 should not be shorter (RFC 7518, 3.2), bytes.
const SECRET_BYTES: usize = 32;

/// Where the keys are.
#[derive(Debug, Clone)]
pub enum Keys {
    /// There is one, and this is it.
    One(Key),
    /// In a set that may change.
    Set(Source),
}

/// What tokens are checked by.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the keys are.
    pub keys: Keys,
    /// A token must be for one of these, where there are any.
    pub audiences: Vec<String>,
    /// A token must come from one of these, where there are any.
    pub issuers: Vec<String>,
}

enum Known {
    One(Key),
    Set(Jwks),
}

/// Checks tokens.
pub struct Jwt {
    keys: Known,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    // What is missing, or of another kind, is for the validation to say.
    sub: Option<Value>,
    exp: Option<Value>,
}

impl Jwt {
    /// Starts to keep the keys up to date, where they are in a set.
    ///
    /// # Errors
    /// Where they come by TLS and there is nobody to trust.
    pub fn start(config: Config) -> Result<Self, String> {
        crypto::install();
        let validate_aud = !config.audiences.is_empty();
        let mut validation =
            Validation { leeway: LEEWAY, validate_nbf: true, validate_aud, ..Validation::default() };
        let mut required = vec!["exp", "sub"];
        if !config.audiences.is_empty() {
            validation.set_audience(&config.audiences);
            required.push("aud");
        }
        if !config.issuers.is_empty() {
            validation.set_issuer(&config.issuers);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let keys = match config.keys {
            Keys::One(key) => {
                if key.decoding.try_get_as_bytes().is_ok_and(|secret| secret.len() < SECRET_BYTES)
                    && key.algorithm == jsonwebtoken::Algorithm::HS256
                {
                    warn!(
                        "JWT_SECRET is shorter than {SECRET_BYTES} bytes: it may be guessed from any token"
                    );
                }
                Known::One(key)
            }
            Keys::Set(source) => Known::Set(Jwks::start(source)?),
        };
        Ok(Self { keys, validation })
    }

    /// Whose a token is, and when it ends.
    ///
    /// # Errors
    /// `unauthorized`, or `unavailable` where the keys cannot be had now.
    pub async fn verify(&self, token: &str) -> Result<(UserId, Instant), Refusal> {
        let header = decode_header(token)
            .map_err(|_| unauthorized("the token is not a JWT signed by RS256, ES256, EdDSA or HS256"))?;
        if header.crit.is_some() {
            return Err(unauthorized(
                "the token's header asks for extensions (crit), and none are known here",
            ));
        }
        let claims = match &self.keys {
            Known::One(key) => self.check(token, &header, [key])?,
            Known::Set(set) => {
                let kid = header.kid.as_deref();
                match self.check(token, &header, &set.fitting(kid)) {
                    // A key without a name may be the one that the token names: only where it is not, others are
                    // looked for.
                    Err(_) if !set.has(kid) => self.check(token, &header, &set.find(kid).await?)?,
                    checked => checked?,
                }
            }
        };
        let exp = claims.exp.as_ref().and_then(Value::as_f64);
        let expires = exp.and_then(instant_at).ok_or_else(|| unauthorized("the token has expired"))?;
        let user = claims.sub.as_ref().and_then(Value::as_str).and_then(|user| user.parse().ok());
        let user = user.ok_or_else(|| unauthorized("the token's sub is no user id"))?;
        Ok((user, expires))
    }

    fn check<'a>(
        &self,
        token: &str,
        header: &Header,
        keys: impl IntoIterator<Item = &'a Key>,
    ) -> Result<Claims, Refusal> {
        let mut refusal = unauthorized("no key here is for the token's kid and alg");
        for key in keys.into_iter().filter(|key| key.algorithm == header.alg) {
            let mut validation = self.validation.clone();
            validation.algorithms = vec![key.algorithm];
            match decode::<Claims>(token, &key.decoding, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => {
                    debug!(kind = reason(error.kind()), "a token is not good");
                    refusal = unauthorized(reason(error.kind()));
                    // The signature is checked first: where it is this key's, no other one has a say.
                    if !matches!(error.kind(), ErrorKind::InvalidSignature) {
                        break;
                    }
                }
            }
        }
        Err(refusal)
    }
}

/// The library's own words may quote the token.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "the token's signature is not by a key that is known here",
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet (nbf)",
        ErrorKind::InvalidAudience => "the token is for another audience (aud)",
        ErrorKind::InvalidIssuer => "the token is from another issuer (iss)",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => "the token has no exp, which is required, or it is no time",
            "sub" => "the token has no sub, which is required, or it is no text",
            "aud" => "the token has no aud, which is required here, or it is no text",
            _ => "the token has no iss, which is required here, or it is no text",
        },
        ErrorKind::InvalidClaimFormat(_) => "the token's exp or nbf is no time",
        _ => "the token cannot be read",
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64_URL;
    use ring::hmac;

    use super::*;

    const SECRETS: [&str; 2] = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"];

    fn token(secret: &str, claims: &str) -> String {
        let message = [r#"{"alg":"HS256"}"#, claims].map(|part| BASE64_URL.encode(part)).join(".");
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        format!("{message}.{}", BASE64_URL.encode(hmac::sign(&key, message.as_bytes())))
    }

    #[test]
    fn of_several_keys_the_one_that_has_signed_says_what_is_wrong() {
        let keys = SECRETS.map(Key::of_secret);
        let config = Config { keys: Keys::One(keys[0].clone()), audiences: Vec::new(), issuers: Vec::new() };
        let jwt = Jwt::start(config).unwrap();
        let [one, other] = &keys;
        for order in [[one, other], [other, one]] {
            let why = |secret: &str, claims: &str| {
                let token = token(secret, claims);
                let checked = jwt.check(&token, &decode_header(&token).unwrap(), order);
                checked.err().map(|refusal| refusal.message)
            };
            for secret in SECRETS {
                assert_eq!(why(secret, r#"{"sub":"42","exp":9999999999}"#), None);
                assert_eq!(why(secret, r#"{"sub":"42","exp":1}"#).unwrap(), "the token has expired");
            }
            let stranger = why("another", r#"{"sub":"42","exp":1}"#).unwrap();
            assert_eq!(stranger, "the token's signature is not by a key that is known here");
        }
    }
}
