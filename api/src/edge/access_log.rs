//! One log line per request, per operation, and per closed WebSocket. It never contains variables or tokens.

use std::time::Instant;

use async_graphql::ServerError;
use axum::Extension;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use runtime::logging::LogContext;
use sha2::{Digest, Sha256};
use tower_http::request_id::RequestId;
use tracing::{debug, info};

use super::executor::OperationInfo;
use super::refusal::{self, Outcome};
use super::request_id;

/// Longer names of operations are cut, in bytes.
const MAX_NAME: usize = 64;
/// Different error codes of one operation in the log.
const MAX_CODES: usize = 5;

/// Logs the requests to `/graphql`; other paths only at the level DEBUG.
pub async fn layer(Extension(id): Extension<RequestId>, request: Request, next: Next) -> Response {
    let context = request_id::log_context(&id, request.headers());
    context.clone().scope(log(context, request, next)).await
}

async fn log(context: LogContext, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;

    let (status, duration_ms) = (response.status().as_u16(), milliseconds_since(began));
    let errors = response.extensions_mut().remove::<Errors>().unwrap_or_default();
    match response.extensions_mut().remove::<OperationInfo>() {
        Some(info) => info.log(&context, "http", Some(status), &errors, began),
        None if path == "/graphql" => {
            let codes = errors.codes();
            info!(%method, path, status, codes, duration_ms, subject_hash = subject_hash(&context), "request");
        }
        None => debug!(%method, path, status, duration_ms, "request"),
    }
    response
}

fn milliseconds_since(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// Tells callers apart without naming them: 16 digits of the SHA-256 hash of the subject.
fn subject_hash(context: &LogContext) -> Option<String> {
    let digest = Sha256::digest(context.subject()?.as_bytes());
    digest.first_chunk().map(|first| format!("{:016x}", u64::from_be_bytes(*first)))
}

/// Cuts a long name of an operation.
pub fn short_name(name: &str) -> &str {
    name.get(..MAX_NAME).unwrap_or(name) // GraphQL names are ASCII
}

/// The errors of a refused request, or in the results of an operation. A response with status 200 may have some.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    outcome: Outcome,
    codes: Vec<String>,
}

impl Errors {
    pub fn of(errors: &[ServerError]) -> Errors {
        let mut all = Errors::default();
        all.add(errors);
        all
    }

    pub fn add(&mut self, errors: &[ServerError]) {
        self.outcome = self.outcome.max(refusal::outcome(errors));
        for code in errors.iter().filter_map(refusal::code) {
            if self.codes.len() < MAX_CODES && !self.codes.iter().any(|known| known == code) {
                self.codes.push(code.to_owned());
            }
        }
    }

    /// Each code once. `None` if there is no error.
    fn codes(&self) -> Option<String> {
        (self.outcome != Outcome::Ok).then(|| self.codes.join(","))
    }
}

/// Logs an operation on a stream when it is dropped.
pub struct OperationLog {
    pub info: OperationInfo,
    pub errors: Errors,
    context: LogContext,
    transport: &'static str,
    began: Instant,
}

impl OperationLog {
    pub fn new(info: OperationInfo, context: LogContext, transport: &'static str) -> OperationLog {
        OperationLog { info, errors: Errors::default(), context, transport, began: Instant::now() }
    }
}

impl Drop for OperationLog {
    fn drop(&mut self) {
        self.context.run(|| self.info.log(&self.context, self.transport, None, &self.errors, self.began));
    }
}

impl OperationInfo {
    fn log(&self, context: &LogContext, transport: &str, status: Option<u16>, errors: &Errors, began: Instant) {
        let name = self.name.as_deref().map_or("-", short_name);
        let (kind, outcome) = (self.kind.name(), errors.outcome.name());
        let (cost, duration_ms, codes) = (self.cost, milliseconds_since(began), errors.codes());
        let subject_hash = subject_hash(context);
        info!(operation = name, kind, outcome, codes, cost, status, duration_ms, subject_hash, transport, "operation");
    }
}

/// Logs an operation on a WebSocket that is refused.
pub fn refused_on_websocket(context: &LogContext, errors: &[ServerError]) {
    let codes = Errors::of(errors).codes();
    context.run(|| info!(codes, subject_hash = subject_hash(context), transport = "websocket", "refused"));
}

/// Logs the end of a WebSocket: with the code of the client if it closed it, or of the server; 1005 stands for none, and 1006 for
/// a connection that was lost.
pub fn closed_websocket(context: &LogContext, close_code: u16, closed_by: &str, operations: usize, began: Instant) {
    let (duration_ms, subject_hash) = (milliseconds_since(began), subject_hash(context));
    context
        .run(|| info!(close_code, closed_by, operations, duration_ms, subject_hash, transport = "websocket", "closed"));
}
