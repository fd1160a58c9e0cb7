//! `/graphql` with GET and POST: [GraphQL over HTTP](https://graphql.github.io/graphql-over-http/draft/). A GET request can
//! also open a WebSocket.

use std::net::SocketAddr;
use std::sync::Arc;

use apollo_compiler::executable::OperationType;
use axum::Extension;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::header::{ACCEPT, ALLOW, CONTENT_ENCODING, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use runtime::http::stream::Received;

use super::body::{BYTES_PER_POINT, RequestBody};
use super::caller::Caller;
use super::executor::{PreparedOperation, VALIDATION_COST};
use super::negotiation::{Accepted, MediaType, is_json};
use super::quota::QuotaKey;
use super::refusal::{self, Refusal};
use super::request::{Parameters, UrlParameters};
use super::{Edge, response, sse, websocket};

pub async fn post(
    State(edge): State<Arc<Edge>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(accepted) = Accepted::from_headers(&headers) else { return not_acceptable(&edge, &headers, peer) };
    // The token is verified first, so that the body has an owner who pays for it.
    let result = match edge.identify(&headers, peer).await {
        Ok(caller) => match read_body(&edge, &headers, &caller, body).await {
            Ok(parameters) => execute(&edge, &caller, accepted, parameters, &Method::POST).await,
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => {
            let address = QuotaKey::of_address(edge.address(&headers, peer));
            RequestBody::new(edge, address, body).discard().await;
            Err(refusal)
        }
    };
    result.unwrap_or_else(|refusal| response::refused(accepted.media_type, refusal))
}

/// A query in the URL or the opening of a WebSocket. Browsers are redirected to GraphiQL.
pub async fn get(
    State(edge): State<Arc<Edge>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    received: Option<Extension<Received>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    url: Uri,
) -> Response {
    if is_websocket(&headers) {
        return match upgrade {
            Ok(upgrade) => {
                let Extension(received) = received.unwrap_or_default();
                let opened = websocket::open(edge, &headers, peer, upgrade, received).await;
                opened.unwrap_or_else(|refusal| response::refused(MediaType::Json, refusal))
            }
            Err(rejection) => {
                let refusal = Refusal::http(rejection.status(), "BAD_REQUEST", rejection.body_text());
                response::refused(MediaType::Json, charge_refused(&edge, &headers, peer, 1, refusal))
            }
        };
    }
    let wants_html = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|a| a.contains("text/html"));
    if wants_html && url.query().is_none_or(str::is_empty) && edge.exposure.has_page() {
        return Redirect::temporary("/graphiql/").into_response();
    }
    let Some(accepted) = Accepted::from_headers(&headers) else { return not_acceptable(&edge, &headers, peer) };
    let result = async {
        // As for a body, the token is verified first, so that the parameters have an owner who pays for them.
        let caller = edge.identify(&headers, peer).await?;
        let parameters = charge_if_refused(&edge, &caller, read_url(&edge, &caller, &url))?;
        execute(&edge, &caller, accepted, parameters, &Method::GET).await
    };
    result.await.unwrap_or_else(|refusal| response::refused(accepted.media_type, refusal))
}

/// Other protocols are ignored: Java's HTTP client offers `h2c` with a request that it wants to be answered.
fn is_websocket(headers: &HeaderMap) -> bool {
    let protocols = headers.get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    protocols.map(str::trim).any(|protocol| protocol.eq_ignore_ascii_case("websocket"))
}

/// Charges a request that is refused before its token is verified to the address of its sender.
pub fn charge_refused(edge: &Edge, headers: &HeaderMap, peer: SocketAddr, cost: usize, refusal: Refusal) -> Refusal {
    let key = QuotaKey::of_address(edge.address(headers, peer));
    edge.executor.charge(&key, cost).err().unwrap_or(refusal)
}

/// The response to other methods, among them PUT, with which graphql-sse begins in its single connection mode.
pub async fn other_method(
    State(edge): State<Arc<Edge>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let message =
        "Send queries with GET or POST, and mutations with POST. For event streams use the distinct connections mode.";
    let refusal = charge_refused(&edge, &headers, peer, 1, Refusal::method_not_allowed(message));
    let mut response = response::refused(MediaType::Json, refusal);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
    response
}

fn not_acceptable(edge: &Edge, headers: &HeaderMap, peer: SocketAddr) -> Response {
    let message = "Supported media types: application/json, application/graphql-response+json, text/event-stream.";
    let refusal = Refusal::http(StatusCode::NOT_ACCEPTABLE, "BAD_REQUEST", message);
    response::refused(MediaType::Json, charge_refused(edge, headers, peer, 1, refusal))
}

/// Reads the parameters in the body.
async fn read_body(edge: &Arc<Edge>, headers: &HeaderMap, caller: &Caller, body: Body) -> Result<Parameters, Refusal> {
    let mut body = RequestBody::new(edge.clone(), caller.quota_key(), body);
    let result = match check_content_type(headers) {
        Ok(()) => match body.read().await {
            Ok((bytes, _permit)) => Parameters::from_json(&bytes).map_err(Refusal::bad_request),
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    match result {
        Err(Refusal::Http { .. } | Refusal::RateLimited(_)) => body.discard().await,
        // The sender may never send the rest, so it gets its response first.
        Err(Refusal::Busy | Refusal::OverQuota) => drop(tokio::spawn(async move { body.discard().await })),
        _ => {}
    }
    charge_if_refused(edge, caller, result)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    if !is_json(headers) || headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let message = "Send the request as application/json without compression.";
        return Err(Refusal::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, "BAD_REQUEST", message));
    }
    Ok(())
}

/// Reads the parameters in the URL. Its bytes cost as much as those of a body, and are paid before they are parsed.
fn read_url(edge: &Edge, caller: &Caller, url: &Uri) -> Result<Parameters, Refusal> {
    if !edge.settings.graphql_get {
        return Err(Refusal::method_not_allowed("Send GraphQL requests with POST."));
    }
    edge.executor.charge(&caller.quota_key(), url.query().map_or(0, str::len) / BYTES_PER_POINT)?;
    let parameters = Query::<UrlParameters>::try_from_uri(url);
    let Query(parameters) = parameters.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
    parameters.try_into().map_err(Refusal::bad_request)
}

/// A refused request costs as much as the validation of a document, unless it is refused because its sender cannot pay.
fn charge_if_refused(edge: &Edge, caller: &Caller, result: Result<Parameters, Refusal>) -> Result<Parameters, Refusal> {
    if let Err(Refusal::Http { .. } | Refusal::Busy | Refusal::OverQuota) = result {
        edge.executor.charge(&caller.quota_key(), VALIDATION_COST)?;
    }
    result
}

async fn execute(
    edge: &Arc<Edge>,
    caller: &Caller,
    accepted: Accepted,
    parameters: Parameters,
    method: &Method,
) -> Result<Response, Refusal> {
    let prepared = edge.executor.prepare(parameters, caller).await?;
    let (kind, is_get) = (prepared.info.kind, method == Method::GET);
    let as_stream =
        accepted.media_type == MediaType::EventStream || (kind == OperationType::Subscription && accepted.event_stream);
    if as_stream && !(is_get && kind == OperationType::Mutation) {
        return sse::stream(edge, caller, prepared);
    }
    let info = prepared.info.clone();
    let result = run(edge, accepted.media_type, prepared, is_get).await;
    let mut response = result.unwrap_or_else(|refusal| response::refused(accepted.media_type, refusal));
    response.extensions_mut().insert(info); // for the access log
    Ok(response)
}

/// Executes an operation that has a single result.
async fn run(
    edge: &Edge,
    media_type: MediaType,
    prepared: PreparedOperation,
    is_get: bool,
) -> Result<Response, Refusal> {
    match prepared.info.kind {
        OperationType::Mutation if is_get => {
            Err(Refusal::method_not_allowed("GET accepts only queries. Send mutations with POST."))
        }
        OperationType::Subscription => {
            let message = "Subscriptions need a WebSocket (graphql-transport-ws) or `Accept: text/event-stream`.";
            Err(refusal::error("BAD_REQUEST", message, None).into())
        }
        OperationType::Query | OperationType::Mutation => {
            let result = edge.executor.execute(prepared).await?;
            Ok(response::executed(media_type, result))
        }
    }
}
