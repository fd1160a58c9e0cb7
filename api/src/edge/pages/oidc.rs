//! Signing in with OpenID Connect: what pages need to know for it, and which origins they may then send requests to.

use std::borrow::Cow;
use std::str::FromStr;

use clap::builder::NonEmptyStringValueParser;
use reqwest::Url;
use serde_json::{Value, json};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Identity")]
pub struct OidcSettings {
    /// Issuer of an OpenID Connect provider where users of the pages sign in, such as https://login.example.com; set JWT_JWKS_URL, too, which verifies its tokens (unset: pages ask for a token)
    #[arg(long, env, requires = "oidc_client_id")]
    pub oidc_issuer: Option<Issuer>,
    /// Client id of the pages at the provider: a public client that uses the authorization code flow with PKCE
    #[arg(long, env, requires = "oidc_issuer", value_parser = NonEmptyStringValueParser::new())]
    pub oidc_client_id: Option<String>,
    /// Scopes that the pages request, separated by spaces; with offline_access most providers issue a refresh token, which renews the session
    #[arg(long, env, default_value = "openid offline_access", value_parser = NonEmptyStringValueParser::new())]
    pub oidc_scope: String,
    /// API that the tokens are for, if the provider must be told: sent as `audience` and as `resource`
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub oidc_audience: Option<String>,
    /// Origins of the provider other than that of its issuer, separated by commas, such as the domain of a user pool of Amazon Cognito
    #[arg(long, env, value_delimiter = ',', value_parser = origin)]
    pub oidc_origins: Vec<String>,
}

/// The URL of a provider. Pages get it as it was written: some issuers end with a slash.
#[derive(Clone, Debug)]
pub struct Issuer {
    url: String,
    origin: String,
}

impl FromStr for Issuer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Issuer, Self::Err> {
        Ok(Issuer { url: text.into(), origin: origin(text)? })
    }
}

/// The origin of a URL. Codes and tokens are sent to it, so it must use TLS, except on this machine.
fn origin(text: &str) -> Result<String, &'static str> {
    let url = Url::parse(text.trim()).map_err(|_| "expected a URL such as https://login.example.com")?;
    match (url.scheme(), url.host_str()) {
        ("https", _) | ("http", Some("localhost" | "127.0.0.1" | "[::1]")) => Ok(url.origin().ascii_serialization()),
        _ => Err("expected a URL that begins with https://"),
    }
}

impl OidcSettings {
    pub fn is_enabled(&self) -> bool {
        self.oidc_issuer.is_some()
    }

    /// For pages. Null if users do not sign in with a provider.
    pub fn config(&self) -> Value {
        self.oidc_issuer.as_ref().map_or(Value::Null, |issuer| {
            json!({
                "issuer": issuer.url,
                "clientId": self.oidc_client_id,
                "scope": self.oidc_scope,
                "audience": self.oidc_audience,
            })
        })
    }

    /// A security policy that also allows requests to the provider.
    pub fn policy(&self, policy: &'static str) -> Cow<'static, str> {
        let Some(issuer) = &self.oidc_issuer else { return policy.into() };
        let origins = [std::slice::from_ref(&issuer.origin), &self.oidc_origins[..]].concat().join(" ");
        format!("{policy}; connect-src 'self' {origins}").into()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        oidc: OidcSettings,
    }

    fn parse(flags: &[&str]) -> Result<OidcSettings, clap::Error> {
        Cli::try_parse_from([&["test"], flags].concat()).map(|cli| cli.oidc)
    }

    #[test]
    fn pages_may_send_requests_to_the_provider_only() {
        assert_eq!(parse(&[]).unwrap().policy("default-src 'self'"), "default-src 'self'");
        assert_eq!(parse(&[]).unwrap().config(), Value::Null);
        let issuer = "https://Login.Example.com:443/realms/shop/";
        let oidc = parse(&["--oidc-issuer", issuer, "--oidc-client-id", "pages"]).unwrap();
        assert_eq!(
            oidc.policy("default-src 'self'"),
            "default-src 'self'; connect-src 'self' https://login.example.com"
        );
        assert_eq!(oidc.config()["issuer"], issuer);
        let other = ["--oidc-origins", "https://pool.auth.example.com,http://localhost:9000/x"];
        let oidc = parse(&[&["--oidc-issuer", issuer, "--oidc-client-id", "pages"], &other[..]].concat()).unwrap();
        let policy = oidc.policy("default-src 'self'");
        assert!(
            policy.ends_with("https://login.example.com https://pool.auth.example.com http://localhost:9000"),
            "{policy}"
        );
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for flags in [
            &["--oidc-issuer", "https://login.example.com"][..],
            &["--oidc-client-id", "pages"],
            &["--oidc-issuer", "login.example.com", "--oidc-client-id", "pages"],
            &["--oidc-issuer", "http://login.example.com", "--oidc-client-id", "pages"],
            &["--oidc-issuer", "data:text/plain,x", "--oidc-client-id", "pages"],
        ] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
    }
}
