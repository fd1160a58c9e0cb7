//! Public keys from a JWKS document. They are fetched again when a token names an unknown key, and when they are old.

use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::redirect::Policy;
use runtime::one_line;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

/// Keys older than this are fetched again before they are used, so that a withdrawn key stops working.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Keys older than this are not used, even if no newer ones can be fetched.
const MAX_STALE_AGE: Duration = Duration::from_secs(3_600);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token waits for newer keys after they could not be fetched.
const BRIEF: Duration = Duration::from_secs(1);
/// Bytes of the modulus of an RSA key: from 2048 to 8192 bits, and a leading zero that some providers write.
const RSA_BYTES: RangeInclusive<usize> = 256..=1_025;
/// Largest document: room for hundreds of keys.
const MAX_BYTES: usize = 1024 * 1024;

pub struct PublishedKeys {
    url: String,
    http: reqwest::Client,
    cooldown: Duration,
    fetched: RwLock<Fetched>,
    /// Held while fetching, so that concurrent requests share one fetch.
    fetching: Mutex<()>,
}

struct Fetched {
    keys: Vec<PublishedKey>,
    at: Instant,
    /// When they were last fetched, successfully or not.
    tried_at: Instant,
}

#[derive(Clone)]
pub struct PublishedKey {
    id: Option<String>,
    pub key: DecodingKey,
    /// The only algorithms that the key is used with.
    pub algorithms: Vec<Algorithm>,
}

/// Each entry is parsed for itself, because a malformed one must not spoil the others.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

impl PublishedKeys {
    /// # Errors
    /// When the document cannot be fetched or has no usable key.
    pub async fn fetch(url: &str, cooldown: Duration) -> anyhow::Result<Arc<PublishedKeys>> {
        let http = reqwest::Client::builder().timeout(FETCH_TIMEOUT).redirect(Policy::none()).build()?;
        let fetched = RwLock::new(Fetched { keys: Vec::new(), at: Instant::now(), tried_at: Instant::now() });
        let keys = PublishedKeys { url: url.into(), http, cooldown, fetched, fetching: Mutex::default() };
        keys.load().await.context("cannot fetch the keys at JWT_JWKS_URL")?;
        Ok(Arc::new(keys))
    }

    async fn load(&self) -> anyhow::Result<()> {
        let document = async {
            let mut response = self.http.get(&self.url).send().await?.error_for_status()?;
            let mut document = Vec::new();
            while document.len() <= MAX_BYTES
                && let Some(chunk) = response.chunk().await?
            {
                document.extend_from_slice(&chunk);
            }
            Ok::<_, reqwest::Error>((response.status(), document))
        };
        // The URL may have a password.
        let (status, document) = document.await.map_err(reqwest::Error::without_url)?;
        // Another host would be trusted with all tokens.
        ensure!(status.is_success(), "the response has status {status}, and redirects are not followed");
        ensure!(document.len() <= MAX_BYTES, "the document is larger than {MAX_BYTES} bytes");
        let keys = parse(&document)?;
        let mut fetched = self.fetched.write().unwrap_or_else(PoisonError::into_inner);
        (fetched.keys, fetched.at) = (keys, Instant::now());
        Ok(())
    }

    /// Fetches the keys if the last attempt is older than the cooldown.
    async fn refresh_after_cooldown(self: Arc<Self>) {
        let _guard = self.fetching.lock().await;
        if self.fetched.read().unwrap_or_else(PoisonError::into_inner).tried_at.elapsed() <= self.cooldown {
            return;
        }
        if let Err(error) = self.load().await {
            warn!("cannot refresh the keys at JWT_JWKS_URL, using the previous ones: {}", one_line(error.as_ref()));
        }
        self.fetched.write().unwrap_or_else(PoisonError::into_inner).tried_at = Instant::now();
    }

    /// When the keys were fetched.
    pub fn fetched_at(&self) -> Instant {
        self.fetched.read().unwrap_or_else(PoisonError::into_inner).at
    }

    /// The keys that may have signed a token: those with the key id that it names, or else those without an id. Without a key
    /// id, it may be any.
    pub async fn find(self: &Arc<Self>, id: Option<&str>) -> Vec<PublishedKey> {
        let cached = self.cached(id);
        if !cached.is_empty() && self.fetched_at().elapsed() <= MAX_AGE {
            return cached;
        }
        match !cached.is_empty() && self.has_failed() {
            // The server may hang, and the keys that we have are good for a while.
            true => drop(timeout(BRIEF, self.refresh()).await),
            false => self.refresh().await,
        }
        self.cached(id)
    }

