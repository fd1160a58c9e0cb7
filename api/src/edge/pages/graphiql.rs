//! The GraphiQL page, if it is enabled. `web/` builds it, and it needs no other host. A build without npm has a page that
//! loads its scripts from a CDN, in pinned versions whose hashes the browser checks.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::HOST;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use rust_embed::RustEmbed;
use serde_json::{Value, json};

use super::asset::page_file;
use crate::edge::Edge;
use crate::edge::response::not_found;

#[derive(RustEmbed)]
#[folder = "../web/dist/graphiql"]
#[allow_missing = true]
struct Built;

/// The example operations, each in a tab. `TODAY` stands for the present day in UTC.
const EXAMPLES: [&str; 9] = [
    include_str!("graphiql/place-order.graphql"),
    include_str!("graphiql/client.graphql"),
    include_str!("graphiql/client-changed.graphql"),
    include_str!("graphiql/orders.graphql"),
    include_str!("graphiql/cancel-order.graphql"),
    include_str!("graphiql/find-client.graphql"),
    include_str!("graphiql/history.graphql"),
    include_str!("graphiql/products.graphql"),
    include_str!("graphiql/sales.graphql"),
];

const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; img-src 'self' data:; \
                      worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const POLICY_WITH_CDN: &str = "default-src 'self'; script-src 'self' https://unpkg.com; style-src 'self' 'unsafe-inline' \
                               https://unpkg.com; font-src 'self' data:; img-src 'self' data:; base-uri 'none'; \
                               form-action 'none'; frame-ancestors 'none'";

/// Whether the page was built before this program.
pub fn is_built_in() -> bool {
    Built::get("index.html").is_some()
}

pub async fn page(edge: State<Arc<Edge>>, headers: HeaderMap) -> Response {
    file(edge, headers, Path("index.html".into())).await
}

/// A file of the page, or its configuration.
pub async fn file(State(edge): State<Arc<Edge>>, headers: HeaderMap, Path(path): Path<String>) -> Response {
    if !edge.exposure.has_page() {
        return not_found().await;
    }
    if path == "config.json" {
        let headers = initial_headers(edge.exposure.page_token(), &headers);
        let today = Utc::now().date_naive().to_string();
        let examples = EXAMPLES.map(|example| example.replace("TODAY", &today));
        return axum::Json(json!({ "endpoint": "/graphql", "headers": headers, "examples": examples })).into_response();
    }
    let (policy, media_type, content) = match (Built::get(&path), is_built_in(), path.as_str()) {
        (Some(file), ..) => (POLICY, file.metadata.mimetype().to_owned(), file.data),
        (None, false, "index.html") => {
            (POLICY_WITH_CDN, "text/html".into(), include_bytes!("graphiql/cdn.html").into())
        }
        (None, false, "cdn.js") => (POLICY, "text/javascript".into(), include_bytes!("graphiql/cdn.js").into()),
        _ => return (StatusCode::NOT_FOUND, "File not found.\n").into_response(),
    };
    page_file(&path, &media_type, content, policy, &headers)
}

/// The headers that a page sends until the user changes them. Only a page that was opened directly and under a local name gets
/// the token.
pub fn initial_headers(token: Option<&str>, headers: &HeaderMap) -> Value {
    let token = token.filter(|_| is_local_host(headers) && is_direct(headers));
    token.map_or(json!({}), |token| json!({ "Authorization": format!("Bearer {token}") }))
}

/// An attacker can let a name of their own resolve to this machine (DNS rebinding).
fn is_local_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    matches!(name, "localhost" | "127.0.0.1" | "[::1]") && hosts.next().is_none()
}

/// Whether no proxy, which anyone may use, and no page of another origin has sent the request.
fn is_direct(headers: &HeaderMap) -> bool {
    let of_proxy = |name: &str| matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded-");
    let sites = headers.get_all("sec-fetch-site").iter();
    !headers.keys().any(|name| of_proxy(name.as_str()))
        && sites.into_iter().all(|site| site == "same-origin" || site == "none")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn gets_token(headers: &[(&'static str, &str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        initial_headers(Some("token"), &headers.collect()) != json!({})
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
        for (name, value) in [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "orders.example.com"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
            ("via", "1.1 proxy"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(!gets_token(&[("host", "localhost"), (name, value)]), "{name}");
        }
    }
}
