//! The HTTP face: `/graphql` and `/health/…`.
//!
//! - `parameters` and `response`: a request as HTTP has it, and what is sent back
//! - `sse` and `websocket`: answers that go on
//! - [`explorer`]: GraphiQL; [`pages`]: the dashboard and the shop; `access`: the log, and the headers of every answer

mod access_log;
pub mod auth;
pub mod documents;
pub mod executor;
pub mod pages;
mod parameters;
pub mod quota;
pub mod refusal;
mod response;
mod sse;
mod websocket;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use apollo_compiler::executable::OperationType;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Json, Router, middleware, routing};
use futures::future;
use runtime::duration_from;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate, SizeAbove};
use tower_http::cors::{AllowOrigin, CorsLayer};

use self::access_log::RequestId;
use self::pages::graphiql::{self, Exploring};
use self::parameters::UrlParameters;
use self::response::{Accepted, MediaType, Outcome};
use crate::edge::auth::{Authenticator, InvalidToken};
use crate::edge::documents::limits::LimitSettings;
use crate::edge::executor::{Executor, NEW_COST, Parameters};
use crate::edge::quota::{Caller, Key, Share, Shares};
use crate::edge::refusal::Refusal;
use crate::graphql::App;
use crate::outbox::relay::Queue;

/// How long a client may take to send the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers below this size are not worth compressing.
const COMPRESS_ABOVE: u64 = 1024;
/// How long a browser may go by an answer about another origin.
const PREFLIGHT_LIFETIME: Duration = Duration::from_secs(3600);
/// How long a readiness check waits for a store.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpSettings {
    /// Whether queries may be sent with GET as well
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub graphql_get: bool,
    /// Origins whose pages may call this service from a browser, separated by commas, or * for any; none if unset
    #[arg(long, env, value_delimiter = ',', value_parser = parse_origin)]
    pub cors_origins: Vec<HeaderValue>,
    /// Proxies in front of this service that add to X-Forwarded-For: tells whose address a request without token counts for
    #[arg(long, env, default_value_t = 0)]
    pub trusted_proxies: usize,
    /// Serve the pages at /dashboard and /shop
    #[arg(long, env)]
    pub dashboard: bool,
    /// How long a connection may be idle, or take for a request's headers; longer than a load balancer keeps it
    #[arg(long, env, default_value = "75s", value_parser = duration_from(Duration::from_secs(1)))]
    pub idle_timeout: Duration,
    /// How long to go on after SIGTERM while /health/ready says 503; longer than a load balancer takes to notice
    #[arg(long, env, default_value = "0s", value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
}

/// An origin as browsers send it (RFC 6454, section 6.2).
fn parse_origin(text: &str) -> Result<HeaderValue, String> {
    let text = text.trim().to_ascii_lowercase();
    let default_port = if text.starts_with("https:") { ":443" } else { ":80" };
    let origin = text.strip_suffix(default_port).unwrap_or(&text);
    let host = origin.strip_prefix("https://").or(origin.strip_prefix("http://"));
    if !matches!(origin, "*" | "") && host.is_none_or(|host| host.is_empty() || host.contains(['/', ' '])) {
        return Err("not an origin such as https://shop.example.com, nor *".into());
    }
    origin.parse().map_err(|_| "has a character that no origin has".into())
}

impl HttpSettings {
    fn allows_any_origin(&self) -> bool {
        self.cors_origins.iter().any(|origin| origin == "*")
    }

    fn cors(&self) -> CorsLayer {
        let origins = match self.allows_any_origin() {
            true => AllowOrigin::any(),
            false => AllowOrigin::list(self.cors_origins.clone()),
        };
        let headers = [ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName::from_static("traceparent")];
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(headers)
            .expose_headers([RETRY_AFTER, HeaderName::from_static("x-request-id")])
            .max_age(PREFLIGHT_LIFETIME)
    }
}

/// What requests are answered with.
pub struct Edge {
    pub(crate) executor: Arc<Executor>,
    pub(crate) app: App,
    pub(crate) queue: Queue,
    pub(crate) authenticator: Authenticator,
    pub(crate) settings: HttpSettings,
    pub(crate) limits: LimitSettings,
    pub(crate) exploring: Exploring,
    /// WebSockets and event streams that may still be opened.
    pub(crate) free_connections: Arc<Semaphore>,
    /// Those that are open.
    pub(crate) connections: Arc<Shares>,
    /// WebSockets that are open.
    pub(crate) sockets: TaskTracker,
    /// The process is to end: it is not ready any more.
    pub(crate) stopping: CancellationToken,
    /// Nothing new begins, and what goes on for ever ends.
    pub(crate) shutdown: CancellationToken,
}

/// A WebSocket or an event stream that is open; makes room when dropped.
struct LiveConnection {
    _place: OwnedSemaphorePermit,
    /// Of its caller.
    share: Share,
}

