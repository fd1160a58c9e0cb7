//! Authentication: tokens, claims and published keys.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use api::edge::auth::{Authenticator, Identity};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{SECRET, token_settings};

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

fn claims() -> Value {
    json!({ "sub": "someone", "exp": now() + 60, "scope": "orders:place clients:read", "iss": "us", "aud": "orders" })
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
        ("not yet valid", changed("nbf", json!(now() + 60))),
        ("malformed nbf", changed("nbf", json!("tomorrow"))),
        ("no sub", without("sub")),
        ("empty sub", changed("sub", json!(""))),
        ("sub of another type", changed("sub", json!(7))),
        ("wrong issuer", changed("iss", json!("them"))),
        ("no issuer", without("iss")),
        ("wrong audience", changed("aud", json!("others"))),
        ("no audience", without("aud")),
        ("scope of another type", changed("scope", json!(["orders:place"]))),
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
    let claims = json!({ "sub": "s", "exp": now() + 60, "scope": " shop/a  b shop/c ", "customer": "7", "client_id": "app", "aud": "x" });
    let identity = authenticator.authenticate(&hs256(SECRET.as_bytes(), &claims)).await.unwrap();
    let expires = identity.expires;
    let (subject, scopes, client) = ("s".into(), vec!["a".into(), "c".into()], Some("7".into()));
    assert_eq!(*identity, Identity { subject, scopes, client, expires }, "{identity:?}");
    let left = expires.duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((60..=70).contains(&left), "{left}: the allowed clock difference is added");

    let minted = settings.mint("s", "a c", Some("7"), Duration::from_secs(60)).unwrap();
    let minted = authenticator.authenticate(&minted).await.unwrap();
    assert_eq!(
        (&minted.subject, &minted.scopes, &minted.client),
        (&identity.subject, &identity.scopes, &identity.client)
    );
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
        let random = aws_lc_rs::rand::SystemRandom::new();
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Key { private: EncodingKey::from_ec_der(pair.as_ref()), algorithm: Algorithm::ES256, id }
    }

    fn ed(id: &'static str) -> Key {
        let pair = Ed25519KeyPair::generate_pkcs8v1(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
        Key { private: EncodingKey::from_ed_der(pair.as_ref()), algorithm: Algorithm::EdDSA, id }
    }

    fn public(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.into());
        jwk
    }

    fn sign(&self) -> String {
        let header = Header { kid: Some(self.id.into()), ..Header::new(self.algorithm) };
        encode(&header, &claims(), &self.private).unwrap()
    }
}

/// Publishes keys that can be replaced, and counts requests.
struct KeyServer {
    url: String,
    keys: Arc<Mutex<Vec<Jwk>>>,
    asked: Arc<AtomicUsize>,
}

async fn key_server(keys: Vec<Jwk>) -> KeyServer {
    let (keys, asked) = (Arc::new(Mutex::new(keys)), Arc::new(AtomicUsize::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let (published, count) = (keys.clone(), asked.clone());
    let response = async move || {
        count.fetch_add(1, Ordering::SeqCst);
        Json(JwkSet { keys: published.lock().unwrap().clone() })
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/keys", get(response))).await });
    KeyServer { url, keys, asked }
}

#[tokio::test]
async fn published_keys_of_each_kind_are_accepted_for_their_own_algorithm_only() {
    let keys = [Key::rsa("r"), Key::ec("e"), Key::ed("d")];
    let server = key_server(keys.iter().map(Key::public).collect()).await;
    let authenticator = Authenticator::new(&token_settings(&["--jwt-jwks-url", &server.url])).await.unwrap();
    for key in &keys {
        assert!(authenticator.authenticate(&key.sign()).await.is_ok(), "{:?}", key.algorithm);
    }

    // The known attack: the public key used as a shared secret.
    let public = serde_json::to_string(&keys[0].public()).unwrap();
    let modulus = serde_json::to_value(keys[0].public()).unwrap()["n"].as_str().unwrap().to_owned();
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
