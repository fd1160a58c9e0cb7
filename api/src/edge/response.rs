//! HTTP responses: status codes, headers and bodies.

use axum::body::{Body, Bytes};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;

use super::access_log::Errors;
use super::executor::Executed;
use super::quota::Permit;
use super::refusal::{Refusal, whole_seconds};
use super::{MediaType, sse};
use crate::metrics;

/// The response to an operation that was executed. Some of its fields may have failed.
pub fn executed(media_type: MediaType, executed: Executed) -> Response {
    let Executed { response, mut memory } = executed;
    let Ok(bytes) = serde_json::to_vec(&response) else {
        return refused(media_type, Refusal::internal(&"the response cannot be written as JSON"));
    };
    memory.shrink_to(bytes.len());
    let body = Body::from(Bytes::from_owner(Unsent { bytes, _memory: memory }));
    (headers(media_type), Extension(Errors::of(&response.errors)), body).into_response()
}

/// A body that counts for its caller until the last byte has been sent.
struct Unsent {
    bytes: Vec<u8>,
    _memory: Permit,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The response to a request that is not executed. It has no `data`, not even null.
pub fn refused(media_type: MediaType, refusal: Refusal) -> Response {
    let status = status(media_type, &refusal);
    let header = match &refusal {
        Refusal::RateLimited(wait) => Some((RETRY_AFTER, whole_seconds(*wait).into())),
        Refusal::Busy | Refusal::OverQuota => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
        // RFC 6750, section 3.1: a request without a token gets no error code.
        Refusal::NoToken => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        Refusal::InvalidToken => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""))),
        _ if status == StatusCode::METHOD_NOT_ALLOWED => Some((ALLOW, HeaderValue::from_static("POST"))),
        _ => None,
    };
    let is_event_stream = matches!(refusal, Refusal::Invalid(_)) && media_type == MediaType::EventStream;
    let errors = refusal.errors();
    metrics::count_rejected(&errors);
    let mut response = match is_event_stream {
        true => sse::errors(&errors),
        // Not a `GraphQLResponse`, which would add `"data": null`.
        false => (status, headers(media_type), Json(json!({ "errors": errors }))).into_response(),
    };
    response.extensions_mut().insert(Errors::of(&errors)); // for the access log
    response.headers_mut().extend(header);
    response
}

/// See <https://graphql.github.io/graphql-over-http/draft/#sec-Status-Codes>.
fn status(media_type: MediaType, refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::Invalid(_) if media_type == MediaType::GraphqlResponse => StatusCode::BAD_REQUEST,
        Refusal::Invalid(_) => StatusCode::OK,
        Refusal::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Busy | Refusal::OverQuota => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Refusal::NoToken | Refusal::InvalidToken => StatusCode::UNAUTHORIZED,
        Refusal::Http { status, .. } => *status,
    }
}

fn headers(media_type: MediaType) -> [(HeaderName, &'static str); 2] {
    [(CONTENT_TYPE, media_type.content_type()), (VARY, "Accept")]
}

pub async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "Not found. The GraphQL endpoint is /graphql.\n").into_response()
}

/// The response after a panic outside of an operation. The panic hook has logged it.
pub fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "Internal server error.\n").into_response()
}