impl Edge {
    /// Returns once every WebSocket has been closed, after the shutdown.
    pub async fn drained(&self) {
        self.sockets.close();
        self.sockets.wait().await;
    }

    /// Who sent a request. Without a token it comes from nobody, who may read the schema.
    ///
    /// # Errors
    /// When there is a token that proves nothing: what to answer.
    async fn caller(&self, headers: &HeaderMap, peer: SocketAddr, media_type: MediaType) -> Result<Caller, Response> {
        let address = self.address(headers, peer);
        let identity = match bearer_token(headers) {
            Ok(Some(token)) => self.authenticator.authenticate(token).await.map(Some),
            Ok(None) => Ok(None),
            Err(invalid) => Err(invalid),
        };
        let Ok(identity) = identity else {
            return Err(match self.executor.charge(&Key::of_address(address), NEW_COST) {
                Ok(()) => response::errors(media_type, Outcome::Unauthenticated, &[unauthenticated()]),
                Err(refused) => response::not_executed(media_type, refused),
            });
        };
        let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
        let traceparent = traceparent.filter(|value| is_traceparent(value)).map(Into::into);
        Ok(Caller { identity, address, traceparent })
    }

    /// What the outermost trusted proxy has seen.
    fn address(&self, headers: &HeaderMap, peer: SocketAddr) -> IpAddr {
        let Some(proxies) = self.settings.trusted_proxies.checked_sub(1) else { return peer.ip() };
        let forwarded =
            headers.get_all("x-forwarded-for").iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let forwarded = forwarded.collect::<Vec<_>>().join(",");
        forwarded.rsplit(',').nth(proxies).and_then(parse_address).unwrap_or(peer.ip())
    }

    /// A place for one more WebSocket or event stream.
    fn live_connection(&self, caller: &Caller) -> Result<LiveConnection, Refusal> {
        let place = self.free_connections.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let share = self.connections.take(caller.key()).ok_or(Refusal::Busy)?;
        Ok(LiveConnection { _place: place, share })
    }
}

/// As proxies write addresses: some add the port, and brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse().map(|address: SocketAddr| address.ip());
    let in_brackets = text.trim_start_matches('[').trim_end_matches(']');
    in_brackets.parse().or_else(|_| with_port()).ok()
}

pub fn router(edge: Arc<Edge>) -> Router {
    let worth_it = DefaultPredicate::new().and(SizeAbove::new(COMPRESS_ABOVE));
    let root = match edge.exploring.has_page() {
        true => routing::get(async || Redirect::temporary("/graphiql/")),
        false => routing::get(not_found),
    };
    let mut graphql = Router::new().route("/graphql", routing::get(get).post(post));
    if !edge.settings.cors_origins.is_empty() {
        graphql = graphql.layer(edge.settings.cors()); // only these answers are for other origins
    }
    graphql
        .route("/", root)
        .route("/graphiql/{*path}", routing::get(graphiql::file))
        .route("/graphiql/", routing::get(graphiql::page))
        .route("/dashboard", routing::get(pages::dashboard))
        .route("/shop", routing::get(pages::shop))
        .route("/pages/{*path}", routing::get(pages::file))
        .route("/health/live", routing::get(async || "ok\n"))
        .route("/health/ready", routing::get(ready))
        .fallback(not_found)
        .layer(middleware::from_fn(access_log::layer))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worth_it))
        .with_state(edge)
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "There is nothing here. GraphQL is at /graphql.\n").into_response()
}

async fn post(
    State(edge): State<Arc<Edge>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(accepted) = Accepted::by(&headers) else { return nothing_acceptable() };
    let media_type = accepted.media_type;
    if !is_json(&headers) || headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let message = "Send the request as application/json, not compressed.";
        return response::error(media_type, Outcome::OtherMediaTypeNeeded, "BAD_REQUEST", message);
    }
    let max = edge.limits.max_body_bytes;
    let body = match timeout(BODY_TIMEOUT, to_bytes(body, max)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => {
            let too_large =
                std::error::Error::source(&error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
            return match too_large {
                true => {
                    let message = format!("The request is larger than {max} bytes.");
                    response::error(media_type, Outcome::TooLarge, "MAX_BODY_LIMIT", message)
                }
                false => response::bad_request(media_type, "The request's body could not be read."),
            };
        }
        Err(_) => {
            let message = format!("The request's body did not come within {BODY_TIMEOUT:?}.");
            return response::error(media_type, Outcome::TooSlow, "REQUEST_TIMEOUT", message);
        }
    };
    match parameters::from_json(&body) {
        Ok(parameters) => execute(&edge, &headers, peer, accepted, id, parameters, &Method::POST).await,
        Err(message) => response::bad_request(media_type, message),
    }
}

