//! The back office and the shop, if they are enabled. `web/` builds these pages, and they need no other host, except for an
//! OpenID Connect provider. They send only the documents of their manifest.

pub mod asset;
pub mod graphiql;
pub mod oidc;
pub mod tokens;

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Version};
use axum::response::{IntoResponse, Redirect, Response};
use rust_embed::RustEmbed;
use serde::Deserialize;
use serde_json::json;

use self::asset::page_file;
use self::tokens::initial_headers;
use super::Edge;
use super::auth::ClaimSettings;
use super::response::not_found;
use super::settings::HttpSettings;

#[derive(RustEmbed)]
#[folder = "../web/dist/pages"]
#[allow_missing = true]
struct Built;

const POLICY: &str =
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether the pages were built before this program.
pub fn are_built_in() -> bool {
    manifest().is_some()
}

/// The manifest of the documents that the pages send.
pub fn manifest() -> Option<Vec<u8>> {
    Built::get("documents.json").map(|file| file.data.into_owned())
}

/// The former address of the back office.
pub async fn dashboard() -> Redirect {
    Redirect::permanent("/admin")
}

pub async fn admin(edge: State<Arc<Edge>>, headers: HeaderMap) -> Response {
    file(edge, headers, Path("admin.html".into())).await
}

pub async fn shop(edge: State<Arc<Edge>>, headers: HeaderMap) -> Response {
    file(edge, headers, Path("shop.html".into())).await
}

#[derive(Deserialize)]
pub struct ConfigQuery {
    /// The id of the only client that the token is for. None for the token of the developer.
    client: Option<i64>,
}

/// The configuration of the pages: headers with a token during development, how a token names its client and its scopes, and the
/// locale and the time zone of the shop, and the OpenID Connect provider.
pub async fn config(
    State(edge): State<Arc<Edge>>,
    version: Version,
    headers: HeaderMap,
    Query(ConfigQuery { client }): Query<ConfigQuery>,
) -> Response {
    if !edge.settings.dashboard {
        return not_found().await;
    }
    let headers = initial_headers(edge.page_tokens(), client, version, &headers);
    let ClaimSettings { jwt_client_claim, jwt_scope_claim, jwt_scope_prefix, .. } = edge.authenticator.claims();
    let claims = json!({ "client": jwt_client_claim, "scope": jwt_scope_claim, "scopePrefix": jwt_scope_prefix });
    let HttpSettings { shop_locale, shop_time_zone, .. } = &edge.settings;
    let time_zone = shop_time_zone.map(|zone| zone.name());
    let oidc = edge.settings.oidc.config();
    let config =
        json!({ "headers": headers, "claims": claims, "locale": shop_locale, "timeZone": time_zone, "oidc": oidc });
    axum::Json(config).into_response()
}

/// A file of the pages.
pub async fn file(State(edge): State<Arc<Edge>>, headers: HeaderMap, Path(path): Path<String>) -> Response {
    if !edge.settings.dashboard {
        return not_found().await;
    }
    match Built::get(&path) {
        Some(file) => {
            let media_type = file.metadata.mimetype().to_owned();
            let brotli = Built::get(&format!("{path}.br")).map(|file| file.data);
            page_file(&path, &media_type, file.data, brotli, &edge.settings.oidc.policy(POLICY), &headers)
        }
        None if are_built_in() => (StatusCode::NOT_FOUND, "File not found.\n").into_response(),
        None => (StatusCode::NOT_FOUND, "This program was built without its pages. `make build` includes them.\n")
            .into_response(),
    }
}
