//! Verifies JSON Web Tokens and turns their claims into an identity.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use quick_cache::sync::Cache;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::warn;

use super::claims::{ClaimSettings, Claims};
use super::jwks::{PublishedKey, PublishedKeys};
use super::{Identity, InvalidToken, TokenSettings};

/// Longer tokens are refused, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Verified tokens in the cache, some hundred bytes each.
const CACHED_TOKENS: usize = 10_000;
/// How long a verified token is cached, and so how long it stays valid after the cached keys have lost a withdrawn key.
const CACHE_TIME: Duration = Duration::from_secs(60);

pub struct Authenticator {
    keys: Keys,
    validation: Validation,
    claims: ClaimSettings,
    /// Verified tokens by their SHA-256, and when each was verified.
    verified: Cache<[u8; 32], (Arc<Identity>, Instant)>,
}

enum Keys {
    Secret(DecodingKey),
    Published(Arc<PublishedKeys>),
}

impl Authenticator {
    /// # Errors
    /// When the settings name no key or two, or when the published keys cannot be fetched.
    pub async fn new(settings: &TokenSettings) -> anyhow::Result<Authenticator> {
        let keys = match (settings.secret()?, &settings.jwt_jwks_url) {
            (Some(_), Some(_)) => {
                bail!("JWT_SECRET and JWT_JWKS_URL are both set: set only the one that your tokens are signed with")
            }
            (None, None) => {
                bail!("JWT_SECRET is not set, and neither is JWT_JWKS_URL; `openssl rand -hex 32` prints a good secret")
            }
            (Some(secret), None) => Keys::Secret(DecodingKey::from_secret(secret.as_bytes())),
            (None, Some(url)) => Keys::Published(PublishedKeys::fetch(url, settings.jwt_jwks_cooldown).await?),
        };
        if let Some(contradiction) = settings.contradiction() {
            warn!("{contradiction}");
        }
        let (validation, claims) = (settings.validation(), settings.claims.clone());
        Ok(Authenticator { keys, validation, claims, verified: Cache::new(CACHED_TOKENS) })
    }

    /// How the claims of a token are read.
    pub fn claims(&self) -> &ClaimSettings {
        &self.claims
    }

    /// The identity of a token that was verified less than a minute ago.
    pub fn cached(&self, token: &str) -> Option<Arc<Identity>> {
        self.find(&hash(token)?)
    }

    fn find(&self, hash: &[u8; 32]) -> Option<Arc<Identity>> {
        let (identity, verified_at) = self.verified.get(hash)?;
        (verified_at.elapsed() < CACHE_TIME && SystemTime::now() < identity.expires).then_some(identity)
    }

    /// Verifies a token, or finds it in the cache.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Identity>, InvalidToken> {
        let Some(hash) = hash(token) else {
            return Err(InvalidToken::because("it is longer than 8 KiB"));
        };
        if let Some(identity) = self.find(&hash) {
            return Ok(identity);
        }
        let claims = self.verify(token).await.map_err(|fault| InvalidToken::because(&fault.reason()))?;
        let identity = Arc::new(claims.identity(&self.claims).map_err(|reason| InvalidToken::because(&reason))?);
        self.verified.insert(hash, (identity.clone(), Instant::now()));
        Ok(identity)
    }

    async fn verify(&self, token: &str) -> Result<Claims, Fault> {
        let header = decode_header(token)?;
        // A receiver must refuse a token with an extension that it does not know (RFC 7515, section 4.1.11). We know none, so even
        // null is refused.
        if header_parameters(token)?.contains_key("crit") {
            return Err(Fault::CriticalExtension);
        }
        // The key determines the algorithms, never the token: `decode` compares the token's algorithm with them.
        let keys = match &self.keys {
            Keys::Secret(key) => return Ok(self.verify_with(token, key, vec![Algorithm::HS256])?),
            Keys::Published(keys) => keys,
        };
        let id = header.kid.as_deref();
        let found = keys.find(id).await;
        let fetched_at = keys.fetched_at();
        match self.verify_with_any(token, &header, found) {
            // A key without an id may be new.
            Err(Fault::Invalid(error)) if *error.kind() == ErrorKind::InvalidSignature => {
                match keys.find_newer(id, fetched_at).await {
                    Some(newer) => self.verify_with_any(token, &header, newer),
                    None => Err(error.into()),
                }
            }
            verified => verified,
        }
    }

    fn verify_with_any(&self, token: &str, header: &Header, keys: Vec<PublishedKey>) -> Result<Claims, Fault> {
        if keys.is_empty() {
            return Err(Fault::UnknownKey);
        }
        let mut verified = Err(ErrorKind::InvalidAlgorithm.into());
        for PublishedKey { key, algorithms, .. } in keys.into_iter().filter(|key| key.algorithms.contains(&header.alg))
        {
            verified = self.verify_with(token, &key, algorithms);
            if !verified.as_ref().is_err_and(|error| *error.kind() == ErrorKind::InvalidSignature) {
                break;
            }
        }
        Ok(verified?)
    }

    fn verify_with(&self, token: &str, key: &DecodingKey, algorithms: Vec<Algorithm>) -> Result<Claims, Error> {
        let validation = Validation { algorithms, ..self.validation.clone() };
        decode(token, key, &validation).map(|token| token.claims)
    }
}

/// The SHA-256 of a token; `None` if it is too long.
fn hash(token: &str) -> Option<[u8; 32]> {
    (token.len() <= MAX_TOKEN_BYTES).then(|| Sha256::digest(token).into())
}

/// Everything in the header of a token, which must be an object.
fn header_parameters(token: &str) -> Result<Map<String, Value>, Error> {
    let header = token.split('.').next().and_then(|header| BASE64_URL_SAFE_NO_PAD.decode(header).ok());
    Ok(serde_json::from_slice(&header.unwrap_or_default())?)
}

/// Why a token is refused.
enum Fault {
    Invalid(Error),
    CriticalExtension,
    UnknownKey,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Invalid(error)
    }
}

impl Fault {
    /// A sentence without any part of the token: errors of parsers quote what they cannot read.
    fn reason(&self) -> String {
        let error = match self {
            Fault::Invalid(error) => error,
            Fault::CriticalExtension => return "it has critical extensions (`crit`)".into(),
            Fault::UnknownKey => return "no published key has its key id (`kid`)".into(),
        };
        match error.kind() {
            ErrorKind::InvalidSignature => "its signature is wrong".into(),
            ErrorKind::InvalidAlgorithm => "no key is used with its algorithm".into(),
            ErrorKind::ExpiredSignature => "it has expired (`exp`)".into(),
            ErrorKind::ImmatureSignature => "it is not valid yet (`nbf`)".into(),
            ErrorKind::InvalidIssuer => "its issuer (`iss`) is not JWT_ISSUER".into(),
            ErrorKind::InvalidAudience => "its audience (`aud`) does not include JWT_AUDIENCE".into(),
            ErrorKind::MissingRequiredClaim(claim) => format!("the claim `{claim}` is missing or malformed"),
            ErrorKind::InvalidClaimFormat(claim) => format!("the claim `{claim}` is malformed"),
            ErrorKind::Json(error) if error.to_string().starts_with("duplicate field") => {
                "a claim is given twice".into()
            }
            ErrorKind::Json(_) => "its header or a claim has an unexpected form".into(),
            _ => "it is not a token (JWT)".into(),
        }
    }
}
