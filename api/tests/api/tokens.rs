//! Authentication: tokens, claims and published keys.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use api::edge::auth::{Authenticator, Identity};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair,
};
use axum::response::Redirect;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use test_support::log::Log;
use tokio::net::TcpListener;
use tracing::Level;

use crate::support::{SECRET, token_settings};

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

fn claims() -> Value {
    json!({ "sub": "someone", "exp": now() + 60, "scope": "orders:place clients:read", "iss": "us", "aud": "orders" })
}

/// A token with exactly this header and these claims, signed with the secret.
fn signed(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

fn hs256(secret: &[u8], claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).unwrap()
}

async fn with_secret() -> Authenticator {
    let settings = ["--jwt-secret", SECRET, "--jwt-issuer", "us", "--jwt-audience", "orders"];
    Authenticator::new(&token_settings(&settings)).await.unwrap()
}

#[tokio::test]
async fn every_kind_of_invalid_token_is_rejected() {
    let authenticator = with_secret().await;
    let changed = |claim: &str, value: Value| {
        let mut claims = claims();
        claims[claim] = value;
        hs256(SECRET.as_bytes(), &claims)
    };
    let without = |claim: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(claim);
        hs256(SECRET.as_bytes(), &claims)
    };
    let good = hs256(SECRET.as_bytes(), &claims());
    assert!(authenticator.authenticate(&good).await.is_ok());
    assert!(authenticator.authenticate(&changed("aud", json!(["other", "orders"]))).await.is_ok());
    assert!(authenticator.authenticate(&changed("nbf", json!(now() - 60))).await.is_ok());
    assert!(authenticator.authenticate(&signed(r#"{"alg":"HS256"}"#, &claims().to_string())).await.is_ok());

    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{}.", part(json!({ "alg": "none", "typ": "JWT" })), part(claims()));
    let hs512 =
        encode(&Header::new(Algorithm::HS512), &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    let rejected = [
        ("expired", changed("exp", json!(now() - 60))),
        ("malformed exp", changed("exp", json!("tomorrow"))),
        ("negative exp", changed("exp", json!(-1))),
        ("null exp", changed("exp", Value::Null)),
        ("no exp", without("exp")),
        ("invisible character in sub", changed("sub", json!("a\u{202e}b"))),
        ("not yet valid", changed("nbf", json!(now() + 60))),
        ("malformed nbf", changed("nbf", json!("tomorrow"))),
        ("no sub", without("sub")),
        ("empty sub", changed("sub", json!(""))),
        ("sub with a control character", changed("sub", json!("a\0b"))),
        ("long sub", changed("sub", json!("x".repeat(256)))),
        ("sub of another type", changed("sub", json!(7))),
        ("wrong issuer", changed("iss", json!("them"))),
        ("no issuer", without("iss")),
        ("wrong audience", changed("aud", json!("others"))),
        ("no audience", without("aud")),
        ("scope of another type", changed("scope", json!(7))),
        ("null scope", changed("scope", Value::Null)),
        ("scopes of another type", changed("scope", json!(["orders:place", 7]))),
        ("exp in milliseconds", changed("exp", json!((now() + 60) * 1000))),
        ("exp after the year 3000", changed("exp", json!(40_000_000_000_u64))),
        ("longer than 8 KiB", changed("padding", json!("x".repeat(8_000)))),
        ("a claim twice", signed(r#"{"alg":"HS256"}"#, &claims().to_string().replace('{', r#"{"sub":"other","#))),
        ("exp twice", signed(r#"{"alg":"HS256"}"#, &claims().to_string().replace('{', r#"{"exp":1,"#))),
        ("an algorithm twice", signed(r#"{"alg":"HS256","alg":"HS256"}"#, &claims().to_string())),
        ("a critical extension", signed(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, &claims().to_string())),
        ("critical extensions that are none", signed(r#"{"alg":"HS256","crit":[]}"#, &claims().to_string())),
        ("critical extensions that are null", signed(r#"{"alg":"HS256","crit":null}"#, &claims().to_string())),
        ("a header that is an array", signed(r#"["JWT","HS256"]"#, &claims().to_string())),
        ("malformed crit", signed(r#"{"alg":"HS256","crit":"b64"}"#, &claims().to_string())),
        ("client of another type", changed("orders_client", json!(1))),
        ("null client", changed("orders_client", Value::Null)),
        ("wrong key", hs256(b"another secret of thirty-two bytes or more", &claims())),
        ("alg none", unsigned.clone()),
        ("alg none, signed", unsigned + good.rsplit('.').next().unwrap()),
        ("another algorithm of the family", hs512),
        ("cut", good[..good.len() - 1].to_owned()),
        ("not a token", "x.y.z".to_owned()),
        ("empty", String::new()),
    ];
    for (fault, token) in rejected {
        assert!(authenticator.authenticate(&token).await.is_err(), "{fault}");
    }
}

#[tokio::test]
async fn a_refused_token_is_explained_in_the_log_but_not_shown() {
    let authenticator = with_secret().await;
    let changed = |claim: &str, value: Value| {
        let mut claims = claims();
        claims[claim] = value;
        hs256(SECRET.as_bytes(), &claims)
    };
    let cases = [
        ("expired", changed("exp", json!(now() - 60))),
        ("milliseconds", changed("exp", json!((now() + 60) * 1000))),
        ("JWT_ISSUER", changed("iss", json!("them"))),
        ("JWT_AUDIENCE", changed("aud", json!("others"))),
        ("`sub`", changed("sub", json!(7))),
        ("unexpected form", changed("sub", json!(["private"]))),
        ("`scope` is neither", changed("scope", json!(7))),
        ("signature", hs256(b"another secret of thirty-two bytes or more", &claims())),
        ("crit", signed(r#"{"alg":"HS256","crit":["private"]}"#, "{}")),
        ("twice", signed(r#"{"alg":"HS256"}"#, r#"{"private":1,"private":2}"#)),
        ("unexpected form", signed(r#"{"alg":"private"}"#, "{}")),
        ("not a token", "private\nforged".to_owned()),
        ("8 KiB", "private".repeat(2_000)),
    ];
    for (reason, token) in cases {
        let log = Log::start(Level::INFO);
        assert!(authenticator.authenticate(&token).await.is_err());
        let lines = log.lines();
        assert!(lines.len() == 1 && lines[0].contains(reason) && !lines[0].contains("private"), "{reason}: {lines:?}");
    }
}

#[tokio::test]
async fn an_audience_that_no_token_can_have_is_reported_at_start() {
    let cognito = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_pool";
    let warnings = async |flags: &[&str]| {
        let log = Log::start(Level::WARN);
        Authenticator::new(&token_settings(&[&["--jwt-secret", SECRET], flags].concat())).await.unwrap();
        log.lines()
    };
    assert!(warnings(&["--jwt-issuer", cognito, "--jwt-audience", "app"]).await[0].contains("JWT_OAUTH_CLIENTS"));
    assert_eq!(warnings(&["--jwt-issuer", cognito, "--jwt-oauth-clients", "app"]).await, [""; 0]);
    assert_eq!(warnings(&["--jwt-issuer", "https://login.test", "--jwt-audience", "app"]).await, [""; 0]);
}

/// Also when it was verified a moment ago and is cached.
#[tokio::test]
async fn a_token_expires_even_when_it_is_cached() {
    let authenticator = with_secret().await;
    let mut claims = claims();
    claims["exp"] = json!(now() - 8); // ten seconds of clock difference are allowed
    let token = hs256(SECRET.as_bytes(), &claims);
    let identity = authenticator.authenticate(&token).await.unwrap();
    let deadline = identity.expires + Duration::from_secs(1);
    while authenticator.authenticate(&token).await.is_ok() {
        assert!(SystemTime::now() < deadline, "the token is still valid");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(SystemTime::now() >= identity.expires, "the token expired too early");
}

#[tokio::test]
async fn claims_become_an_identity() {
    let settings =
        token_settings(&["--jwt-secret", SECRET, "--jwt-scope-prefix", "shop/", "--jwt-client-claim", "customer"]);
    let authenticator = Authenticator::new(&settings).await.unwrap();
    let claims = json!({ "sub": "s", "exp": now() + 60, "scope": " shop/sales:read  orders:read shop/clients:read shop/other ", "customer": "7", "client_id": "app", "aud": "x" });
    let identity = authenticator.authenticate(&hs256(SECRET.as_bytes(), &claims)).await.unwrap();
    let expires = identity.expires;
    let (subject, scopes, client) = ("s".into(), vec!["clients:read", "sales:read"], Some("7".into()));
    assert_eq!(*identity, Identity { subject, scopes, client, expires }, "{identity:?}");
    let left = expires.duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((60..=70).contains(&left), "{left}: the allowed clock difference is added");

    let minted = settings.mint("s", "clients:read sales:read", Some("7"), Duration::from_secs(60)).unwrap();
    let minted = authenticator.authenticate(&minted).await.unwrap();
    assert_eq!(
        (&minted.subject, &minted.scopes, &minted.client),
        (&identity.subject, &identity.scopes, &identity.client)
    );
}

#[tokio::test]
async fn scopes_are_read_from_the_configured_claim() {
    for claim in ["scope", "scp", "permissions", "roles"] {
        let settings = token_settings(&["--jwt-secret", SECRET, "--jwt-scope-claim", claim]);
        let authenticator = Authenticator::new(&settings).await.unwrap();
        for scopes in [json!("orders:place clients:read"), json!(["orders:place", "clients:read"])] {
            let mut claims = json!({ "sub": "s", "exp": now() + 60, "scope": "sales:read" });
            claims[claim] = scopes;
            let identity = authenticator.authenticate(&hs256(SECRET.as_bytes(), &claims)).await.unwrap();
            assert_eq!(identity.scopes, ["orders:place", "clients:read"], "{claims}");
        }
        let minted = settings.mint("s", "sales:read", None, Duration::from_secs(60)).unwrap();
        assert_eq!(authenticator.authenticate(&minted).await.unwrap().scopes, ["sales:read"]);
    }
}

/// Access tokens of Amazon Cognito name their OAuth client, but no audience.
#[tokio::test]
async fn the_oauth_client_and_the_client_claim_can_be_required() {
    let flags = ["--jwt-secret", SECRET, "--jwt-oauth-clients", "web, app", "--jwt-require-client"];
    let authenticator = Authenticator::new(&token_settings(&flags)).await.unwrap();
    let cases = [
        (true, json!({ "client_id": "web", "orders_client": "1" })),
        (true, json!({ "azp": "app", "orders_client": "1" })),
        (false, json!({ "client_id": "other", "orders_client": "1" })),
        (false, json!({ "client_id": "other", "azp": "web", "orders_client": "1" })),
        (false, json!({ "client_id": 7, "orders_client": "1" })),
        (false, json!({ "aud": "web", "orders_client": "1" })),
        (false, json!({ "client_id": "web" })),
    ];
    for (is_accepted, mut claims) in cases {
        (claims["sub"], claims["exp"], claims["token_use"]) = ("s".into(), (now() + 60).into(), "access".into());
        let authenticated = authenticator.authenticate(&hs256(SECRET.as_bytes(), &claims)).await;
        assert_eq!(authenticated.is_ok(), is_accepted, "{claims}");
    }
}

#[tokio::test]
async fn invalid_token_settings_are_reported_with_what_to_do() {
    let rejected: [(&[&str], &str); 4] = [
        (&[], "JWT_SECRET is not set, and neither is JWT_JWKS_URL"),
        (&["--jwt-secret", "thirty-one bytes are one too few"], ""),
        (&["--jwt-secret", "short"], "JWT_SECRET has 5 bytes and needs at least 32"),
        (&["--jwt-secret", SECRET, "--jwt-jwks-url", "http://127.0.0.1:1"], "both set"),
    ];
    for (flags, message) in rejected {
        match Authenticator::new(&token_settings(flags)).await {
            Err(error) => assert!(!message.is_empty() && error.to_string().contains(message), "{error}"),
            Ok(_) => assert!(message.is_empty(), "{flags:?}"),
        }
    }
    let unreachable = token_settings(&["--jwt-jwks-url", "http://127.0.0.1:1/keys"]);
    let Err(error) = Authenticator::new(&unreachable).await else { panic!("no server listens there") };
    assert!(error.to_string().contains("JWT_JWKS_URL"), "{error}");
}

/// A private key, and its public key as it is published.
#[derive(Clone)]
struct Key {
    private: EncodingKey,
    algorithm: Algorithm,
    id: &'static str,
}

impl Key {
    fn rsa(id: &'static str) -> Key {
        let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der>::as_der(&pair).unwrap();
        let body = BASE64_STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = (0..body.len()).step_by(64).map(|at| &body[at..body.len().min(at + 64)]).collect();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
        Key { private: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(), algorithm: Algorithm::RS256, id }
    }

    fn ec(id: &'static str) -> Key {
        Key::on_curve(id, &ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256)
    }

    fn ec384(id: &'static str) -> Key {
        Key::on_curve(id, &ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384)
    }

    fn on_curve(id: &'static str, curve: &'static EcdsaSigningAlgorithm, algorithm: Algorithm) -> Key {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let pair = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
        Key { private: EncodingKey::from_ec_der(pair.as_ref()), algorithm, id }
    }

    fn ed(id: &'static str) -> Key {
        let pair = Ed25519KeyPair::generate_pkcs8v1(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
        Key { private: EncodingKey::from_ed_der(pair.as_ref()), algorithm: Algorithm::EdDSA, id }
    }

    /// The same key, used with another algorithm.
    fn with(&self, algorithm: Algorithm) -> Key {
        Key { algorithm, ..self.clone() }
    }

    /// Without `alg`, as some providers publish keys.
    fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        (jwk.common.key_id, jwk.common.key_algorithm) = (Some(self.id.into()), None);
        serde_json::to_value(jwk).unwrap()
    }

    fn public_with(&self, name: &str, value: Value) -> Value {
        let mut public = self.public();
        public[name] = value;
        public
    }

    fn public_without_id(&self) -> Value {
        let mut public = self.public();
        public.as_object_mut().unwrap().remove("kid");
        public
    }

    fn sign(&self) -> String {
        self.sign_as(Some(self.id))
    }

    fn sign_as(&self, id: Option<&str>) -> String {
        let header = Header { kid: id.map(Into::into), ..Header::new(self.algorithm) };
        encode(&header, &claims(), &self.private).unwrap()
    }
}

/// Publishes keys that can be replaced, and counts requests.
struct KeyServer {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
    /// Whether it does not respond.
    hangs: Arc<AtomicBool>,
}

async fn key_server(keys: Vec<Value>) -> KeyServer {
    let (keys, asked) = (Arc::new(Mutex::new(keys)), Arc::new(AtomicUsize::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let (published, count, hangs) = (keys.clone(), asked.clone(), Arc::new(AtomicBool::new(false)));
    let is_hanging = hangs.clone();
    let response = async move || {
        count.fetch_add(1, Ordering::SeqCst);
        if is_hanging.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Json(json!({ "keys": *published.lock().unwrap() }))
    };
    let moved = get(async || Redirect::temporary("/keys"));
    let routes = Router::new().route("/keys", get(response)).route("/moved", moved);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    KeyServer { url, keys, asked, hangs }
}

#[tokio::test]
async fn published_keys_of_each_kind_are_accepted_for_their_own_algorithm_only() {
    use Algorithm::{PS256, PS384, PS512, RS384, RS512};
    let keys = [Key::rsa("r"), Key::ec("e"), Key::ec384("e384"), Key::ed("d")];
    let server = key_server(keys.iter().map(Key::public).collect()).await;
    let authenticator = Authenticator::new(&token_settings(&["--jwt-jwks-url", &server.url])).await.unwrap();
    for key in &keys {
        assert!(authenticator.authenticate(&key.sign()).await.is_ok(), "{:?}", key.algorithm);
    }
    for algorithm in [RS384, RS512, PS256, PS384, PS512] {
        assert!(authenticator.authenticate(&keys[0].with(algorithm).sign()).await.is_ok(), "{algorithm:?}");
    }

    // The known attack: the public key used as a shared secret.
    let public = serde_json::to_string(&keys[0].public()).unwrap();
    let modulus = keys[0].public()["n"].as_str().unwrap().to_owned();
    for secret in [public.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(modulus).unwrap()] {
        let header = Header { kid: Some("r".into()), ..Header::new(Algorithm::HS256) };
        let token = encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
        assert!(authenticator.authenticate(&token).await.is_err());
    }
    // A key with the id of another key.
    let mixed = Key { id: "e", ..Key::rsa("r") };
    assert!(authenticator.authenticate(&mixed.sign()).await.is_err());
    let unknown = Key { id: "r", ..Key::rsa("r") };
    assert!(authenticator.authenticate(&unknown.sign()).await.is_err());
}

#[tokio::test]
async fn rotated_keys_are_found_and_unknown_keys_are_not_fetched_again_and_again() {
    let (old, new) = (Key::ec("old"), Key::ec("new"));
    let server = key_server(vec![old.public()]).await;
    let settings = ["--jwt-jwks-url", &server.url, "--jwt-jwks-cooldown", "0s"];
    let authenticator = Authenticator::new(&token_settings(&settings)).await.unwrap();
    assert!(authenticator.authenticate(&old.sign()).await.is_ok());
    assert!(authenticator.authenticate(&new.sign()).await.is_err());

    *server.keys.lock().unwrap() = vec![new.public()];
    assert!(authenticator.authenticate(&new.sign()).await.is_ok(), "an unknown key is fetched");
    assert!(authenticator.authenticate(&old.sign()).await.is_err(), "a withdrawn key is rejected");

    let patient = Authenticator::new(&token_settings(&["--jwt-jwks-url", &server.url])).await.unwrap();
    let before = server.asked.load(Ordering::SeqCst);
    for _ in 0..20 {
        assert!(patient.authenticate(&old.sign()).await.is_err());
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), before, "no request within the cooldown");

    // A document without usable keys is ignored.
    server.keys.lock().unwrap().clear();
    assert!(authenticator.authenticate(&old.sign()).await.is_err());
    assert!(authenticator.authenticate(&new.sign()).await.is_ok(), "the known keys are kept");
}

#[tokio::test]
async fn a_withdrawn_key_is_rejected_after_ten_minutes() {
    let (old, new) = (Key::ec("old"), Key::ec("new"));
    let server = key_server(vec![old.public()]).await;
    let authenticator = Authenticator::new(&token_settings(&["--jwt-jwks-url", &server.url])).await.unwrap();
    let pass = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    assert!(authenticator.authenticate(&old.sign()).await.is_ok());
    *server.keys.lock().unwrap() = vec![new.public()];
    pass(601).await;
    assert!(authenticator.authenticate(&old.sign()).await.is_err(), "the first request waits for the new keys");
    assert!(authenticator.authenticate(&new.sign()).await.is_ok());

    server.keys.lock().unwrap().clear();
    pass(601).await;
    assert!(authenticator.authenticate(&new.sign()).await.is_ok(), "the keys cannot be fetched");
    *server.keys.lock().unwrap() = vec![old.public()];
    pass(61).await;
    assert!(authenticator.authenticate(&new.sign()).await.is_err(), "they are fetched again after the cooldown");

    server.keys.lock().unwrap().clear();
    pass(3_601).await;
    assert!(authenticator.authenticate(&old.sign()).await.is_err(), "old keys are not used without end");
}

#[tokio::test]
async fn tokens_wait_only_briefly_for_a_key_server_that_hangs() {
    let key = Key::ec("key");
    let server = key_server(vec![key.public()]).await;
    let authenticator = Authenticator::new(&token_settings(&["--jwt-jwks-url", &server.url])).await.unwrap();
    server.hangs.store(true, Ordering::SeqCst);
    let mut waits = Vec::new();
    for seconds in [601, 61, 61] {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
        let began = std::time::Instant::now();
        assert!(authenticator.authenticate(&key.sign()).await.is_ok(), "the keys are still valid");
        waits.push(began.elapsed().as_secs());
    }
    assert!(waits[1..].iter().all(|seconds| *seconds < 4), "{waits:?}");
}

#[tokio::test]
async fn only_usable_entries_of_a_document_verify_tokens() {
    let (good, encryption, wrapping) = (Key::rsa("good"), Key::rsa("encryption"), Key::rsa("wrapping"));
    let (only_ps, curve) = (Key::rsa("only-ps"), Key::ec("curve"));
    let secret = BASE64_URL_SAFE_NO_PAD.encode(SECRET);
    let server = key_server(vec![
        json!(7),
        json!({}),
        json!({ "kty": "RSA", "kid": "cut", "n": 7 }),
        json!({ "kty": "RSA", "kid": "not-base64", "n": "?", "e": "AQAB" }),
        nested(200),
        json!({ "kty": "new", "kid": "unknown-kind" }),
        json!({ "kty": "oct", "kid": "shared", "k": secret, "alg": "HS256" }),
        json!({ "kty": "EC", "kid": "unknown-curve", "crv": "secp256k1", "x": "AA", "y": "AA" }),
        encryption.public_with("use", json!("enc")),
        wrapping.public_with("key_ops", json!(["wrapKey"])),
        only_ps.public_with("alg", json!("PS256")),
        curve.public_with("alg", json!("ECDH-ES")),
        good.public_with("use", json!("sig")),
    ])
    .await;
    let authenticator = Authenticator::new(&token_settings(&["--jwt-jwks-url", &server.url])).await.unwrap();
    assert!(authenticator.authenticate(&good.sign()).await.is_ok());
    assert!(authenticator.authenticate(&only_ps.with(Algorithm::PS256).sign()).await.is_ok());
    let shared = Header { kid: Some("shared".into()), ..Header::new(Algorithm::HS256) };
    let shared = encode(&shared, &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    for refused in [encryption.sign(), wrapping.sign(), only_ps.sign(), curve.sign(), shared] {
        assert!(authenticator.authenticate(&refused).await.is_err(), "{refused}");
    }
    let moved = server.url.replace("/keys", "/moved");
    assert!(
        Authenticator::new(&token_settings(&["--jwt-jwks-url", &moved])).await.is_err(),
        "redirects are not followed"
    );
}

/// Arrays in arrays.
fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, _| json!([inner]))
}

#[tokio::test]
async fn a_document_without_a_usable_key_replaces_no_keys() {
    let key = Key::ec("key");
    let server = key_server(vec![key.public()]).await;
    let settings = ["--jwt-jwks-url", &server.url, "--jwt-jwks-cooldown", "0s"];
    let authenticator = Authenticator::new(&token_settings(&settings)).await.unwrap();
    let too_short = [
        Key::rsa("a").public_with("n", json!("AQ")),
        Key::ec("b").public_with("x", json!("AQ")),
        Key::ec384("c").public_with("crv", json!("P-256")),
        Key::ed("d").public_with("x", json!("AQ")),
    ];
    for useless in too_short.into_iter().chain([key.public_with("use", json!("enc"))]) {
        *server.keys.lock().unwrap() = vec![useless.clone()];
        assert!(Authenticator::new(&token_settings(&settings)).await.is_err(), "{useless}");
        assert!(authenticator.authenticate(&Key::ec("other").sign()).await.is_err(), "the keys are fetched");
        assert!(authenticator.authenticate(&key.sign()).await.is_ok(), "the previous keys are kept: {useless}");
    }
}

#[tokio::test]
async fn keys_and_tokens_without_a_key_id_are_tried() {
    let (named, one, two) = (Key::rsa("named"), Key::rsa("one"), Key::ec("two"));
    let server = key_server(vec![named.public(), one.public_without_id(), two.public_without_id()]).await;
    let settings = ["--jwt-jwks-url", &server.url, "--jwt-jwks-cooldown", "0s"];
    let authenticator = Authenticator::new(&token_settings(&settings)).await.unwrap();
    for token in [named.sign_as(None), one.sign_as(None), two.sign_as(None), one.sign(), two.sign()] {
        assert!(authenticator.authenticate(&token).await.is_ok());
    }
    let mixed = one.sign_as(Some("named"));
    assert!(authenticator.authenticate(&mixed).await.is_err(), "the key with this id has not signed it");
    let new = Key::rsa("new");
    assert!(authenticator.authenticate(&new.sign_as(None)).await.is_err());
    *server.keys.lock().unwrap() = vec![new.public_without_id()];
    assert!(authenticator.authenticate(&new.sign_as(None)).await.is_ok(), "a new key without an id is fetched");
}
