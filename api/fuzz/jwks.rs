//! Documents with public keys, as `JWT_JWKS_URL` may return them.

use api::edge::auth::jwks;
use jsonwebtoken::{Algorithm, Validation, decode};
use serde_json::Value;

use crate::service::Service;

/// The claims `{"sub":"x","exp":32000000000}` and a signature, for each kind of key.
const REST: &str = "eyJzdWIiOiJ4IiwiZXhwIjozMjAwMDAwMDAwMH0.\
                    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// RS256, PS512, ES256, ES384, EdDSA.
const HEADERS: [&str; 5] = [
    "eyJhbGciOiJSUzI1NiJ9",
    "eyJhbGciOiJQUzUxMiJ9",
    "eyJhbGciOiJFUzI1NiJ9",
    "eyJhbGciOiJFUzM4NCJ9",
    "eyJhbGciOiJFZERTQSJ9",
];

/// Verifies tokens with each key of a document. A key must never verify a token that is signed with a secret, although the document
/// may contain the secret. Returns the number of messages: one for each key.
pub fn parse(service: &Service, document: &[u8]) -> u32 {
    let keys = jwks::parse(document).unwrap_or_default();
    for key in &keys {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms.clone_from(&key.algorithms);
        let verify = |token: &str| decode::<Value>(token, &key.key, &validation);
        assert!(verify(&service.token).is_err());
        for header in HEADERS {
            let _ = verify(&format!("{header}.{REST}"));
        }
    }
    keys.len() as u32 + 1
}
