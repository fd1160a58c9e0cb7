//! The certificate of a PostgreSQL server. `migration` depends on no other crate, so `runtime` has a copy: change both.

use std::fs;

use sea_orm::sqlx::postgres::PgSslMode;
use url::Url;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Two cryptography providers are compiled into rustls, by different libraries. With `sslmode=verify-ca` it requires a choice, and panics
/// without.
pub fn choose_cryptography() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Fails if the authorities that `sslrootcert` or `PGSSLROOTCERT` names are not used or cannot be. The library ignores them silently in modes that check no
/// certificate, and does not name a file that is missing.
pub fn check_authorities(url: &str, mode: PgSslMode) -> Result<(), String> {
    let Some((setting, file)) = authorities(url) else { return Ok(()) };
    if !matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
        return Err(format!("{setting} is set, but its sslmode checks no certificate: set sslmode=verify-full"));
    }
    // The setting may also be the certificate itself.
    let pem = if file.contains(CERTIFICATE) { Ok(file.clone()) } else { fs::read_to_string(&file) };
    let failed = |reason: &str| format!("{setting} ({file}): {reason}");
    let pem = pem.map_err(|error| failed(&error.to_string()))?;
    match pem.contains(CERTIFICATE) {
        true => Ok(()),
        false => Err(failed("it has no certificate in the format PEM")),
    }
}

/// The setting that names the authorities, and its value, as in sqlx: the last one of the URL, or else the variable.
fn authorities(url: &str) -> Option<(&'static str, String)> {
    let url = Url::parse(url).ok()?;
    let named = url.query_pairs().filter(|(name, _)| matches!(&**name, "sslrootcert" | "ssl-root-cert" | "ssl-ca"));
    let of_url = named.last().map(|(_, file)| ("sslrootcert", file.into_owned()));
    #[expect(clippy::disallowed_methods, reason = "not a flag: sqlx reads this variable itself")]
    let of_environment = || std::env::var("PGSSLROOTCERT").ok().filter(|file| !file.is_empty());
    of_url.or_else(|| Some(("PGSSLROOTCERT", of_environment()?)))
}

/// Adds to the reason of an error what to check if the certificate was refused.
pub fn with_remedy(reason: String) -> String {
    match reason.split_once("invalid peer certificate") {
        Some((_, which)) => format!("invalid peer certificate{which}; check the host and sslrootcert in DATABASE_URL"),
        None => reason,
    }
}
