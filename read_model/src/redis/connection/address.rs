//! `REDIS_URL`, and the settings that complete it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ::redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::ConnectError;

/// The supported schemes. Those of Valkey mean the same as those of Redis.
const SCHEMES: [&str; 4] = ["redis", "rediss", "valkey", "valkeys"];

/// Certificates in a file after so many bytes are not read.
const MAX_PEM_BYTES: u64 = 16 * 1024 * 1024;

/// Where Redis is, how to log in, and which certificates to trust. The fields have the names of the
/// [settings](crate::RedisSettings).
#[derive(Clone, Default)]
pub struct RedisAddress {
    pub url: String,
    pub username: Option<String>,
    pub password: Option<String>,
    pub ca_file: Option<PathBuf>,
}

impl RedisAddress {
    /// Returns the address of each node, and the trusted certificates if connections use TLS.
    pub(super) fn parse(&self) -> Result<(Vec<ConnectionInfo>, Option<TlsCertificates>), ConnectError> {
        let nodes = self.url.split(',').map(|url| self.node(url.trim())).collect::<Result<Vec<_>, _>>()?;
        let uses_tls = |node: &ConnectionInfo| matches!(node.addr(), ConnectionAddr::TcpTls { .. });
        if !nodes.iter().any(uses_tls) {
            return match &self.ca_file {
                Some(_) => Err(ConnectError::CaFile("REDIS_URL does not begin with rediss://".into())),
                None => Ok((nodes, None)),
            };
        }
        let trusted =
            TlsCertificates { client_tls: None, root_cert: Some(trusted_certificates(self.ca_file.as_deref())?) };
        let with_trusted = |node: ConnectionInfo| match uses_tls(&node) {
            true => Ok(Client::build_with_tls(node, trusted.clone())?.get_connection_info().clone()),
            false => Ok(node),
        };
        let nodes = nodes.into_iter().map(with_trusted).collect::<Result<Vec<_>, ConnectError>>()?;
        Ok((nodes, Some(trusted)))
    }

    fn node(&self, url: &str) -> Result<ConnectionInfo, ConnectError> {
        if !url.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme)) {
            return Err(ConnectError::Unsupported);
        }
        let node = url.into_connection_info().map_err(ConnectError::Malformed)?;
        let mut login = node.redis_settings().clone();
        if let Some(username) = self.username.as_ref().filter(|username| !username.is_empty()) {
            login = login.set_username(username);
        }
        if let Some(password) = self.password.as_ref().filter(|password| !password.is_empty()) {
            login = login.set_password(password);
        }
        Ok(node.set_redis_settings(login))
    }
}

/// Returns the certificates of the system's store and of a file in the format PEM.
fn trusted_certificates(file: Option<&Path>) -> Result<Vec<u8>, ConnectError> {
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    // One certificate that cannot be used makes the Redis client refuse all.
    certificates.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    if let Some(file) = file {
        let failed =
            |reason: &dyn ToString| ConnectError::CaFile(format!("{}: {}", file.display(), reason.to_string()));
        let mut pem = Vec::new();
        let read = File::open(file).and_then(|file| file.take(MAX_PEM_BYTES).read_to_end(&mut pem));
        read.map_err(|error| failed(&error))?;
        let own: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let own = own.map_err(|error| failed(&error))?;
        if own.is_empty() {
            return Err(failed(&"it has no certificate in the format PEM"));
        }
        certificates.extend(own);
    }
    let pem = |certificate: CertificateDer<'_>| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(certificate))
    };
    Ok(certificates.into_iter().map(pem).collect::<String>().into_bytes())
}
