//! The HTTP face: `/graphql` and `/health/…`.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::parser::parse_query;
use async_graphql::parser::types::{ExecutableDocument, OperationType};
use async_graphql::{Pos, Positioned, Request, ServerError, Variables};
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, VARY, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing;
use axum::{Json, Router};
use futures::future;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::auth::{Authenticator, InvalidToken};
use crate::error::Error;
use crate::graphql::{App, OrderSchema, Traceparent, schema};
use crate::limits;
use crate::relay::Queue;

/// The largest request body.
const MAX_BODY: usize = 64 * 1024;
/// How long a browser may go by an answer about another origin.
const PREFLIGHT_LIFETIME: Duration = Duration::from_secs(3600);
/// How long a readiness check waits for a store.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpSettings {
    /// Whether queries may be sent with GET as well
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub graphql_get: bool,
    /// Origins whose pages may call this service from a browser, separated by commas, or * for any; none if unset
    #[arg(long, env, value_delimiter = ',', value_parser = parse_origin)]
    pub cors_origins: Vec<HeaderValue>,
}

/// An origin as browsers send it (RFC 6454, section 6.2).
fn parse_origin(text: &str) -> Result<HeaderValue, String> {
    let host = text.strip_prefix("https://").or(text.strip_prefix("http://"));
    if text != "*" && host.is_none_or(|host| host.is_empty() || host.contains(['/', ' '])) {
        return Err("not an origin such as https://shop.example.com, nor *".into());
    }
    text.parse().map_err(|_| "has a character that no origin has".into())
}

impl HttpSettings {
    fn cors(&self) -> CorsLayer {
        let origins = match self.cors_origins.iter().any(|origin| origin == "*") {
            true => AllowOrigin::any(),
            false => AllowOrigin::list(self.cors_origins.clone()),
        };
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName::from_static("traceparent")])
            .max_age(PREFLIGHT_LIFETIME)
    }
}

struct Edge {
    schema: OrderSchema,
    app: App,
    queue: Queue,
    authenticator: Authenticator,
    /// The GraphiQL page, where it is served.
    graphiql: Option<String>,
    /// Whether queries may come with GET.
    allow_get: bool,
}

pub fn router(
    app: App,
    queue: Queue,
    authenticator: Authenticator,
    settings: &HttpSettings,
    graphiql: Option<String>,
) -> Router {
    let root = if graphiql.is_some() {
        routing::get(async || Redirect::temporary("/graphql"))
    } else {
        routing::get(not_found)
    };
    let schema = schema(Some(app.clone()));
    Router::new()
        .route("/", root)
        .route("/graphql", routing::get(get).post(post))
        .route("/health/live", routing::get(async || "ok\n"))
        .route("/health/ready", routing::get(ready))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(settings.cors())
        .with_state(Arc::new(Edge { schema, app, queue, authenticator, graphiql, allow_get: settings.graphql_get }))
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "There is nothing here. GraphQL is at /graphql.\n").into_response()
}

/// A GraphQL request as <https://graphql.github.io/graphql-over-http/draft/#sec-Request-Parameters> has it. A parameter
/// that is null is one that is absent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    query: String,
    operation_name: Option<String>,
    variables: Option<Map<String, Value>>,
    #[serde(rename = "extensions")]
    _extensions: Option<Map<String, Value>>,
}

/// The same in a URL, where an empty parameter is an absent one, and maps are JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct UrlParameters {
    query: String,
    operation_name: String,
    variables: String,
    extensions: String,
}

impl UrlParameters {
    fn parameters(self) -> Result<Parameters, String> {
        let map = |name: &str, json: String| match json.as_str() {
            "" => Ok(None),
            json => serde_json::from_str(json).map_err(|error| format!("`{name}` is not a map in JSON: {error}.")),
        };
        if self.query.is_empty() {
            return Err("The parameter `query` is missing.".into());
        }
        Ok(Parameters {
            query: self.query,
            operation_name: Some(self.operation_name).filter(|name| !name.is_empty()),
            variables: map("variables", self.variables)?,
            _extensions: map("extensions", self.extensions)?,
        })
    }
}

