//! One log line for each operation and each closed WebSocket, and at most [`MAX_LINES`] a second for other requests with the same status.
//! No line contains variables or tokens.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_graphql::{Response as GraphQLResponse, ServerError};
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use runtime::logging::LogContext;
use scopeguard::{ScopeGuard, guard};
use sha2::{Digest, Sha256};
use tracing::{Level, debug, event_enabled, info};

use super::executor::OperationInfo;
use super::refusal::{self, Outcome};

/// Longer names of operations are cut, in bytes.
const MAX_NAME: usize = 64;
/// Lines in a second about requests without an operation that have the same status.
const MAX_LINES: u32 = 100;
/// The status of a request whose client disconnects before the response, as nginx logs it. Nobody gets it.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// Different error codes of one operation in the log.
const MAX_CODES: usize = 5;

/// Logs the requests to `/graphql`; other paths only at the level DEBUG.
pub async fn layer(request: Request, next: Next) -> Response {
    let context = LogContext::current();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let line = RequestLine { context, method, path, began: Instant::now() };
    let unfinished = guard(&line, |line| line.write(CLIENT_CLOSED_REQUEST, &Errors::default()));
    let mut response = next.run(request).await;
    ScopeGuard::into_inner(unfinished);

    let status = response.status().as_u16();
    let errors = response.extensions_mut().remove::<Errors>().unwrap_or_default();
    match response.extensions_mut().remove::<OperationInfo>() {
        Some(info) => info.log(&line.context, "http", Some(status), errors.outcome.name(), &errors, line.began),
        None => line.write(status, &errors),
    }
    response
}

/// The line about a request that was refused, or whose client disconnected before the response. In the second case it has no operation.
struct RequestLine {
    context: LogContext,
    method: Method,
    path: String,
    began: Instant,
}

impl RequestLine {
    fn write(&self, status: u16, errors: &Errors) {
        let RequestLine { context, method, path, began } = self;
        let duration_ms = milliseconds_since(*began);
        if path != "/graphql" {
            return debug!(%method, path, status, duration_ms, "request");
        }
        if let Some(omitted) = admit(status) {
            let omitted = (omitted > 0).then_some(omitted);
            let (codes, subject_hash) = (errors.codes(), subject_hash(context));
            context.run(|| info!(%method, path, status, codes, duration_ms, subject_hash, omitted, "request"));
        }
    }
}

/// In place of a status, which operations on a WebSocket do not have.
const ON_WEBSOCKET: u16 = 0;

static LINES: Mutex<LineLimits> = Mutex::new(LineLimits(BTreeMap::new()));

/// [`LineLimits::admit`] for a line that is written now.
fn admit(status: u16) -> Option<u64> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).admit(status, Instant::now())
}

/// Limits the lines about requests without an operation, by their status: such requests cost their senders little.
struct LineLimits(BTreeMap<u16, LineLimit>);

struct LineLimit {
    second: Instant,
    /// In this second.
    lines: u32,
    /// Since the last line.
    omitted: u64,
}

impl LineLimits {
    /// The number of lines that were left out since the last one with this status; `None` if this one is left out, too.
    fn admit(&mut self, status: u16, now: Instant) -> Option<u64> {
        let limit = self.0.entry(status).or_insert(LineLimit { second: now, lines: 0, omitted: 0 });
        if now - limit.second >= Duration::from_secs(1) {
            (limit.second, limit.lines) = (now, 0);
        }
        if limit.lines == MAX_LINES {
            limit.omitted += 1;
            return None;
        }
        limit.lines += 1;
        Some(std::mem::take(&mut limit.omitted))
    }
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
    errors: Errors,
    has_result: bool,
    context: LogContext,
    transport: &'static str,
    began: Instant,
}

impl OperationLog {
    pub fn new(info: OperationInfo, context: LogContext, transport: &'static str) -> OperationLog {
        let began = Instant::now();
        OperationLog { info, errors: Errors::default(), has_result: false, context, transport, began }
    }

    pub fn add(&mut self, result: &GraphQLResponse) {
        self.errors.add(&result.errors);
        self.has_result = true;
    }

    /// A query or a mutation without a result was cancelled by its client, or its connection ended. A subscription may end at any time.
    fn outcome(&self) -> &'static str {
        match self.has_result || self.info.is_subscription() {
            true => self.errors.outcome.name(),
            false => "cancelled",
        }
    }
}

impl Drop for OperationLog {
    fn drop(&mut self) {
        let (transport, outcome) = (self.transport, self.outcome());
        self.context.run(|| self.info.log(&self.context, transport, None, outcome, &self.errors, self.began));
    }
}

impl OperationInfo {
    fn log(
        &self,
        context: &LogContext,
        transport: &str,
        status: Option<u16>,
        outcome: &str,
        errors: &Errors,
        began: Instant,
    ) {
        // Without the line nothing is hashed.
        if !event_enabled!(Level::INFO) {
            return;
        }
        let (name, kind) = (self.name.as_deref().map_or("-", short_name), self.kind.name());
        let (cost, duration_ms, codes) = (self.cost, milliseconds_since(began), errors.codes());
        let subject_hash = subject_hash(context);
        info!(operation = name, kind, outcome, codes, cost, status, duration_ms, subject_hash, transport, "operation");
    }
}

/// Logs an operation on a WebSocket that is refused.
pub fn refused_on_websocket(context: &LogContext, errors: &[ServerError]) {
    let Some(omitted) = admit(ON_WEBSOCKET) else { return };
    let (codes, omitted) = (Errors::of(errors).codes(), (omitted > 0).then_some(omitted));
    context.run(|| info!(codes, subject_hash = subject_hash(context), omitted, transport = "websocket", "refused"));
}

/// Logs the end of a WebSocket: with the code of the client if it closed it, or of the server; 1005 stands for none, and 1006 for
/// a connection that was lost.
pub fn closed_websocket(context: &LogContext, close_code: u16, closed_by: &str, operations: usize, began: Instant) {
    let (duration_ms, subject_hash) = (milliseconds_since(began), subject_hash(context));
    context
        .run(|| info!(close_code, closed_by, operations, duration_ms, subject_hash, transport = "websocket", "closed"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_refused_requests_are_limited_by_their_status_and_those_left_out_are_counted() {
        let (mut lines, began) = (LineLimits(BTreeMap::new()), Instant::now());
        let mut admitted = |status, second: u64| lines.admit(status, began + Duration::from_secs(second));
        assert!((0..MAX_LINES).all(|_| admitted(429, 0) == Some(0)));
        assert!((0..5_000).all(|_| admitted(429, 0).is_none()));
        assert_eq!(admitted(400, 0), Some(0), "another status");
        assert_eq!([admitted(429, 1), admitted(429, 1)], [Some(5_000), Some(0)]);
    }
}
