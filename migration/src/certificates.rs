//! The certificate of a PostgreSQL server. `migration` depends on no other crate, so `runtime` has a copy: change both.

use std::fs;

use sea_orm::sqlx::postgres::PgSslMode;
use url::Url;

/// Two cryptography providers are compiled into rustls, by different libraries. With `sslmode=verify-ca` it requires a choice, and panics
/// without.
pub fn choose_cryptography() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Fails if the authorities that `sslrootcert` names are not used or cannot be. The library ignores them silently in modes that check no
/// certificate, and does not name a file that is missing.
pub fn check_authorities(url: &str, mode: PgSslMode) -> Result<(), String> {
    let Some(file) = authorities(url) else { return Ok(()) };
    if !matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
        return Err("it has sslrootcert, but its sslmode checks no certificate: set sslmode=verify-full".into());
    }
    let pem = fs::read_to_string(&file);
    let failed = |reason: &str| format!("sslrootcert ({file}): {reason}");
    let pem = pem.map_err(|error| failed(&error.to_string()))?;
    match pem.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(()),
        false => Err(failed("it has no certificate in the format PEM")),
    }
}

/// If the URL has several, the last one is used, as in sqlx.
fn authorities(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let named = url.query_pairs().filter(|(name, _)| matches!(&**name, "sslrootcert" | "ssl-root-cert" | "ssl-ca"));
    named.last().map(|(_, file)| file.into_owned())
}

/// Adds to the reason of an error what to check if the certificate was refused.
pub fn with_remedy(reason: String) -> String {
    match reason.split_once("invalid peer certificate") {
        Some((_, which)) => format!("invalid peer certificate{which}; check the host and sslrootcert in DATABASE_URL"),
        None => reason,
    }
}
