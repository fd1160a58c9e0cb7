//! Public keys from a JWKS document. They are fetched again when a token names an unknown key, and when they are old.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey};
use runtime::one_line;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

/// Keys older than this are fetched again, so that a withdrawn key stops working.
const MAX_AGE: Duration = Duration::from_secs(600);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

pub struct PublishedKeys {
    url: String,
    http: reqwest::Client,
    cooldown: Duration,
    fetched: RwLock<Fetched>,
    /// Held while fetching, so that concurrent requests share one fetch.
    fetching: Mutex<()>,
}

struct Fetched {
    /// By key id. Under `None` is the only key, if there is just one.
    keys: HashMap<Option<String>, (DecodingKey, Algorithm)>,
    /// When they were last fetched, successfully or not.
    at: Instant,
}

impl PublishedKeys {
    /// # Errors
    /// When the document cannot be fetched or has no usable key.
    pub async fn fetch(url: &str, cooldown: Duration) -> anyhow::Result<Arc<PublishedKeys>> {
        let http = reqwest::Client::builder().timeout(FETCH_TIMEOUT).build()?;
        let fetched = RwLock::new(Fetched { keys: HashMap::new(), at: Instant::now() });
        let keys = PublishedKeys { url: url.into(), http, cooldown, fetched, fetching: Mutex::default() };
        keys.refresh().await.context("cannot fetch the keys at JWT_JWKS_URL")?;
        Ok(Arc::new(keys))
    }

    async fn refresh(&self) -> anyhow::Result<()> {
        let document: JwkSet = self.http.get(&self.url).send().await?.error_for_status()?.json().await?;
        let mut keys: HashMap<_, _> = document
            .keys
            .iter()
            .filter_map(|key| Some((key.common.key_id.clone(), (DecodingKey::from_jwk(key).ok()?, algorithm(key)?))))
            .collect();
        ensure!(!keys.is_empty(), "the document has no RS256, ES256 or EdDSA key");
        // A token need not name its key if there is only one.
        if let [only] = keys.values().cloned().collect::<Vec<_>>().as_slice() {
            keys.insert(None, only.clone());
        }
        self.fetched.write().unwrap_or_else(PoisonError::into_inner).keys = keys;
        Ok(())
    }

    /// Fetches the keys if the last attempt is older than `age`.
    async fn refresh_after(self: Arc<Self>, age: Duration) {
        let _guard = self.fetching.lock().await;
        if self.age() <= age {
            return;
        }
        if let Err(error) = self.refresh().await {
            warn!("cannot refresh the keys at JWT_JWKS_URL, using the previous ones: {}", one_line(error.as_ref()));
        }
        self.fetched.write().unwrap_or_else(PoisonError::into_inner).at = Instant::now();
    }

    fn age(&self) -> Duration {
        self.fetched.read().unwrap_or_else(PoisonError::into_inner).at.elapsed()
    }

    pub async fn find(self: &Arc<Self>, id: Option<&str>) -> Option<(DecodingKey, Algorithm)> {
        let id = id.map(str::to_owned);
        let find = || self.fetched.read().unwrap_or_else(PoisonError::into_inner).keys.get(&id).cloned();
        let cached = find();
        let age = self.age();
        // Fetches are spawned: they go on for other requests when this one is cancelled.
        if cached.is_none() {
            let _ = tokio::spawn(self.clone().refresh_after(self.cooldown)).await;
            return find();
        }
        if age > MAX_AGE {
            let refresh = tokio::spawn(self.clone().refresh_after(MAX_AGE));
            // After an idle time the keys may be hours old, and a key may have been withdrawn since.
            if age > 2 * MAX_AGE {
                let _ = refresh.await;
                return find();
            }
        }
        cached
    }
}

/// The only algorithm that a key is used with.
fn algorithm(key: &Jwk) -> Option<Algorithm> {
    match &key.algorithm {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Some(Algorithm::ES256),
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Some(Algorithm::EdDSA),
        _ => None,
    }
}
