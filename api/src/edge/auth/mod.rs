//! Who is asking: bearer tokens (JWT, RFC 7519) verified with a shared secret or with published keys (JWKS, RFC 7517).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::builder::NonEmptyStringValueParser;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use quick_cache::sync::Cache;
use runtime::one_line;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

/// What a token may allow. Others are ignored.
pub const PLACE_ORDERS: &str = "orders:place";
pub const READ_CLIENTS: &str = "clients:read";
pub const WRITE_CLIENTS: &str = "clients:write";
pub const READ_PRODUCTS: &str = "products:read";
pub const WRITE_PRODUCTS: &str = "products:write";
pub const READ_SALES: &str = "sales:read";
/// Where only trusted documents run: others as well.
pub const EXPLORE: &str = "graphql:explore";
pub const SCOPES: [&str; 7] =
    [PLACE_ORDERS, READ_CLIENTS, WRITE_CLIENTS, READ_PRODUCTS, WRITE_PRODUCTS, READ_SALES, EXPLORE];

/// How far clocks may differ when `exp` and `nbf` are checked.
const LEEWAY: Duration = Duration::from_secs(10);
/// As late as a token can expire here: in the year 2286.
const FOREVER: Duration = Duration::from_secs(10_000_000_000);
/// Shorter secrets can be guessed offline from any token. RFC 7518, section 3.2: as long as the hash at least.
const MIN_SECRET_BYTES: usize = 32;
/// Known keys are fetched anew after this time, so that a withdrawn key stops working.
const KEYS_LIFETIME: Duration = Duration::from_secs(600);
/// Tokens remembered at most, some hundred bytes each, and for how long: a key that is withdrawn must stop working.
const VERIFIED: usize = 10_000;
const VERIFIED_FOR: Duration = Duration::from_secs(60);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Identity")]
pub struct TokenSettings {
    /// Secret of HS256 tokens, at least 32 bytes
    #[arg(long, env, hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// Where the public keys of RS256, ES256 and EdDSA tokens are published; instead of a secret
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub jwt_jwks_url: Option<String>,
    /// Least time between two fetches of those keys, however many tokens name an unknown one
    #[arg(long, env, default_value = "10s", value_parser = humantime::parse_duration)]
    pub jwt_jwks_cooldown: Duration,
    /// Required `iss` of tokens; unset accepts any
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub jwt_issuer: Option<String>,
    /// Required `aud` of tokens; unset accepts any
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub jwt_audience: Option<String>,
    /// Stripped from each scope, such as Cognito's "my-resource-server/"
    #[arg(long, env, default_value = "", hide_default_value = true)]
    pub jwt_scope_prefix: String,
    /// Claim that narrows a token to one client
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

    /// Makes an HS256 token that these settings accept, for development.
    pub fn mint(&self, subject: &str, scope: &str, client: Option<&str>, ttl: Duration) -> anyhow::Result<String> {
        let secret = self.secret()?.context("JWT_SECRET is not set: a token is minted from it")?;
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
}

/// Who sent a request, and what its token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub subject: Arc<str>,
    pub scopes: Vec<String>,
    /// The only client the token may act for; `None` for any.
    pub client: Option<String>,
    /// What the token allows ends then.
    pub expires: SystemTime,
}

impl Identity {
    pub fn may(&self, scope: &str) -> bool {
        self.scopes.iter().any(|allowed| allowed == scope)
    }
}

/// The token proves nothing. Why is logged, and not told to whoever sent it.
#[derive(Debug)]
pub struct InvalidToken;

pub struct Authenticator {
    keys: Keys,
    validation: Validation,
    scope_prefix: String,
    client_claim: String,
    /// By the SHA-256 of a token: whom it is for, and when that was found out.
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
                bail!("JWT_SECRET and JWT_JWKS_URL are both set: set the one that your tokens are signed with")
            }
            (None, None) => {
                bail!("JWT_SECRET is not set, nor JWT_JWKS_URL; `openssl rand -hex 32` prints a good secret")
            }
            (Some(secret), None) => Keys::Secret(DecodingKey::from_secret(secret.as_bytes())),
            (None, Some(url)) => Keys::Published(PublishedKeys::fetch(url, settings.jwt_jwks_cooldown).await?),
        };
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.required_spec_claims.insert("sub".into());
        if let Some(issuer) = &settings.jwt_issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        validation.validate_aud = settings.jwt_audience.is_some();
        if let Some(audience) = &settings.jwt_audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        let (scope_prefix, client_claim) = (settings.jwt_scope_prefix.clone(), settings.jwt_client_claim.clone());
        Ok(Authenticator { keys, validation, scope_prefix, client_claim, verified: Cache::new(VERIFIED) })
    }

    /// Who a token is for. One that was verified a moment ago is not verified again.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Identity>, InvalidToken> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some((identity, at)) = self.verified.get(&hash)
            && at.elapsed() < VERIFIED_FOR
            && SystemTime::now() < identity.expires
        {
            return Ok(identity);
        }
        let identity = Arc::new(self.verify(token).await?);
        self.verified.insert(hash, (identity.clone(), Instant::now()));
        Ok(identity)
    }

    async fn verify(&self, token: &str) -> Result<Identity, InvalidToken> {
        let refuse = |why: &dyn std::fmt::Display| {
            debug!("token refused: {why}");
            InvalidToken
        };
        // The algorithm comes from our key, never from the token: `decode` compares the token's with this one.
        let (key, algorithm) = match &self.keys {
            Keys::Secret(key) => (key.clone(), Algorithm::HS256),
            Keys::Published(keys) => {
                let header = decode_header(token).map_err(|error| refuse(&error))?;
                keys.find(header.kid.as_deref()).await.ok_or_else(|| refuse(&"its key is unknown"))?
            }
        };
        let validation = Validation { algorithms: vec![algorithm], ..self.validation.clone() };
        let claims = decode::<Map<String, Value>>(token, &key, &validation).map_err(|error| refuse(&error))?.claims;
        self.identity(&claims).ok_or_else(|| refuse(&"sub, scope or client is not a string, or sub is empty"))
    }

    fn identity(&self, claims: &Map<String, Value>) -> Option<Identity> {
        // A claim of another type than expected must not widen what the token allows: it refuses the token.
        let text = |claim: &str| claims.get(claim).map_or(Some(None), |value| value.as_str().map(Some));
        let subject = text("sub")?.filter(|subject| !subject.is_empty())?.into();
        let scopes = text("scope")?.unwrap_or("").split_whitespace();
        let scopes = scopes.filter_map(|scope| scope.strip_prefix(&self.scope_prefix)).map(Into::into).collect();
        let client = text(&self.client_claim)?.map(Into::into);
        let expires = Duration::try_from_secs_f64(claims.get("exp")?.as_f64()?).ok()?.saturating_add(LEEWAY);
        let expires = UNIX_EPOCH + expires.min(FOREVER);
        Some(Identity { subject, scopes, client, expires })
    }
}

