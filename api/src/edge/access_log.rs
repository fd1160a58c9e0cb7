//! One log line per request and per operation. It never contains variables or tokens.

use std::time::Instant;

use apollo_compiler::executable::OperationType;
use axum::Extension;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use tower_http::request_id::RequestId;
use tracing::{debug, info};

use super::executor::OperationInfo;
use super::request_id;
use super::response::Code;

/// Longer names of operations are cut, in bytes.
const MAX_NAME: usize = 64;

/// Logs the requests to `/graphql`; other paths only at the level DEBUG.
pub async fn layer(Extension(id): Extension<RequestId>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;

    let (status, duration_ms) = (response.status().as_u16(), milliseconds_since(began));
    let code = response.extensions_mut().remove::<Code>().map(|Code(code)| code);
    let request_id = request_id::as_str(&id);
    match response.extensions_mut().remove::<OperationInfo>() {
        Some(info) => info.log(&id, "http", Some(status), began),
        None if path == "/graphql" => info!(%method, path, status, code, duration_ms, request_id, "request"),
        None => debug!(%method, path, status, duration_ms, request_id, "request"),
    }
    response
}

fn milliseconds_since(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// Logs an operation on a stream when it is dropped.
pub struct OperationLog {
    pub info: OperationInfo,
    id: RequestId,
    transport: &'static str,
    began: Instant,
}

impl OperationLog {
    /// `id` is the id of the request that opened the stream.
    pub fn new(info: OperationInfo, id: RequestId, transport: &'static str) -> OperationLog {
        OperationLog { info, id, transport, began: Instant::now() }
    }
}

impl Drop for OperationLog {
    fn drop(&mut self) {
        self.info.log(&self.id, self.transport, None, self.began);
    }
}

impl OperationInfo {
    fn log(&self, id: &RequestId, transport: &str, status: Option<u16>, began: Instant) {
        let name = self.name.as_deref().unwrap_or("-");
        let name = name.get(..MAX_NAME).unwrap_or(name); // GraphQL names are ASCII
        let kind = match self.kind {
            OperationType::Query => "query",
            OperationType::Mutation => "mutation",
            OperationType::Subscription => "subscription",
        };
        let (cost, duration_ms, request_id) = (self.cost, milliseconds_since(began), request_id::as_str(id));
        info!(operation = name, kind, cost, status, duration_ms, transport, request_id, "operation");
    }
}
