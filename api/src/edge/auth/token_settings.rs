//! Settings of tokens: their keys, and the claims that a token must have.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::builder::NonEmptyStringValueParser;
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation, encode};
use runtime::settings::duration;
use serde_json::{Map, Value, json};

use super::claims::{ClaimSettings, Claims, LEEWAY};

/// A key must be at least as long as the hash (RFC 7518, section 3.2). Shorter secrets can be guessed offline.
const MIN_SECRET_BYTES: usize = 32;

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Identity")]
pub struct TokenSettings {
    /// Secret that signs HS256 tokens, at least 32 bytes
    #[arg(long, env, hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// URL of the public keys (JWKS) for tokens signed with RSA, P-256, P-384 or Ed25519 keys, instead of JWT_SECRET
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub jwt_jwks_url: Option<String>,
    /// Shortest time between two fetches of the public keys
    #[arg(long, env, default_value = "10s", value_parser = duration)]
    pub jwt_jwks_cooldown: Duration,
    /// Required value of the claim `iss` (unset: any)
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub jwt_issuer: Option<String>,
    /// Required value of the claim `aud` (unset: any)
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub jwt_audience: Option<String>,
    #[command(flatten)]
    pub claims: ClaimSettings,
}

impl TokenSettings {
    pub(super) fn secret(&self) -> anyhow::Result<Option<&str>> {
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
        let ClaimSettings { jwt_scope_claim, jwt_scope_prefix, jwt_client_claim, .. } = &self.claims;
        let scope: Vec<_> = scope.split_whitespace().map(|scope| jwt_scope_prefix.clone() + scope).collect();
        let mut claims = json!({ "sub": subject, "iat": now, "exp": now + ttl.as_secs() });
        claims[jwt_scope_claim] = json!(scope.join(" "));
        let optional = [
            (jwt_client_claim.as_str(), client),
            ("client_id", self.claims.jwt_oauth_clients.first().map(String::as_str)),
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

    /// # Errors
    /// Why these settings refuse a token with these claims.
    pub fn check(&self, claims: Map<String, Value>) -> Result<(), String> {
        Claims::from(claims).identity(&self.claims).map(drop)
    }

    /// A sentence about settings that no token can meet.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        let urls = [&self.jwt_issuer, &self.jwt_jwks_url];
        let is_cognito = urls.into_iter().flatten().any(|url| url.contains("://cognito-idp."));
        (is_cognito && self.jwt_audience.is_some()).then_some(
            "JWT_AUDIENCE refuses all access tokens of Amazon Cognito, which have no claim `aud`: set JWT_OAUTH_CLIENTS instead",
        )
    }

    pub(super) fn validation(&self) -> Validation {
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
