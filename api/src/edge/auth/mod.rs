//! Authentication with bearer tokens.
//!
//! - [`jwt`]: verifies tokens (RFC 7519) with a shared secret or with published keys
//! - [`jwks`]: fetches published keys (RFC 7517)
//! - [`scopes`]: what a token can allow

mod jwks;
mod jwt;
mod scopes;

use std::sync::Arc;
use std::time::SystemTime;

pub use self::jwt::{Authenticator, TokenSettings};
pub use self::scopes::*;

/// The sender of a request and the permissions of its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub subject: Arc<str>,
    pub scopes: Vec<String>,
    /// The only client that the token may act for; `None` for any.
    pub client: Option<String>,
    /// When the token expires, with the allowed difference of clocks added.
    pub expires: SystemTime,
}

impl Identity {
    pub fn may(&self, scope: &str) -> bool {
        self.scopes.iter().any(|allowed| allowed == scope)
    }
}

/// The token is invalid. The reason is logged and not sent to the client.
#[derive(Debug)]
pub struct InvalidToken;
