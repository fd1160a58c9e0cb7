//! What is sent back: media types, status codes, errors.

use async_graphql::ServerError;
use axum::http::header::{ACCEPT, ALLOW, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::edge::refusal::{self, Refusal, whole_seconds};

/// A media type of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// What every client knows, with status 200 for all that is a GraphQL request.
    Json,
    /// `application/graphql-response+json`, whose status tells whether the request was executed.
    GraphqlResponse,
    /// `text/event-stream`: one answer after another. Whatever comes before the first is JSON.
    EventStream,
}

/// What a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What it wants most.
    pub media_type: MediaType,
    /// Whether it takes answers that go on.
    pub event_stream: bool,
}

impl Accepted {
    /// What `Accept` says (RFC 9110, section 12.5.1). Without a word about it, JSON. An event stream is wanted most only
    /// where it is preferred to all others: clients name it for subscriptions beside what they want for queries.
    pub fn by(headers: &HeaderMap) -> Option<Accepted> {
        let (mut json, mut any, mut response, mut events) = (None, None, 0.0, 0.0);
        let mut asked = false;
        let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        for range in ranges.map(str::trim).filter(|range| !range.is_empty()) {
            asked = true;
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| {
                let (name, value) = part.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then_some(value.trim())
            });
            let quality: f32 = quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
            match name.as_str() {
                "application/graphql-response+json" => response = quality,
                "text/event-stream" => events = quality,
                "application/json" => json = Some(quality),
                "application/*" | "*/*" => any = Some(quality.max(any.unwrap_or(0.0))),
                _ => {}
            }
        }
        // What names JSON counts before what includes it.
        let json = json.or(any).unwrap_or(if asked { 0.0 } else { 1.0 });
        let media_type = match () {
            () if events > json && events > response => MediaType::EventStream,
            () if response > 0.0 && response >= json => MediaType::GraphqlResponse,
            () if json > 0.0 => MediaType::Json,
            () if any.is_some_and(|any| any > 0.0) => MediaType::GraphqlResponse,
            () => return None,
        };
        Some(Accepted { media_type, event_stream: events > 0.0 })
    }
}

impl MediaType {
    fn content_type(self) -> &'static str {
        match self {
            MediaType::Json | MediaType::EventStream => "application/json; charset=utf-8",
            MediaType::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The operation was executed; fields of it may have failed.
    Executed,
    /// It is a GraphQL request that cannot be executed.
    NotExecuted,
    /// It is no GraphQL request.
    Malformed,
    Unauthenticated,
    Forbidden,
    OtherMethodNeeded,
    NothingAcceptable,
    TooSlow,
    TooLarge,
    OtherMediaTypeNeeded,
    RateLimited,
    Busy,
}

/// The status of every answer of `/graphql`. Those of GraphQL requests are from
/// <https://graphql.github.io/graphql-over-http/draft/#sec-Status-Codes>.
pub fn status(media_type: MediaType, outcome: Outcome) -> StatusCode {
    match outcome {
        Outcome::Executed => StatusCode::OK,
        Outcome::NotExecuted => match media_type {
            MediaType::GraphqlResponse => StatusCode::BAD_REQUEST,
            MediaType::Json | MediaType::EventStream => StatusCode::OK,
        },
        Outcome::Malformed => StatusCode::BAD_REQUEST,
        Outcome::Unauthenticated => StatusCode::UNAUTHORIZED,
        Outcome::Forbidden => StatusCode::FORBIDDEN,
        Outcome::OtherMethodNeeded => StatusCode::METHOD_NOT_ALLOWED,
        Outcome::NothingAcceptable => StatusCode::NOT_ACCEPTABLE,
        Outcome::TooSlow => StatusCode::REQUEST_TIMEOUT,
        Outcome::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Outcome::OtherMediaTypeNeeded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Outcome::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Outcome::Busy => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The answer to a GraphQL request that was executed.
pub fn answer(media_type: MediaType, response: &async_graphql::Response) -> Response {
    body(media_type, Outcome::Executed, response)
}

/// Why a request was not executed, for the log.
#[derive(Clone)]
pub struct Code(pub String);

/// The answer to one that is not: it has no data, not even null.
pub fn errors(media_type: MediaType, outcome: Outcome, errors: &[ServerError]) -> Response {
    let mut response = body(media_type, outcome, &json!({ "errors": errors }));
    if let Some(code) = errors.first().and_then(refusal::code) {
        response.extensions_mut().insert(Code(code.to_owned()));
    }
    let header = match outcome {
        Outcome::Unauthenticated => Some((WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")),
        Outcome::OtherMethodNeeded => Some((ALLOW, "POST")),
        Outcome::Busy => Some((RETRY_AFTER, "1")),
        _ => None,
    };
    if let Some((name, value)) = header {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

pub fn error(media_type: MediaType, outcome: Outcome, code: &str, message: impl Into<String>) -> Response {
    errors(media_type, outcome, &[refusal::error(code, message, None)])
}

pub fn bad_request(media_type: MediaType, message: impl Into<String>) -> Response {
    error(media_type, Outcome::Malformed, "BAD_REQUEST", message)
}

pub fn not_executed(media_type: MediaType, refused: Refusal) -> Response {
    let (outcome, wait) = match &refused {
        Refusal::Invalid(_) => (Outcome::NotExecuted, None),
        Refusal::RateLimited(wait) => (Outcome::RateLimited, Some(whole_seconds(*wait))),
        Refusal::Busy => (Outcome::Busy, None),
    };
    let mut response = errors(media_type, outcome, &refused.errors());
    if let Some(wait) = wait {
        response.headers_mut().insert(RETRY_AFTER, wait.into());
    }
    response
}

fn body(media_type: MediaType, outcome: Outcome, body: &impl Serialize) -> Response {
    let headers = [(CONTENT_TYPE, media_type.content_type()), (VARY, "Accept")];
    match serde_json::to_vec(body) {
        Ok(body) => (status(media_type, outcome), headers, body).into_response(),
        Err(error) => {
            tracing::error!("an answer could not be written: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MediaType::{EventStream, GraphqlResponse, Json};
    use super::*;

    #[test]
    fn what_is_wanted_most_is_sent() {
        let urql = "application/graphql-response+json, application/graphql+json, application/json, text/event-stream, multipart/mixed";
        let cases = [
            ("", Some((Json, false))),
            ("*/*", Some((Json, false))),
            ("application/*;q=0.1", Some((Json, false))),
            ("application/json, */*;q=0", Some((Json, false))),
            ("application/json;q=0, */*", Some((GraphqlResponse, false))),
            ("application/graphql-response+json", Some((GraphqlResponse, false))),
            ("application/graphql-response+json, application/json;q=0.9", Some((GraphqlResponse, false))),
            ("application/graphql-response+json; q = 0.5, application/json", Some((Json, false))),
            ("Application/GraphQL-Response+JSON;charset=utf-8", Some((GraphqlResponse, false))),
            ("text/event-stream", Some((EventStream, true))),
            ("text/event-stream, application/json;q=0.5", Some((EventStream, true))),
            (urql, Some((GraphqlResponse, true))),
            ("text/html", None),
            ("application/json;q=0", None),
            ("application/json;q=x", None),
        ];
        for (accept, expected) in cases {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).unwrap())]);
            let expected = expected.map(|(media_type, event_stream)| Accepted { media_type, event_stream });
            assert_eq!(Accepted::by(&headers), expected, "{accept}");
        }
        assert_eq!(Accepted::by(&HeaderMap::new()).unwrap().media_type, Json);
    }
}
