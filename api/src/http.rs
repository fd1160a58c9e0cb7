//! The HTTP face: `/graphql` and `/health/…`.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::{ErrorExtensionValues, Request, ServerError, Variables};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::future;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::auth::{Authenticator, InvalidToken};
use crate::error::Error;
use crate::graphql::{App, OrderSchema, Traceparent, schema};
use crate::relay::Queue;

/// The largest request body.
const MAX_BODY: usize = 64 * 1024;
/// How long a readiness check waits for a store.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

struct Edge {
    schema: OrderSchema,
    app: App,
    queue: Queue,
    authenticator: Authenticator,
    /// The GraphiQL page, where it is served.
    graphiql: Option<String>,
}

pub fn router(app: App, queue: Queue, authenticator: Authenticator, graphiql: Option<String>) -> Router {
    let root = if graphiql.is_some() { get(async || Redirect::temporary("/graphql")) } else { get(not_found) };
    let schema = schema(Some(app.clone()));
    Router::new()
        .route("/", root)
        .route("/graphql", get(explore).post(execute))
        .route("/health/live", get(async || "ok\n"))
        .route("/health/ready", get(ready))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(Edge { schema, app, queue, authenticator, graphiql }))
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "There is nothing here. GraphQL is at /graphql.\n").into_response()
}

/// A GraphQL request as <https://graphql.github.io/graphql-over-http/draft/#sec-Request-Parameters> has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    query: String,
    operation_name: Option<String>,
    variables: Option<Map<String, Value>>,
    #[serde(rename = "extensions")]
    _extensions: Option<Map<String, Value>>,
}

async fn execute(State(edge): State<Arc<Edge>>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    if !is_json(&headers) {
        let message = "Send the request as application/json.";
        return request_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "BAD_REQUEST", message);
    }
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            let message = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => format!("The request is larger than {MAX_BODY} bytes."),
                _ => "The request's body could not be read.".into(),
            };
            return request_error(rejection.status(), "BAD_REQUEST", &message);
        }
    };
    let parameters: Parameters = match serde_json::from_slice(&body) {
        Ok(parameters) => parameters,
        Err(error) => {
            let message = format!("The body is not a GraphQL request in JSON: {error}.");
            return request_error(StatusCode::BAD_REQUEST, "BAD_REQUEST", &message);
        }
    };
    let mut request = Request::new(parameters.query);
    request.operation_name = parameters.operation_name;
    request.variables = Variables::from_json(Value::Object(parameters.variables.unwrap_or_default()));

    if let Some(context) =
        headers.get("traceparent").and_then(|value| value.to_str().ok()).filter(|v| is_traceparent(v))
    {
        request = request.data(Traceparent(context.to_owned()));
    }

    // Without a token the request runs as nobody, who may read the schema. A token that proves nothing ends it.
    match bearer_token(&headers) {
        Ok(None) => {}
        Ok(Some(token)) => match edge.authenticator.authenticate(token).await {
            Ok(identity) => request = request.data(identity),
            Err(InvalidToken) => return unauthenticated(),
        },
        Err(InvalidToken) => return unauthenticated(),
    }
    Json(edge.schema.execute(request).await).into_response()
}

/// `GET /graphql`: the GraphiQL page for a browser.
async fn explore(State(edge): State<Arc<Edge>>, headers: HeaderMap) -> Response {
    let wants_html =
        headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|a| a.contains("text/html"));
    match &edge.graphiql {
        Some(page) if wants_html => Html(page.clone()).into_response(),
        _ => {
            let refusal =
                request_error(StatusCode::METHOD_NOT_ALLOWED, "BAD_REQUEST", "Send GraphQL requests with POST.");
            ([(ALLOW, "POST")], refusal).into_response()
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let charset = parameters.trim().to_ascii_lowercase();
    media_type.trim().eq_ignore_ascii_case("application/json")
        && matches!(charset.as_str(), "" | "charset=utf-8" | "charset=\"utf-8\"")
}

/// Version 00: 32, 16 and 2 lower-case hexadecimal digits. Another is ignored, as the specification has it.
fn is_traceparent(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let hexadecimal = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]) && parts[0] == "00" && parts.iter().all(hexadecimal)
}

/// RFC 6750, section 2.1. Another scheme, or bytes that no token has, prove nothing.
fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, InvalidToken> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    match value.to_str().map_err(|_| InvalidToken)?.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(InvalidToken),
    }
}

fn unauthenticated() -> Response {
    let error = async_graphql::Error::from(Error::Unauthenticated).into_server_error(Default::default());
    let body = json!({ "errors": [error] });
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")], Json(body)).into_response()
}

/// An answer to what is not a GraphQL request: no `data`.
fn request_error(status: StatusCode, code: &str, message: &str) -> Response {
    let mut error = ServerError::new(message, None);
    error.extensions.get_or_insert_with(ErrorExtensionValues::default).set("code", code);
    (status, Json(json!({ "errors": [error] }))).into_response()
}

/// Ready means: orders can be written and clients read. The queue is told of too, but orders do not need it to be there.
async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    let within = |check| async { tokio::time::timeout(CHECK_TIMEOUT, check).await.unwrap_or(false) };
    let database: future::BoxFuture<bool> = Box::pin(async { edge.app.db.ping().await.is_ok() });
    let read_model = Box::pin(async { edge.app.read_model.ping().await.is_ok() });
    let queue = Box::pin(async { edge.queue.check().await.is_ok() });
    let (database, read_model, queue) = future::join3(within(database), within(read_model), within(queue)).await;

    let status = if database && read_model { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = |reachable| if reachable { "reachable" } else { "unreachable" };
    let body = json!({ "database": word(database), "readModel": word(read_model), "queue": word(queue) });
    (status, Json(body)).into_response()
}
