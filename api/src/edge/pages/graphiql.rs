//! The GraphiQL page, if it is enabled. `web/` builds it, and it needs no other host. A build without npm has a page that
//! loads its scripts from a CDN, in pinned versions whose hashes the browser checks.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use rust_embed::RustEmbed;
use serde_json::json;

use super::asset::page_file;
use super::tokens::initial_headers;
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

pub async fn page(edge: State<Arc<Edge>>, version: Version, headers: HeaderMap) -> Response {
    file(edge, version, headers, Path("index.html".into())).await
}

/// A file of the page, or its configuration.
pub async fn file(
    State(edge): State<Arc<Edge>>,
    version: Version,
    headers: HeaderMap,
    Path(path): Path<String>,
) -> Response {
    if !edge.exposure.has_page() {
        return not_found().await;
    }
    if path == "config.json" {
        let headers = initial_headers(edge.page_tokens(), None, version, &headers);
        let today = Utc::now().date_naive().to_string();
        let examples = EXAMPLES.map(|example| example.replace("TODAY", &today));
        let oidc = edge.settings.oidc.config();
        return axum::Json(json!({ "endpoint": "/graphql", "headers": headers, "examples": examples, "oidc": oidc }))
            .into_response();
    }
    let (policy, media_type, content) = match (Built::get(&path), is_built_in(), path.as_str()) {
        (Some(file), ..) => (POLICY, file.metadata.mimetype().to_owned(), file.data),
        (None, false, "index.html") => {
            (POLICY_WITH_CDN, "text/html".into(), include_bytes!("graphiql/cdn.html").into())
        }
        (None, false, "cdn.js") => (POLICY, "text/javascript".into(), include_bytes!("graphiql/cdn.js").into()),
        _ => return (StatusCode::NOT_FOUND, "File not found.\n").into_response(),
    };
    page_file(&path, &media_type, content, None, &edge.settings.oidc.policy(policy), &headers)
}
