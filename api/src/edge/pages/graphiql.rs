//! GraphiQL, where it is switched on: the page that `web/` builds, which needs no other host. A build without it has a
//! page whose scripts come from a CDN, in pinned versions whose hashes the browser checks.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;
use serde_json::{Value, json};

use crate::edge::{Edge, not_found};

/// What may be asked of the schema itself.
#[derive(Clone, Debug)]
pub enum Exploring {
    Off,
    Introspection,
    /// Introspection, and a page for it.
    Graphiql {
        /// What the page sends, to begin with. Whoever can open the page can use it.
        token: Option<String>,
    },
}

impl Exploring {
    pub fn has_page(&self) -> bool {
        matches!(self, Exploring::Graphiql { .. })
    }

    /// What pages send, to begin with.
    pub fn token(&self) -> Option<&str> {
        match self {
            Exploring::Graphiql { token } => token.as_deref(),
            _ => None,
        }
    }

    pub fn allows_introspection(&self) -> bool {
        !matches!(self, Exploring::Off)
    }
}

#[derive(RustEmbed)]
#[folder = "../web/dist/graphiql"]
#[allow_missing = true]
struct Built;

const EXAMPLES: [&str; 4] = [
    include_str!("graphiql/place-order.graphql"),
    include_str!("graphiql/client.graphql"),
    include_str!("graphiql/client-changed.graphql"),
    include_str!("graphiql/products.graphql"),
];

const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; img-src 'self' data:; \
                      worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const POLICY_WITH_CDN: &str = "default-src 'self'; script-src 'self' https://unpkg.com; style-src 'self' 'unsafe-inline' \
                               https://unpkg.com; font-src 'self' data:; img-src 'self' data:; base-uri 'none'; \
                               form-action 'none'; frame-ancestors 'none'";

/// Whether the page was there when this was built.
pub fn is_built_in() -> bool {
    Built::get("index.html").is_some()
}

pub async fn page(edge: State<Arc<Edge>>, headers: HeaderMap) -> Response {
    file(edge, headers, Path("index.html".into())).await
}

/// A file of the page, or its configuration.
pub async fn file(State(edge): State<Arc<Edge>>, headers: HeaderMap, Path(path): Path<String>) -> Response {
    if !edge.exploring.has_page() {
        return not_found().await;
    }
    if path == "config.json" {
        let headers = to_send(edge.exploring.token(), &headers);
        return axum::Json(json!({ "endpoint": "/graphql", "headers": headers, "examples": EXAMPLES })).into_response();
    }
    let (policy, media_type, content) = match (Built::get(&path), is_built_in(), path.as_str()) {
        (Some(file), ..) => (POLICY, file.metadata.mimetype().to_owned(), file.data),
        (None, false, "index.html") => {
            (POLICY_WITH_CDN, "text/html".into(), include_bytes!("graphiql/cdn.html").into())
        }
        (None, false, "cdn.js") => (POLICY, "text/javascript".into(), include_bytes!("graphiql/cdn.js").into()),
        _ => return (StatusCode::NOT_FOUND, "There is no such file.\n").into_response(),
    };
    file_of_page(&path, &media_type, content, policy)
}

/// A file of a page. The names of the assets have hashes of their contents.
pub fn file_of_page(path: &str, media_type: &str, content: Cow<'static, [u8]>, policy: &str) -> Response {
    let cache = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = [(CONTENT_TYPE, media_type), (CACHE_CONTROL, cache), (CONTENT_SECURITY_POLICY, policy)];
    (headers, content.into_owned()).into_response()
}

/// The headers that a page sends to begin with. A page of another host, whose name was made to lead here, is not to get
/// the token.
pub fn to_send(token: Option<&str>, headers: &HeaderMap) -> Value {
    let token = token.filter(|_| is_for_this_machine(headers));
    token.map_or(json!({}), |token| json!({ "Authorization": format!("Bearer {token}") }))
}

fn is_for_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_only_leads_here_is_not_this_machine() {
        let is = |host: &str| is_for_this_machine(&HeaderMap::from_iter([(HOST, host.parse().unwrap())]));
        assert!(["localhost:8080", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080"].into_iter().all(is));
        assert!(!["evil.example.com", "127.0.0.1.evil.com:8080", "localhost.evil.com", ""].into_iter().any(is));
    }
}