/// A query in the URL, or a WebSocket; a browser is shown to GraphiQL.
async fn get(
    State(edge): State<Arc<Edge>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    parameters: Result<Query<UrlParameters>, QueryRejection>,
) -> Response {
    if headers.contains_key(UPGRADE) {
        return match socket {
            Ok(socket) => websocket::open(edge, headers, peer, id, socket).await,
            Err(rejection) => rejection.into_response(),
        };
    }
    let wants_html = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|a| a.contains("text/html"));
    let asks_nothing = parameters.as_ref().is_ok_and(|Query(parameters)| parameters.are_absent());
    if wants_html && asks_nothing && edge.exploring.has_page() {
        return Redirect::temporary("/graphiql/").into_response();
    }
    let Some(accepted) = Accepted::by(&headers) else { return nothing_acceptable() };
    let media_type = accepted.media_type;
    if !edge.settings.graphql_get {
        return other_method_needed(media_type, "Send GraphQL requests with POST.");
    }
    let parameters = match parameters {
        Ok(Query(parameters)) => parameters.parameters(),
        Err(rejection) => Err(rejection.body_text()),
    };
    match parameters {
        Ok(parameters) => execute(&edge, &headers, peer, accepted, id, parameters, &Method::GET).await,
        Err(message) => response::bad_request(media_type, message),
    }
}

async fn execute(
    edge: &Arc<Edge>,
    headers: &HeaderMap,
    peer: SocketAddr,
    accepted: Accepted,
    id: RequestId,
    parameters: Parameters,
    method: &Method,
) -> Response {
    let media_type = accepted.media_type;
    let caller = match edge.caller(headers, peer, media_type).await {
        Ok(caller) => caller,
        Err(response) => return response,
    };
    let prepared = match edge.executor.prepare(parameters, &caller) {
        Ok(prepared) => prepared,
        Err(refused) if media_type == MediaType::EventStream => return sse::refuse(refused),
        Err(refused) => return response::not_executed(media_type, refused),
    };
    let operation = prepared.operation.clone();
    let mut response = match operation.kind {
        OperationType::Mutation if *method == Method::GET => {
            other_method_needed(media_type, "Only queries can be sent with GET. Send this with POST.")
        }
        // It is logged when it ends.
        kind if media_type == MediaType::EventStream
            || (kind == OperationType::Subscription && accepted.event_stream) =>
        {
            return sse::stream(edge, &caller, id, prepared);
        }
        OperationType::Subscription => {
            let message = "Subscriptions need a WebSocket (graphql-transport-ws), or Accept: text/event-stream.";
            response::error(media_type, Outcome::NotExecuted, "BAD_REQUEST", message)
        }
        OperationType::Query | OperationType::Mutation => match edge.executor.execute(prepared).await {
            Ok(answer) => response::answer(media_type, &answer),
            Err(refused) => response::not_executed(media_type, refused),
        },
    };
    response.extensions_mut().insert(operation);
    response
}

fn unauthenticated() -> async_graphql::ServerError {
    async_graphql::Error::from(crate::graphql::error::Error::Unauthenticated).into_server_error(Default::default())
}

fn other_method_needed(media_type: MediaType, message: &str) -> Response {
    response::error(media_type, Outcome::OtherMethodNeeded, "BAD_REQUEST", message)
}

fn nothing_acceptable() -> Response {
    let message = "Answers are application/json, application/graphql-response+json or text/event-stream.";
    response::error(MediaType::Json, Outcome::NothingAcceptable, "BAD_REQUEST", message)
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let charset = parameters.trim().to_ascii_lowercase();
    media_type.trim().eq_ignore_ascii_case("application/json")
        && matches!(charset.as_str(), "" | "charset=utf-8" | "charset=\"utf-8\"")
}

/// Version 00: 32, 16 and 2 lower-case hexadecimal digits. Another is ignored, as the specification has it.
fn is_traceparent(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let hexadecimal = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]) && parts[0] == "00" && parts.iter().all(hexadecimal)
}

/// RFC 6750, section 2.1. Another scheme, or bytes that no token has, prove nothing.
fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, InvalidToken> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    value.to_str().ok().and_then(bearer).map(Some).ok_or(InvalidToken)
}

/// The token of `Bearer …`.
fn bearer(credentials: &str) -> Option<&str> {
    let (scheme, token) = credentials.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Ready means: orders can be written and clients read. The queue is told of too, but orders do not need it to be there.
async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    let within = |check| async { timeout(CHECK_TIMEOUT, check).await.unwrap_or(false) };
    let database: future::BoxFuture<bool> = Box::pin(async { edge.app.db.ping().await.is_ok() });
    let read_model = Box::pin(async { edge.app.read_model.ping().await.is_ok() });
    let queue = Box::pin(async { edge.queue.check().await.is_ok() });
    let (database, read_model, queue) = future::join3(within(database), within(read_model), within(queue)).await;

    let stopping = edge.stopping.is_cancelled();
    let good = database && read_model && !stopping;
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = |reachable| if reachable { "reachable" } else { "unreachable" };
    let mut body = json!({ "database": word(database), "readModel": word(read_model), "queue": word(queue) });
    if stopping {
        body["stopping"] = json!(true);
    }
    (status, Json(body)).into_response()
}
