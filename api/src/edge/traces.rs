//! Spans of requests and operations, by the semantic conventions for
//! [HTTP](https://opentelemetry.io/docs/specs/semconv/http/http-spans/) and
//! [GraphQL](https://opentelemetry.io/docs/specs/semconv/graphql/graphql-spans/). They never contain a document, a variable, a token or an address.

use apollo_compiler::executable::OperationType;
use async_graphql::ServerError;
use axum::Extension;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use runtime::logging::LogContext;
use tower_http::request_id::RequestId;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::{access_log, refusal, request_id};

/// Gives each request the ids of its log lines, and records those to `/graphql` if the sampler selects their trace. Their parent is the
/// span of the caller, if it sends one.
pub async fn layer(Extension(id): Extension<RequestId>, request: Request, next: Next) -> Response {
    let context = request_id::log_context(&id, request.headers());
    let span = match request.uri().path() {
        "/graphql" => context.span(|| request_span(request.method())),
        _ => Span::none(),
    };
    let response = context.scope(next.run(request).instrument(span.clone())).await;
    span.record("http.response.status_code", response.status().as_u16());
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR").record("error.type", response.status().as_str());
    }
    response
}

fn request_span(method: &Method) -> Span {
    let (method, name) = match *method {
        Method::POST => ("POST", "POST /graphql"),
        Method::GET => ("GET", "GET /graphql"),
        Method::OPTIONS => ("OPTIONS", "OPTIONS /graphql"),
        _ => ("_OTHER", "HTTP /graphql"),
    };
    info_span!(
        "request",
        otel.name = name,
        otel.kind = "server",
        http.request.method = method,
        http.route = "/graphql",
        url.path = "/graphql",
        url.scheme = "http",
        http.response.status_code = Empty,
        otel.status_code = Empty,
        error.type = Empty,
    )
}

/// The span of an operation with one result. A subscription has none: it may last for days. An operation on a WebSocket is part of no
/// request; its parent is the span of the caller who opened the connection, if there is one.
pub fn operation(kind: OperationType, name: Option<&str>) -> Span {
    if kind == OperationType::Subscription {
        return Span::none();
    }
    LogContext::current().span(|| {
        info_span!(
            "operation",
            otel.name = kind.name(),
            graphql.operation.type = kind.name(),
            graphql.operation.name = name.map(access_log::short_name),
            otel.status_code = Empty,
            error.type = Empty,
        )
    })
}

/// Records the code of the gravest error.
pub fn record_errors(span: &Span, errors: &[ServerError]) {
    if let Some(error) = refusal::gravest(errors) {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", refusal::code(error).unwrap_or("_OTHER"));
    }
}
