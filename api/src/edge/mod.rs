//! The HTTP edge: from bytes to one valid, authorised and paid operation, and from its result to bytes.
//!
//! - [`graphql_http`]: `/graphql` with GET and POST; [`sse`] and [`websocket`]: operations with more than one result
//! - [`body`], [`request`], [`negotiation`], [`response`]: bodies, parameters, media types, status codes
//! - [`auth`], [`caller`]: who sends a request; [`rate_limits`], [`quota`]: how much one caller may use per second, and at once
//! - [`documents`], [`executor`], [`deliveries`]: validate, charge and execute an operation; [`refusal`]: why one is not executed
//! - [`access_log`], [`traces`], [`request_id`], [`health`], [`pages`], [`settings`], [`origin`]

mod access_log;
pub mod auth;
pub mod body;
mod caller;
pub mod deliveries;
pub mod documents;
pub mod executor;
mod graphql_http;
pub mod health;
mod negotiation;
pub mod origin;
pub mod pages;
pub mod quota;
pub mod rate_limits;
pub mod refusal;
mod request;
mod request_id;
mod response;
pub mod settings;
mod sse;
mod traces;
pub mod websocket;

use std::sync::Arc;

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Redirect;
use axum::{Router, middleware, routing};
use runtime::http::check_headers;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate, SizeAbove};
use tower_http::request_id::{PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::response::SetMultipleResponseHeadersLayer;

use self::auth::Authenticator;
use self::documents::limits::LimitSettings;
use self::executor::Executor;
use self::negotiation::MediaType;
use self::pages::graphiql;
use self::pages::tokens::PageTokens;
use self::quota::ConcurrencyQuota;
use self::request_id::NewRequestId;
use self::settings::{HttpSettings, SchemaExposure};
use crate::graphql::App;

/// Smaller responses are not worth compressing, in bytes.
const COMPRESS_ABOVE: u64 = 1024;

/// Headers of all responses that do not set their own: nothing may be sniffed, framed, executed or cached.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 5] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Shared by all requests.
pub struct Edge {
    pub(crate) executor: Arc<Executor>,
    pub(crate) app: App,
    pub(crate) authenticator: Authenticator,
    pub(crate) settings: HttpSettings,
    pub(crate) limits: LimitSettings,
    pub(crate) exposure: SchemaExposure,
    /// Open WebSockets and event streams.
    pub(crate) connections: Arc<ConcurrencyQuota>,
    /// Bytes of request bodies that are being read.
    pub(crate) bodies: Arc<ConcurrencyQuota>,
    /// Bytes of the buffers of WebSockets with large messages.
    pub(crate) socket_memory: Arc<ConcurrencyQuota>,
    /// WebSockets before `connection_init`.
    pub(crate) uninitialised: Arc<ConcurrencyQuota>,
    /// The tasks of open WebSockets.
    pub(crate) sockets: TaskTracker,
    /// Cancelled at SIGTERM: the service is not ready any more.
    pub(crate) draining: CancellationToken,
    /// Cancelled after the drain delay: subscriptions end.
    pub(crate) shutdown: CancellationToken,
}

impl Edge {
    /// The tokens that pages on this machine get. None if users sign in with a provider.
    fn page_tokens(&self) -> Option<&PageTokens> {
        self.exposure.page_tokens().filter(|_| !self.settings.oidc.is_enabled())
    }

    /// Completes when every WebSocket is closed.
    pub async fn sockets_closed(&self) {
        self.sockets.close();
        self.sockets.wait().await;
    }
}

/// All routes, and the layers around them. The first layer of a list is the outermost.
pub fn router(edge: Arc<Edge>) -> Router {
    let worth_compressing = DefaultPredicate::new().and(SizeAbove::new(COMPRESS_ABOVE));
    let graphql = routing::get(graphql_http::get).post(graphql_http::post).fallback(graphql_http::other_method).layer(
        ServiceBuilder::new()
            // Pages of other origins may use the GraphQL endpoint, and nothing else.
            .option_layer(edge.settings.cors()),
    );
    let layers = ServiceBuilder::new()
        // A request id goes into logs and headers, so a harmful one of a client is replaced.
        .layer(middleware::map_request(request_id::remove_unsafe))
        .layer(SetRequestIdLayer::x_request_id(NewRequestId))
        .layer(PropagateRequestIdLayer::x_request_id())
        // Outside of the compression, which must not refuse a response.
        .layer(middleware::map_request(negotiation::accept_identity))
        // Outside of the log, whose durations exclude compression.
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worth_compressing))
        // Error responses need the security headers, too.
        .layer(SetMultipleResponseHeadersLayer::if_not_present(SECURITY_HEADERS.map(Into::into).into()))
        // Needs the request id. Around the log, whose lines have the ids of the trace.
        .layer(middleware::from_fn(traces::layer))
        // Sees the final status.
        .layer(middleware::from_fn(access_log::layer))
        // Inside of the log, which shows the refusal.
        .layer(middleware::from_fn(check_headers))
        // A panic of a handler becomes a response with status 500 instead of a closed connection.
        .layer(CatchPanicLayer::custom(response::panicked));
    let root = match edge.exposure.has_page() {
        true => routing::get(async || Redirect::temporary("/graphiql/")),
        false => routing::get(response::not_found),
    };
    let pages = Router::new()
        .route("/graphiql/{*path}", routing::get(graphiql::file))
        .route("/graphiql/", routing::get(graphiql::page))
        .route("/dashboard", routing::get(pages::dashboard))
        .route("/admin", routing::get(pages::admin))
        // The page itself writes its address with a slash before parameters.
        .route("/admin/", routing::get(pages::admin))
        .route("/shop", routing::get(pages::shop))
        // The scripts of the pages read the rest of the path.
        .route("/admin/{*path}", routing::get(pages::admin))
        .route("/shop/{*path}", routing::get(pages::shop))
        .route("/pages/config.json", routing::get(pages::config))
        .route("/pages/{*path}", routing::get(pages::file))
        .route_layer(middleware::from_fn_with_state(edge.clone(), pages::asset::charge));
    Router::new()
        .route("/graphql", graphql)
        .route("/", root)
        .merge(pages)
        .route("/health/live", routing::get(health::live))
        .route("/health/ready", routing::get(health::ready))
        .fallback(response::not_found)
        .layer(layers)
        .with_state(edge)
}