async fn post(State(edge): State<Arc<Edge>>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let Some(accepted) = MediaType::accepted_by(&headers) else { return not_acceptable() };
    if !is_json(&headers) {
        return bad_request(accepted, StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send the request as application/json.");
    }
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            let message = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => format!("The request is larger than {MAX_BODY} bytes."),
                _ => "The request's body could not be read.".into(),
            };
            return bad_request(accepted, rejection.status(), &message);
        }
    };
    match serde_json::from_slice(&body) {
        Ok(parameters) => execute(&edge, &headers, accepted, parameters, &Method::POST).await,
        Err(error) => {
            let message = format!("The body is not a GraphQL request in JSON: {error}.");
            bad_request(accepted, StatusCode::BAD_REQUEST, &message)
        }
    }
}

/// A query in the URL; or the GraphiQL page, for a browser without one.
async fn get(
    State(edge): State<Arc<Edge>>,
    headers: HeaderMap,
    parameters: Result<Query<UrlParameters>, QueryRejection>,
) -> Response {
    let wants_html =
        headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|a| a.contains("text/html"));
    if let (true, Some(page), Ok(Query(UrlParameters { query, .. }))) = (wants_html, &edge.graphiql, &parameters)
        && query.is_empty()
    {
        return Html(page.clone()).into_response();
    }
    let Some(accepted) = MediaType::accepted_by(&headers) else { return not_acceptable() };
    if !edge.allow_get {
        return method_not_allowed(accepted, "Send GraphQL requests with POST.");
    }
    let parameters = match parameters {
        Ok(Query(parameters)) => parameters.parameters(),
        Err(rejection) => Err(rejection.body_text()),
    };
    match parameters {
        Ok(parameters) => execute(&edge, &headers, accepted, parameters, &Method::GET).await,
        Err(message) => bad_request(accepted, StatusCode::BAD_REQUEST, &message),
    }
}

async fn execute(
    edge: &Edge,
    headers: &HeaderMap,
    accepted: MediaType,
    parameters: Parameters,
    method: &Method,
) -> Response {
    // Without a token the request runs as nobody, who may read the schema. A token that proves nothing ends it.
    let identity = match bearer_token(headers) {
        Ok(None) => None,
        Ok(Some(token)) => match edge.authenticator.authenticate(token).await {
            Ok(identity) => Some(identity),
            Err(InvalidToken) => return unauthenticated(accepted),
        },
        Err(InvalidToken) => return unauthenticated(accepted),
    };

    let Parameters { query, operation_name, variables, .. } = parameters;
    let variables = variables.unwrap_or_default();
    let document = match prepare(&query, operation_name.as_deref(), &variables) {
        Ok((_, operation_type)) if *method == Method::GET && operation_type != OperationType::Query => {
            return method_not_allowed(accepted, "Only queries can be sent with GET. Send this with POST.");
        }
        Ok((document, _)) => document,
        Err(error) => return answer(accepted, async_graphql::Response::from_errors(vec![error])),
    };

    let mut request = Request::new(query).variables(Variables::from_json(Value::Object(variables)));
    request.operation_name = operation_name;
    request.set_parsed_query(document);
    if let Some(identity) = identity {
        request = request.data(identity);
    }
    if let Some(context) =
        headers.get("traceparent").and_then(|value| value.to_str().ok()).filter(|v| is_traceparent(v))
    {
        request = request.data(Traceparent(context.to_owned()));
    }
    answer(accepted, edge.schema.execute(request).await)
}

/// Parses a document and finds the operation to run in it, with all the variables that it needs.
fn prepare(
    query: &str,
    operation_name: Option<&str>,
    variables: &Map<String, Value>,
) -> Result<(ExecutableDocument, OperationType), ServerError> {
    let document = parse_query(query).map_err(|error| with_code("GRAPHQL_PARSE_FAILED", error.into()))?;
    limits::check(&document).map_err(|error| with_code("GRAPHQL_VALIDATION_FAILED", error))?;
    let mut operations = document.operations.iter();
    let operation = match operation_name {
        Some(wanted) => operations
            .find(|(name, _)| name.is_some_and(|name| name == wanted))
            .ok_or_else(|| format!("The document has no operation named {wanted:?}.")),
        None => match (operations.next(), operations.next()) {
            (Some(only), None) => Ok(only),
            _ => Err("The document has several operations: `operationName` must say which one to run.".into()),
        },
    };
    let operation = match operation {
        Ok((_, operation)) => &operation.node,
        Err(message) => return Err(with_code("OPERATION_RESOLUTION_FAILURE", ServerError::new(message, None))),
    };
    for definition in &operation.variable_definitions {
        let Positioned { node: definition, pos } = definition;
        let (name, kind) = (&definition.name.node, &definition.var_type.node);
        let problem = match variables.get(name.as_str()) {
            None if definition.default_value.is_none() => "was not provided",
            Some(Value::Null) => "must not be null",
            _ => continue,
        };
        if !kind.nullable {
            let message = format!("Variable \"${name}\" of required type \"{kind}\" {problem}.");
            return Err(with_code("BAD_USER_INPUT", ServerError::new(message, Some(*pos))));
        }
    }
    let operation_type = operation.ty;
    Ok((document, operation_type))
}

