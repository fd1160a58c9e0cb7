//! The caller of a request: the identity from its token, its address, and its trace context.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use axum_extra::headers::authorization::Bearer;
use axum_extra::headers::{Authorization, Header, HeaderMapExt};

use super::Edge;
use super::auth::{Identity, InvalidToken};
use super::executor::VALIDATION_COST;
use super::quota::QuotaKey;
use super::refusal::Refusal;

#[derive(Clone, Debug)]
pub struct Caller {
    /// `None` without a token. An anonymous caller can only query the schema.
    pub identity: Option<Arc<Identity>>,
    pub address: IpAddr,
    pub traceparent: Option<String>,
}

impl Caller {
    /// When the token expires.
    pub fn expires(&self) -> Option<SystemTime> {
        self.identity.as_ref().map(|identity| identity.expires)
    }

    pub fn quota_key(&self) -> QuotaKey {
        match &self.identity {
            Some(identity) => QuotaKey::Subject(identity.subject.clone()),
            None => QuotaKey::of_address(self.address),
        }
    }
}

impl Edge {
    /// The address of the sender of a request.
    pub fn address(&self, headers: &HeaderMap, peer: SocketAddr) -> IpAddr {
        client_address(headers, peer, self.settings.trusted_proxies)
    }

    /// Identifies the sender of a request by its headers.
    ///
    /// # Errors
    /// When the token is invalid. That is charged to the address, so that tokens cannot be guessed.
    pub async fn identify(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<Caller, Refusal> {
        let address = self.address(headers, peer);
        // Another scheme and unreadable bytes are an invalid token. Only a missing header is anonymous.
        let identity = match headers.typed_try_get::<Authorization<Bearer>>() {
            _ if headers.get_all(AUTHORIZATION).iter().count() > 1 => {
                Err(InvalidToken::because("the header `Authorization` is given twice"))
            }
            Ok(None) => Ok(None),
            Ok(Some(bearer)) => self.authenticator.authenticate(bearer.token()).await.map(Some),
            Err(_) => Err(InvalidToken::because("the header `Authorization` is not `Bearer` and a token")),
        };
        let Ok(identity) = identity else {
            self.executor.charge(&QuotaKey::of_address(address), VALIDATION_COST)?;
            return Err(Refusal::token_required());
        };
        let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
        let traceparent = traceparent.filter(|value| is_traceparent(value)).map(Into::into);
        Ok(Caller { identity, address, traceparent })
    }
}

/// Parses `Bearer …`, as in the `Authorization` header (RFC 6750, section 2.1).
pub fn parse_bearer(credentials: &str) -> Option<Authorization<Bearer>> {
    let value = HeaderValue::from_str(credentials.trim()).ok()?;
    Authorization::decode(&mut std::iter::once(&value)).ok()
}

/// The address that connected to the outermost trusted proxy. Entries further left in the header come from the client and are not trusted.
fn client_address(headers: &HeaderMap, peer: SocketAddr, trusted_proxies: usize) -> IpAddr {
    let Some(index) = trusted_proxies.checked_sub(1) else { return peer.ip() };
    let forwarded = headers.get_all("x-forwarded-for").iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let forwarded = forwarded.collect::<Vec<_>>().join(",");
    forwarded.rsplit(',').nth(index).and_then(parse_address).unwrap_or(peer.ip())
}

/// Proxies write an address with or without port, and IPv6 with or without brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse().map(|address: SocketAddr| address.ip());
    let without_brackets = text.trim_start_matches('[').trim_end_matches(']');
    without_brackets.parse().or_else(|_| with_port()).ok()
}

/// Version 00 of <https://www.w3.org/TR/trace-context/#traceparent-header>: 32, 16 and 2 lower-case hexadecimal digits.
/// Other values are ignored, as the specification requires.
fn is_traceparent(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let is_hexadecimal = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]) && parts[0] == "00" && parts.iter().all(is_hexadecimal)
}