/// Keys from a JWKS document, fetched again when a token names an unknown one, or when they are old.
struct PublishedKeys {
    url: String,
    http: reqwest::Client,
    cooldown: Duration,
    fetched: RwLock<Fetched>,
    /// Held while fetching, so that one request fetches for all.
    fetching: Mutex<()>,
}

struct Fetched {
    keys: HashMap<Option<String>, (DecodingKey, Algorithm)>,
    /// When that was tried last.
    at: Instant,
}

impl PublishedKeys {
    async fn fetch(url: &str, cooldown: Duration) -> anyhow::Result<Arc<PublishedKeys>> {
        let http = reqwest::Client::builder().timeout(FETCH_TIMEOUT).build()?;
        let fetched = RwLock::new(Fetched { keys: HashMap::new(), at: Instant::now() });
        let keys = PublishedKeys { url: url.into(), http, cooldown, fetched, fetching: Mutex::default() };
        keys.refresh().await.context("cannot read the keys at JWT_JWKS_URL")?;
        Ok(Arc::new(keys))
    }

    async fn refresh(&self) -> anyhow::Result<()> {
        let document: JwkSet = self.http.get(&self.url).send().await?.error_for_status()?.json().await?;
        let mut keys: HashMap<_, _> = document
            .keys
            .iter()
            .filter_map(|key| Some((key.common.key_id.clone(), (DecodingKey::from_jwk(key).ok()?, algorithm(key)?))))
            .collect();
        ensure!(!keys.is_empty(), "there is no RS256, ES256 or EdDSA key in the document");
        // A token need not name its key where there is only one.
        if let [only] = keys.values().cloned().collect::<Vec<_>>().as_slice() {
            keys.insert(None, only.clone());
        }
        self.fetched.write().unwrap_or_else(PoisonError::into_inner).keys = keys;
        Ok(())
    }

    /// Fetches the keys, unless that was tried within `age`.
    async fn refresh_after(self: Arc<Self>, age: Duration) {
        let _alone = self.fetching.lock().await;
        if self.age() <= age {
            return;
        }
        if let Err(error) = self.refresh().await {
            warn!("cannot refresh the keys at JWT_JWKS_URL, keeping those known: {}", one_line(error.as_ref()));
        }
        self.fetched.write().unwrap_or_else(PoisonError::into_inner).at = Instant::now();
    }

    fn age(&self) -> Duration {
        self.fetched.read().unwrap_or_else(PoisonError::into_inner).at.elapsed()
    }

    async fn find(self: &Arc<Self>, id: Option<&str>) -> Option<(DecodingKey, Algorithm)> {
        let id = id.map(str::to_owned);
        let find = || self.fetched.read().unwrap_or_else(PoisonError::into_inner).keys.get(&id).cloned();
        let known = find();
        let age = self.age();
        // In tasks of their own: whoever asked may hang up, and the keys are for the others too.
        if known.is_none() {
            let _ = tokio::spawn(self.clone().refresh_after(self.cooldown)).await;
            return find();
        }
        if age > KEYS_LIFETIME {
            let refresh = tokio::spawn(self.clone().refresh_after(KEYS_LIFETIME));
            // After an idle time nobody vouches for what is known: a key may have been withdrawn hours ago.
            if age > 2 * KEYS_LIFETIME {
                let _ = refresh.await;
                return find();
            }
        }
        known
    }
}

/// The one algorithm a key is used with.
fn algorithm(key: &Jwk) -> Option<Algorithm> {
    match &key.algorithm {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Some(Algorithm::ES256),
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Some(Algorithm::EdDSA),
        _ => None,
    }
}
