//! The id of a request in the log and in the response: the client's `x-request-id` if it is harmless, or a new one.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use runtime::logging::LogContext;
use tower_http::request_id::{MakeRequestId, RequestId};
use uuid::Uuid;

use super::caller::traceparent;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id accepted from a client, in bytes.
const MAX_LENGTH: usize = 64;

/// Creates UUIDs of version 7, which sort by time.
#[derive(Clone)]
pub struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        HeaderValue::from_str(&Uuid::now_v7().to_string()).ok().map(RequestId::new)
    }
}

/// Removes an id that is empty, long, or has characters that could do harm in a log.
pub async fn remove_unsafe(mut request: Request) -> Request {
    let is_safe = |id: &HeaderValue| {
        (1..=MAX_LENGTH).contains(&id.len())
            && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte))
    };
    if request.headers().get(REQUEST_ID).is_some_and(|id| !is_safe(id)) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// The ids on the log lines about a request: its own, and that of the trace of its sender, or of a new one.
pub fn log_context(id: &RequestId, headers: &HeaderMap) -> LogContext {
    LogContext::of_request(id.header_value().to_str().unwrap_or_default(), traceparent(headers))
}