/// A media type of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MediaType {
    /// What every client knows, with status 200 for all that is a GraphQL request.
    Json,
    /// `application/graphql-response+json`, whose status tells whether the request was executed.
    GraphqlResponse,
}

impl MediaType {
    /// The one that `Accept` wants most (RFC 9110, section 12.5.1). Without a word about it, JSON.
    fn accepted_by(headers: &HeaderMap) -> Option<MediaType> {
        let (mut json, mut graphql_response) = (None, 0.0);
        let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        for range in ranges.map(str::trim).filter(|range| !range.is_empty()) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let quality: f32 = quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
            let quality_of_json = json.unwrap_or(0.0);
            match name.as_str() {
                "application/graphql-response+json" => graphql_response = quality,
                "application/json" | "application/*" | "*/*" => json = Some(quality.max(quality_of_json)),
                _ => json = Some(quality_of_json),
            }
        }
        let json = json.unwrap_or(if graphql_response > 0.0 { 0.0 } else { 1.0 });
        match () {
            () if graphql_response > 0.0 && graphql_response >= json => Some(MediaType::GraphqlResponse),
            () if json > 0.0 => Some(MediaType::Json),
            () => None,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            MediaType::Json => "application/json; charset=utf-8",
            MediaType::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        }
    }
}

/// The answer to a GraphQL request, executed or not.
fn answer(media_type: MediaType, response: async_graphql::Response) -> Response {
    // Errors of the request have no path, and there are no data, not even null.
    let executed = response.errors.is_empty() || response.errors.iter().any(|error| !error.path.is_empty());
    let status = status(media_type, executed);
    if executed {
        return body(media_type, status, &response);
    }
    let errors = response.errors.into_iter().map(|error| match code(&error) {
        Some(_) => error,
        None => with_code("GRAPHQL_VALIDATION_FAILED", error),
    });
    body(media_type, status, &json!({ "errors": errors.collect::<Vec<_>>() }))
}

/// The status of an answer to a GraphQL request; what is none has a status of its own.
/// <https://graphql.github.io/graphql-over-http/draft/#sec-Status-Codes>
fn status(media_type: MediaType, executed: bool) -> StatusCode {
    match (media_type, executed) {
        (MediaType::GraphqlResponse, false) => StatusCode::BAD_REQUEST,
        (MediaType::GraphqlResponse, true) | (MediaType::Json, _) => StatusCode::OK,
    }
}

fn body(media_type: MediaType, status: StatusCode, body: &impl Serialize) -> Response {
    let headers = [(CONTENT_TYPE, media_type.content_type()), (VARY, "Accept")];
    match serde_json::to_vec(body) {
        Ok(body) => (status, headers, body).into_response(),
        Err(error) => {
            tracing::error!("an answer could not be written: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn code(error: &ServerError) -> Option<&async_graphql::Value> {
    error.extensions.as_ref()?.get("code")
}

fn with_code(code: &str, mut error: ServerError) -> ServerError {
    error.extensions.get_or_insert_default().set("code", code);
    error
}

/// An answer to what is not a GraphQL request.
fn bad_request(media_type: MediaType, status: StatusCode, message: &str) -> Response {
    body(media_type, status, &json!({ "errors": [with_code("BAD_REQUEST", ServerError::new(message, None))] }))
}

fn method_not_allowed(media_type: MediaType, message: &str) -> Response {
    ([(ALLOW, "POST")], bad_request(media_type, StatusCode::METHOD_NOT_ALLOWED, message)).into_response()
}

fn not_acceptable() -> Response {
    let message = "Answers are application/json or application/graphql-response+json.";
    bad_request(MediaType::Json, StatusCode::NOT_ACCEPTABLE, message)
}

fn unauthenticated(media_type: MediaType) -> Response {
    let error = async_graphql::Error::from(Error::Unauthenticated).into_server_error(Pos::default());
    let challenge = [(WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")];
    (challenge, body(media_type, StatusCode::UNAUTHORIZED, &json!({ "errors": [error] }))).into_response()
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
