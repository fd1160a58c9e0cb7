//! Verifies JSON Web Tokens and turns their claims into an identity.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::builder::NonEmptyStringValueParser;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use quick_cache::sync::Cache;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::debug;

use super::jwks::PublishedKeys;
use super::{Identity, InvalidToken};

/// How far clocks may differ when `exp` and `nbf` are checked.
const LEEWAY: Duration = Duration::from_secs(10);
/// The latest expiry that is used, in the year 2286: `SystemTime` overflows on later ones.
const MAX_EXPIRY: Duration = Duration::from_secs(10_000_000_000);
/// A key must be at least as long as the hash (RFC 7518, section 3.2). Shorter secrets can be guessed offline.
const MIN_SECRET_BYTES: usize = 32;
/// Verified tokens in the cache, some hundred bytes each.
const CACHED_TOKENS: usize = 10_000;
/// How long a verified token is cached. A withdrawn key stops working after this time.
const CACHE_TIME: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Identity")]
pub struct TokenSettings {
    /// Secret that signs HS256 tokens, at least 32 bytes
    #[arg(long, env, hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// URL of the public keys (JWKS) for RS256, ES256 and EdDSA tokens, instead of JWT_SECRET
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub jwt_jwks_url: Option<String>,
    /// Shortest time between two fetches of the public keys
    #[arg(long, env, default_value = "10s", value_parser = humantime::parse_duration)]
    pub jwt_jwks_cooldown: Duration,
    /// Required value of the claim `iss` (unset: any)
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub jwt_issuer: Option<String>,
    /// Required value of the claim `aud` (unset: any)
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub jwt_audience: Option<String>,
    /// Prefix that is removed from each scope, such as Cognito's "my-resource-server/"
    #[arg(long, env, default_value = "", hide_default_value = true)]
    pub jwt_scope_prefix: String,
    /// Claim with the id of the only client that the token may act for
    #[arg(long, env, default_value = "orders_client", value_parser = NonEmptyStringValueParser::new())]
    pub jwt_client_claim: String,
}

impl TokenSettings {
    fn secret(&self) -> anyhow::Result<Option<&str>> {
        let Some(secret) = self.jwt_secret.as_deref() else { return Ok(None) };
        ensure!(
            secret.len() >= MIN_SECRET_BYTES,
            "JWT_SECRET has {} bytes and needs at least {MIN_SECRET_BYTES}; `openssl rand -hex 32` prints a good one",
            secret.len()
        );
        Ok(Some(secret))
    }

    /// Creates an HS256 token for development that these settings accept.
    ///
    /// # Errors
    /// When `JWT_SECRET` is unset or too short.
    pub fn mint(&self, subject: &str, scope: &str, client: Option<&str>, ttl: Duration) -> anyhow::Result<String> {
        let secret = self.secret()?.context("JWT_SECRET is not set: it signs the token")?;
        let now = jsonwebtoken::get_current_timestamp();
        let scope: Vec<_> = scope.split_whitespace().map(|scope| self.jwt_scope_prefix.clone() + scope).collect();
        let mut claims = json!({ "sub": subject, "iat": now, "exp": now + ttl.as_secs(), "scope": scope.join(" ") });
        let optional = [
            (self.jwt_client_claim.as_str(), client),
            ("iss", self.jwt_issuer.as_deref()),
            ("aud", self.jwt_audience.as_deref()),
        ];
        for (claim, value) in optional {
            if let Some(value) = value {
                claims[claim] = json!(value);
            }
        }
        Ok(encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()))?)
    }

    fn validation(&self) -> Validation {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.required_spec_claims.insert("sub".into());
        if let Some(issuer) = &self.jwt_issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        validation.validate_aud = self.jwt_audience.is_some();
        if let Some(audience) = &self.jwt_audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        validation
    }
}

pub struct Authenticator {
    keys: Keys,
    validation: Validation,
    scope_prefix: String,
    client_claim: String,
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
        Ok(Authenticator {
            keys,
            validation: settings.validation(),
            scope_prefix: settings.jwt_scope_prefix.clone(),
            client_claim: settings.jwt_client_claim.clone(),
            verified: Cache::new(CACHED_TOKENS),
        })
    }

    /// Verifies a token, or finds it in the cache.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Identity>, InvalidToken> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some((identity, verified_at)) = self.verified.get(&hash)
            && verified_at.elapsed() < CACHE_TIME
            && SystemTime::now() < identity.expires
        {
            return Ok(identity);
        }
        let identity = Arc::new(self.verify(token).await?);
        self.verified.insert(hash, (identity.clone(), Instant::now()));
        Ok(identity)
    }

    async fn verify(&self, token: &str) -> Result<Identity, InvalidToken> {
        let invalid = |reason: &dyn std::fmt::Display| {
            debug!("invalid token: {reason}");
            InvalidToken
        };
        // The key determines the algorithm, never the token: `decode` compares the token's algorithm with it.
        let (key, algorithm) = match &self.keys {
            Keys::Secret(key) => (key.clone(), Algorithm::HS256),
            Keys::Published(keys) => {
                let header = decode_header(token).map_err(|error| invalid(&error))?;
                keys.find(header.kid.as_deref()).await.ok_or_else(|| invalid(&"unknown key"))?
            }
        };
        let validation = Validation { algorithms: vec![algorithm], ..self.validation.clone() };
        let claims = decode::<Map<String, Value>>(token, &key, &validation).map_err(|error| invalid(&error))?.claims;
        self.identity(&claims).ok_or_else(|| invalid(&"sub, scope or client is not a string, or sub is empty"))
    }

    fn identity(&self, claims: &Map<String, Value>) -> Option<Identity> {
        // A claim of an unexpected type makes the token invalid: ignoring it could widen the permissions.
        let text = |claim: &str| claims.get(claim).map_or(Some(None), |value| value.as_str().map(Some));
        let subject = text("sub")?.filter(|subject| !subject.is_empty())?.into();
        let scopes = text("scope")?.unwrap_or("").split_whitespace();
        let scopes = scopes.filter_map(|scope| scope.strip_prefix(&self.scope_prefix)).map(Into::into).collect();
        let client = text(&self.client_claim)?.map(Into::into);
        let expires = Duration::try_from_secs_f64(claims.get("exp")?.as_f64()?).ok()?.saturating_add(LEEWAY);
        let expires = UNIX_EPOCH + expires.min(MAX_EXPIRY);
        Some(Identity { subject, scopes, client, expires })
    }
}
