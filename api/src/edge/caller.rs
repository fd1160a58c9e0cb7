//! The caller of a request: the identity from its token, its address, and its trace context.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use axum_extra::headers::authorization::Bearer;
use axum_extra::headers::{Authorization, Header, HeaderMapExt};
use runtime::logging::{LogContext, is_traceparent};

use super::Edge;
use super::auth::{Identity, InvalidToken};
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
    /// When the token is invalid.
    pub async fn identify(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<Caller, Refusal> {
        let address = self.address(headers, peer);
        // Another scheme and unreadable bytes are an invalid token. Only a missing header is anonymous.
        let credentials = match headers.typed_try_get::<Authorization<Bearer>>() {
            _ if headers.get_all(AUTHORIZATION).iter().count() > 1 => {
                Some(Err("the header `Authorization` is given twice"))
            }
            Ok(bearer) => bearer.map(Ok),
            Err(_) => Some(Err("the header `Authorization` is not `Bearer` and a token")),
        };
        let identity = match credentials {
            None => None,
            Some(credentials) => Some(self.authenticate(credentials, address).await?),
        };
        if let Some(identity) = &identity {
            LogContext::current().set_subject(&identity.subject);
        }
        Ok(Caller { identity, address, traceparent: traceparent(headers).map(Into::into) })
    }

    /// Verifies a token, unless the address has sent too many wrong ones. Cached tokens are accepted even then.
    ///
    /// # Errors
    /// When the token is invalid. That is charged to the address, which slows down guessing.
    pub async fn authenticate(
        &self,
        credentials: Result<Authorization<Bearer>, &str>,
        address: IpAddr,
    ) -> Result<Arc<Identity>, Refusal> {
        if let Ok(bearer) = &credentials
            && let Some(identity) = self.authenticator.cached(bearer.token())
        {
            return Ok(identity);
        }
        let address = QuotaKey::of_address(address);
        self.executor.check_blocked(&address)?;
        let identity = match credentials {
            Ok(bearer) => self.authenticator.authenticate(bearer.token()).await,
            Err(reason) => Err(InvalidToken::because(reason)),
        };
        identity.or_else(|InvalidToken| {
            self.executor.charge_wrong_token(&address)?;
            Err(Refusal::InvalidToken)
        })
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

/// The trace context of the sender of a request.
pub fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get("traceparent").and_then(|value| value.to_str().ok());
    value.filter(|value| is_traceparent(value))
}
