//! The claims of a verified token, and the identity that they describe.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::NonEmptyStringValueParser;
use entity::text::is_printable;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::{Identity, SCOPES};

/// How far clocks may differ when `exp` and `nbf` are checked.
pub const LEEWAY: Duration = Duration::from_secs(10);
/// The latest expiry that is accepted, in the year 3000. A later one is in milliseconds, and would never expire.
const MAX_EXPIRY: Duration = Duration::from_secs(32_503_680_000);

/// How claims are read.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Identity")]
pub struct ClaimSettings {
    /// Allowed values of the claim `client_id` (or `azp`), separated by commas; access tokens of Amazon Cognito have it instead of `aud` (unset: any)
    #[arg(long, env, value_delimiter = ',', value_parser = not_empty)]
    pub jwt_oauth_clients: Vec<String>,
    /// Claim with the scopes, such as scope, scp, permissions or roles: a text separated by spaces, or an array
    #[arg(long, env, default_value = "scope", value_parser = NonEmptyStringValueParser::new())]
    pub jwt_scope_claim: String,
    /// Prefix that is removed from each scope, such as Cognito's "my-resource-server/"
    #[arg(long, env, default_value = "", hide_default_value = true)]
    pub jwt_scope_prefix: String,
    /// Claim with the id of the only client that the token may act for
    #[arg(long, env, default_value = "orders_client", value_parser = NonEmptyStringValueParser::new())]
    pub jwt_client_claim: String,
    /// Refuse tokens without the claim of JWT_CLIENT_CLAIM, so that no token may act for all clients
    #[arg(long, env)]
    pub jwt_require_client: bool,
}

/// The subject is stored with events, and histories show it. (OpenID Connect Core, section 2, has the same limit of its length.)
fn is_valid_subject(subject: &str) -> bool {
    (1..=255).contains(&subject.chars().count()) && is_printable(subject)
}

fn not_empty(text: &str) -> Result<String, &'static str> {
    Some(text.trim()).filter(|text| !text.is_empty()).map(Into::into).ok_or("a value between two commas is empty")
}

/// The claims of a token. One that is given twice is refused: another program may have checked its other value.
pub struct Claims(Map<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Claims, D::Error> {
        struct ClaimsVisitor;

        impl<'de> Visitor<'de> for ClaimsVisitor {
            type Value = Claims;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Claims, A::Error> {
                let mut claims = Map::new();
                while let Some((name, value)) = entries.next_entry()? {
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::duplicate_field("claim"));
                    }
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

impl From<Map<String, Value>> for Claims {
    fn from(claims: Map<String, Value>) -> Claims {
        Claims(claims)
    }
}

impl Claims {
    /// # Errors
    /// Why the token is refused. A claim of an unexpected type makes it invalid: ignoring it could widen the permissions.
    pub fn identity(&self, settings: &ClaimSettings) -> Result<Identity, String> {
        let subject = self.text("sub")?.filter(|subject| is_valid_subject(subject));
        let subject =
            subject.ok_or("the claim `sub` has not from 1 to 255 characters, or a control or invisible character")?;
        let client = self.text(&settings.jwt_client_claim)?;
        if settings.jwt_require_client && client.is_none() {
            return Err(format!("the claim `{}` is missing (JWT_REQUIRE_CLIENT)", settings.jwt_client_claim));
        }
        self.check_oauth_client(&settings.jwt_oauth_clients)?;
        let given = self.scopes(&settings.jwt_scope_claim)?.into_iter();
        let given: HashSet<_> = given.filter_map(|scope| scope.strip_prefix(&settings.jwt_scope_prefix)).collect();
        // Nothing else of the claim is kept: tokens are cached, and may have thousands of scopes.
        let scopes = SCOPES.into_iter().filter(|scope| given.contains(scope)).collect();
        Ok(Identity { subject: subject.into(), scopes, client: client.map(Into::into), expires: self.expires()? })
    }

    fn text(&self, claim: &str) -> Result<Option<&str>, String> {
        let text = |value: &'_ Value| value.as_str().is_none().then(|| format!("the claim `{claim}` is not a string"));
        match self.0.get(claim) {
            None => Ok(None),
            Some(value) => text(value).map_or_else(|| Ok(value.as_str()), Err),
        }
    }

    fn check_oauth_client(&self, allowed: &[String]) -> Result<(), String> {
        if allowed.is_empty() {
            return Ok(());
        }
        let client = self.text("client_id")?.or(self.text("azp")?);
        match client.is_some_and(|client| allowed.iter().any(|allowed| allowed == client)) {
            true => Ok(()),
            false => Err("its OAuth client (`client_id` or `azp`) is not in JWT_OAUTH_CLIENTS".into()),
        }
    }

    fn scopes(&self, claim: &str) -> Result<Vec<&str>, String> {
        match self.0.get(claim) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(text.split_whitespace().collect()),
            Some(Value::Array(scopes)) => {
                let scopes: Option<_> = scopes.iter().map(Value::as_str).collect();
                scopes.ok_or_else(|| format!("the claim `{claim}` has an element that is not a string"))
            }
            Some(_) => Err(format!("the claim `{claim}` is neither a string nor an array")),
        }
    }

    fn expires(&self) -> Result<SystemTime, String> {
        let seconds = self.0.get("exp").and_then(Value::as_f64).ok_or("the claim `exp` is not a number")?;
        match Duration::try_from_secs_f64(seconds) {
            Ok(expires) if expires <= MAX_EXPIRY => Ok(UNIX_EPOCH + expires + LEEWAY),
            _ => Err("its expiry (`exp`) is after the year 3000: it must be in seconds, not in milliseconds".into()),
        }
    }
}
