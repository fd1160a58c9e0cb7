//! Authentication with bearer tokens.
//!
//! - [`jwt`]: verifies tokens (RFC 7519) with a shared secret or with published keys
//! - [`claims`]: turns the claims of a verified token into an identity
//! - [`token_settings`]: the settings, and tokens for development
//! - [`jwks`]: fetches published keys (RFC 7517)
//! - [`scopes`]: what a token can allow

mod claims;
pub mod jwks;
mod jwt;
mod scopes;
mod token_settings;

use std::sync::Arc;
use std::time::SystemTime;

use tracing::info;

pub use self::claims::ClaimSettings;
pub use self::jwt::Authenticator;
pub use self::scopes::*;
pub use self::token_settings::TokenSettings;

/// The sender of a request and the permissions of its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub subject: Arc<str>,
    pub scopes: Vec<&'static str>,
    /// The only client that the token may act for; `None` for any.
    pub client: Option<String>,
    /// When the token expires, with the allowed difference of clocks added.
    pub expires: SystemTime,
}

impl Identity {
    pub fn may(&self, scope: &str) -> bool {
        self.scopes.contains(&scope)
    }
}

/// The token is invalid. The reason is logged and not sent to the client.
#[derive(Debug)]
pub struct InvalidToken;

impl InvalidToken {
    /// Logs the reason, which must not contain a part of the token.
    pub fn because(reason: &str) -> InvalidToken {
        info!(reason, "token refused");
        InvalidToken
    }
}
