//! The tokens that pages on this machine get, so that nobody needs to sign in during development.

use std::time::Duration;

use axum::http::header::HOST;
use axum::http::{HeaderMap, Version};
use serde_json::{Value, json};

use crate::edge::auth::TokenSettings;

/// What a customer of a shop may do.
const CLIENT_SCOPES: &str = "orders:place orders:read orders:cancel clients:read products:read";
const CLIENT_TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

#[derive(Clone, Debug)]
pub struct PageTokens {
    developer: String,
    settings: Box<TokenSettings>,
}

impl PageTokens {
    /// `developer` is the token that pages send until the user enters another one. `settings` sign tokens for single clients.
    pub fn new(developer: String, settings: TokenSettings) -> PageTokens {
        PageTokens { developer, settings: Box::new(settings) }
    }

    /// The token of a customer: only for this client. None if there is no secret that signs it.
    fn of_client(&self, id: i64) -> Option<String> {
        let (subject, client) = (format!("client-{id}"), id.to_string());
        self.settings.mint(&subject, CLIENT_SCOPES, Some(&client), CLIENT_TOKEN_LIFETIME).ok()
    }
}

/// The headers that a page sends until the user changes them: with the token of the developer, or one for a single client. Only a
/// page that was opened directly and under a local name gets a token.
pub fn initial_headers(
    tokens: Option<&PageTokens>,
    client: Option<i64>,
    version: Version,
    headers: &HeaderMap,
) -> Value {
    let tokens = tokens.filter(|_| is_local_host(headers) && is_direct(version, headers));
    let token = tokens.and_then(|tokens| match client {
        None => Some(tokens.developer.clone()),
        Some(id) => tokens.of_client(id),
    });
    token.map_or(json!({}), |token| json!({ "Authorization": format!("Bearer {token}") }))
}

/// An attacker can let a name of their own resolve to this machine (DNS rebinding).
fn is_local_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    matches!(name, "localhost" | "127.0.0.1" | "[::1]") && hosts.next().is_none()
}

/// Whether no proxy, which anyone may use, and no page of another origin has sent the request. Browsers speak HTTP/1.1 and send no
/// headers such as `X-Forwarded-For`; this service itself adds `X-Request-Id`. nginx may reveal itself only by HTTP/1.0, its default before
/// release 1.29.7.
fn is_direct(version: Version, headers: &HeaderMap) -> bool {
    let of_proxy = |name: &str| {
        matches!(name, "cdn-loop" | "forwarded" | "true-client-ip" | "via")
            || name.starts_with("x-") && name != "x-request-id"
            || name.starts_with("cf-")
    };
    let sites = headers.get_all("sec-fetch-site").iter();
    version >= Version::HTTP_11
        && !headers.keys().any(|name| of_proxy(name.as_str()))
        && sites.into_iter().all(|site| site == "same-origin" || site == "none")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        tokens: TokenSettings,
    }

    fn tokens() -> PageTokens {
        PageTokens::new("token".into(), Cli::parse_from(["test", "--jwt-secret", &"s".repeat(32)]).tokens)
    }

    fn gets_token(headers: &[(&'static str, &str)]) -> bool {
        gets_token_in(Version::HTTP_11, headers)
    }

    fn gets_token_in(version: Version, headers: &[(&'static str, &str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let (headers, tokens) = (headers.collect(), tokens());
        let found =
            [None, Some(1)].map(|client| initial_headers(Some(&tokens), client, version, &headers) != json!({}));
        assert_eq!(found[0], found[1], "the token for a client is as protected as that of the developer");
        found[0]
    }

    #[test]
    fn only_loopback_names_get_the_token() {
        let is_local = |host: &str| gets_token(&[("host", host)]);
        assert!(["localhost:8080", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080"].into_iter().all(is_local));
        assert!(!["evil.example.com", "127.0.0.1.evil.com:8080", "localhost.evil.com", ""].into_iter().any(is_local));
        assert!(!gets_token(&[]));
    }

    #[test]
    fn a_request_of_a_proxy_or_another_site_gets_no_token() {
        for site in ["same-origin", "none"] {
            assert!(gets_token(&[("host", "localhost"), ("sec-fetch-site", site)]), "{site}");
        }
        assert!(gets_token(&[("host", "localhost"), ("x-request-id", "1")]));
        for (name, value) in [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "orders.example.com"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "192.0.2.1"),
            ("x-client-ip", "192.0.2.1"),
            ("x-original-forwarded-for", "192.0.2.1"),
            ("x-envoy-external-address", "192.0.2.1"),
            ("cf-connecting-ip", "192.0.2.1"),
            ("true-client-ip", "192.0.2.1"),
            ("cdn-loop", "cdn"),
            ("forwarded", "for=192.0.2.1"),
            ("via", "1.1 proxy"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(!gets_token(&[("host", "localhost"), (name, value)]), "{name}");
        }
        assert!(!gets_token_in(Version::HTTP_10, &[("host", "localhost")]), "as nginx sends it");
    }
}
