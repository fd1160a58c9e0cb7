//! Media types of requests and responses.

use axum::extract::Request;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// Longest header that is parsed, in bytes. Clients send about 150 bytes, and callers do not pay for parsing more.
const MAX_LENGTH: usize = 512;

fn is_too_long(headers: &HeaderMap, name: HeaderName) -> bool {
    headers.get_all(name).iter().map(HeaderValue::len).sum::<usize>() > MAX_LENGTH
}

/// A media type of responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`, which every client supports. The status is 200 for every well-formed GraphQL request.
    Json,
    /// `application/graphql-response+json`. The status shows whether the operation was executed.
    GraphqlResponse,
    /// `text/event-stream`: any number of results. A refusal before the first result is JSON.
    EventStream,
}

impl MediaType {
    pub fn content_type(self) -> &'static str {
        match self {
            MediaType::Json | MediaType::EventStream => "application/json; charset=utf-8",
            MediaType::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        }
    }
}

/// The result of content negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The preferred media type.
    pub media_type: MediaType,
    /// Whether the client accepts an event stream at all.
    pub event_stream: bool,
}

impl Accepted {
    /// Reads `Accept` (RFC 9110, section 12.5.1). Without the header, the type is JSON. An event stream must be preferred
    /// to all other types, because some clients always accept it, but only want it for subscriptions.
    pub fn from_headers(headers: &HeaderMap) -> Option<Accepted> {
        if is_too_long(headers, ACCEPT) {
            return None;
        }
        let (mut json, mut any, mut response, mut events) = (None, None, 0.0, 0.0);
        let mut is_empty = true;
        let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        for range in ranges.map(str::trim).filter(|range| !range.is_empty()) {
            is_empty = false;
            let (name, quality) = parse_range(range);
            match name.as_str() {
                "application/graphql-response+json" => response = quality,
                "text/event-stream" => events = quality,
                "application/json" => json = Some(quality),
                "application/*" | "*/*" => any = Some(quality.max(any.unwrap_or(0.0))),
                _ => {}
            }
        }
        // `application/json` takes precedence over a range that includes it.
        let json = json.or(any).unwrap_or(if is_empty { 1.0 } else { 0.0 });
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

/// The name of a media range in lower case, and its `q` value.
fn parse_range(range: &str) -> (String, f32) {
    let mut parts = range.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then_some(value.trim())
    });
    (name, quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)))
}

/// Removes `identity;q=0` and `*;q=0` from `Accept-Encoding`, and a long header as a whole. The layer that compresses would make status
/// 406 of the response to an operation that was executed. A server may send what the header excludes (RFC 9110, section 12.5.3).
pub async fn accept_identity(mut request: Request) -> Request {
    if is_too_long(request.headers(), ACCEPT_ENCODING) {
        request.headers_mut().remove(ACCEPT_ENCODING);
        return request;
    }
    let values = request.headers().get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let codings: Vec<&str> = values.flat_map(|value| value.split(',')).collect();
    let is_accepted = |coding: &&str| {
        let (name, quality) = parse_range(coding.trim());
        quality > 0.0 || !matches!(name.as_str(), "identity" | "*")
    };
    if !codings.iter().all(is_accepted) {
        let accepted: Vec<&str> = codings.into_iter().filter(is_accepted).collect();
        let accepted = HeaderValue::from_str(&accepted.join(","));
        request.headers_mut().remove(ACCEPT_ENCODING);
        if let Ok(accepted) = accepted {
            request.headers_mut().insert(ACCEPT_ENCODING, accepted);
        }
    }
    request
}

/// Whether the client accepts a response that is compressed with `coding` (RFC 9110, section 12.5.3).
pub fn accepts_coding(headers: &HeaderMap, coding: &str) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|accepted| parse_range(accepted.trim()))
        .any(|(name, quality)| name == coding && quality > 0.0)
}

/// Whether the body is declared as JSON in UTF-8. Other parameters than `charset` are ignored.
pub fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.len() > MAX_LENGTH {
        return false;
    }
    let mut parts = content_type.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json"));
    is_json
        && parts.filter_map(|parameter| parameter.split_once('=')).all(|(name, value)| {
            let charset = value.trim().trim_matches('"');
            !name.trim().eq_ignore_ascii_case("charset") || charset.eq_ignore_ascii_case("utf-8")
        })
}

#[cfg(test)]
mod tests {
    use super::MediaType::{EventStream, GraphqlResponse, Json};
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_preferred_media_type_is_chosen() {
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
            assert_eq!(Accepted::from_headers(&headers), expected, "{accept}");
        }
        assert_eq!(Accepted::from_headers(&HeaderMap::new()).unwrap().media_type, Json);
    }

    #[tokio::test]
    async fn long_headers_are_not_parsed() {
        let long = |end: &str| HeaderValue::from_str(&("a,".repeat(500) + end)).unwrap();
        let content = HeaderValue::from_str(&("application/json".to_owned() + &";a=b".repeat(500))).unwrap();
        let headers = [(ACCEPT, long("*/*")), (ACCEPT_ENCODING, long("gzip,identity;q=0")), (CONTENT_TYPE, content)];
        let mut request = Request::default();
        request.headers_mut().extend(headers);
        let request = accept_identity(request).await;
        assert!(!request.headers().contains_key(ACCEPT_ENCODING));
        assert_eq!(Accepted::from_headers(request.headers()), None);
        assert!(!is_json(request.headers()));
    }
}
