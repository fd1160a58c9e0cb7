//! One line in the log for each request, and the headers that every answer has.

use std::time::Instant;

use apollo_compiler::executable::OperationType;
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{debug, info};
use uuid::Uuid;

use super::response::Code;
use crate::edge::executor::Operation;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ids from outside are replaced.
const MAX_ID: usize = 64;
/// What is told of longer operation names.
const MAX_NAME: usize = 64;

/// The id of a request: the one it came with, if that is harmless, or a new one.
#[derive(Clone)]
pub struct RequestId(pub String);

impl RequestId {
    fn of(headers: &HeaderMap) -> RequestId {
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let harmless = |id: &&str| {
            (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b))
        };
        RequestId(given.filter(harmless).map_or_else(|| Uuid::now_v7().to_string(), Into::into))
    }
}

/// Logs what `/graphql` answers, adds the headers.
pub async fn layer(mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = RequestId::of(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;

    let status = response.status().as_u16();
    let duration_ms = milliseconds(began);
    let code = response.extensions_mut().remove::<Code>().map(|Code(code)| code);
    match response.extensions_mut().remove::<Operation>() {
        Some(operation) => operation.log(&id, "http", Some(status), began),
        None if path == "/graphql" => info!(%method, path, status, code, duration_ms, request_id = id.0, "request"),
        None => debug!(%method, path, status, duration_ms, request_id = id.0, "request"),
    }

    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        headers.insert(REQUEST_ID, id);
    }
    let policy = "default-src 'none'; frame-ancestors 'none'";
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, policy),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn milliseconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// An operation that goes on; logged when it is dropped.
pub struct Underway {
    pub operation: Operation,
    id: RequestId,
    transport: &'static str,
    began: Instant,
}

impl Underway {
    /// `id` of the request that brought it.
    pub fn new(operation: Operation, id: RequestId, transport: &'static str) -> Underway {
        Underway { operation, id, transport, began: Instant::now() }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.operation.log(&self.id, self.transport, None, self.began);
    }
}

impl Operation {
    /// Never its variables, nor the token.
    fn log(&self, id: &RequestId, transport: &str, status: Option<u16>, began: Instant) {
        let name = self.name.as_deref().unwrap_or("-");
        let name = name.get(..MAX_NAME).unwrap_or(name); // names are ASCII
        let kind = match self.kind {
            OperationType::Query => "query",
            OperationType::Mutation => "mutation",
            OperationType::Subscription => "subscription",
        };
        let (cost, duration_ms, request_id) = (self.cost, milliseconds(began), &id.0);
        info!(operation = name, kind, cost, status, duration_ms, transport, request_id, "operation");
    }
}