    /// Whether the last attempt to replace old keys failed.
    fn has_failed(&self) -> bool {
        let fetched = self.fetched.read().unwrap_or_else(PoisonError::into_inner);
        fetched.tried_at.saturating_duration_since(fetched.at) > MAX_AGE
    }

    /// The same, after another fetch if the cooldown allows it. `None` if no keys were fetched after `since`.
    pub async fn find_newer(self: &Arc<Self>, id: Option<&str>, since: Instant) -> Option<Vec<PublishedKey>> {
        self.refresh().await;
        (self.fetched_at() > since).then(|| self.cached(id))
    }

    /// Fetches the keys in a task of its own, which goes on for other requests when this one is cancelled.
    async fn refresh(self: &Arc<Self>) {
        let _ = tokio::spawn(self.clone().refresh_after_cooldown()).await;
    }

    fn cached(&self, id: Option<&str>) -> Vec<PublishedKey> {
        let fetched = self.fetched.read().unwrap_or_else(PoisonError::into_inner);
        if fetched.at.elapsed() > MAX_STALE_AGE {
            return Vec::new();
        }
        let select = |wanted: &dyn Fn(&&PublishedKey) -> bool| fetched.keys.iter().filter(wanted).cloned().collect();
        let named: Vec<_> = select(&|key| id.is_none() || key.id.as_deref() == id);
        if named.is_empty() { select(&|key| key.id.is_none()) } else { named }
    }
}

/// Reads the keys of a document.
///
/// # Errors
/// When it is malformed or has no usable key.
pub fn parse(document: &[u8]) -> anyhow::Result<Vec<PublishedKey>> {
    let document: Document = serde_json::from_slice(document).context("the document is not a set of keys in JSON")?;
    let keys = usable_keys(document.keys);
    ensure!(!keys.is_empty(), "the document has no RSA, P-256, P-384 or Ed25519 key for signatures");
    Ok(keys)
}

/// The keys that can verify tokens. Other entries are skipped, also malformed ones: a provider may publish keys of any kind.
fn usable_keys(entries: Vec<&RawValue>) -> Vec<PublishedKey> {
    let count = entries.len();
    let keys: Vec<_> = entries
        .into_iter()
        .filter_map(|entry| serde_json::from_str::<Jwk>(entry.get()).ok())
        .filter(is_for_signatures)
        .filter_map(|jwk| {
            let (id, algorithms) = (jwk.common.key_id.clone(), algorithms(&jwk));
            let key = DecodingKey::from_jwk(&jwk).ok().filter(|_| !algorithms.is_empty())?;
            Some(PublishedKey { id, key, algorithms })
        })
        .collect();
    debug!(usable = keys.len(), skipped = count - keys.len(), "fetched the keys at JWT_JWKS_URL");
    keys
}

fn is_for_signatures(jwk: &Jwk) -> bool {
    let operations = jwk.common.key_operations.as_ref();
    matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature))
        && operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

/// The algorithms of the key's family, or the one that it names. None if its numbers do not have the size of its family (RFC 7518,
/// sections 3.3 and 6.2.1; RFC 8037, section 2): then it verifies nothing. Keys of HMAC are secrets, which nobody publishes.
fn algorithms(jwk: &Jwk) -> Vec<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    use EllipticCurve::{Ed25519, P256, P384};
    let bytes = |number: &str| BASE64_URL_SAFE_NO_PAD.decode(number).map_or(0, |bytes| bytes.len());
    let family: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(key) if RSA_BYTES.contains(&bytes(&key.n)) => {
            &[RS256, RS384, RS512, PS256, PS384, PS512]
        }
        AlgorithmParameters::EllipticCurve(key) => match (&key.curve, bytes(&key.x), bytes(&key.y)) {
            (P256, 32, 32) => &[ES256],
            (P384, 48, 48) => &[ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == Ed25519 && bytes(&key.x) == 32 => &[EdDSA],
        _ => &[],
    };
    let named = jwk.common.key_algorithm;
    family.iter().copied().filter(|algorithm| named.is_none_or(|named| named == (*algorithm).into())).collect()
}
