//! Results as server-sent events: [GraphQL over SSE](https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md),
//! distinct connections mode.

use std::convert::Infallible;
use std::time::Duration;

use async_graphql::ServerError;
use axum::http::HeaderName;
use axum::http::header::VARY;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use runtime::logging::LogContext;
use serde::Serialize;
use serde_json::json;

use super::Edge;
use super::access_log::OperationLog;
use super::caller::Caller;
use super::executor::{PreparedOperation, token_expiry};
use super::refusal::Refusal;
use crate::metrics::LiveConnection;

/// A comment after this time keeps proxies from closing an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Streams the results of an operation, and then `complete`. When the token expires or the service shuts down, a subscription ends without
/// `complete`, so that clients reconnect.
pub fn stream(edge: &Edge, caller: &Caller, prepared: PreparedOperation) -> Result<Response, Refusal> {
    let permit = edge.connections.acquire(caller.quota_key())?;
    let held = (permit, LiveConnection::open("sse"));
    let is_subscription = prepared.info.is_subscription();
    let (expires, shutdown) = (caller.expires(), edge.shutdown.clone());
    let end = async move {
        if !is_subscription {
            std::future::pending::<()>().await;
        }
        tokio::select! {
            () = token_expiry(expires) => {}
            () = shutdown.cancelled() => {}
        }
    };
    let (info, context) = (prepared.info.clone(), LogContext::current());
    let results = context.clone().stream(edge.executor.stream(prepared)?);
    let mut log = OperationLog::new(info, context, "sse");
    let results = results.map(Some).chain(stream::iter([None]));
    Ok(respond(results.take_until(Box::pin(end)).map(move |result| {
        let _ = &held; // dropped with the stream, as the log is
        let Some(result) = result else { return complete() };
        log.add(&result);
        next(&result)
    })))
}

/// Reports a refused operation in the stream, for clients that read nothing else.
pub fn errors(errors: &[ServerError]) -> Response {
    respond(stream::iter([next(&json!({ "errors": errors })), complete()]))
}

fn respond(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Without this header, nginx buffers the stream.
    ([(VARY, "Accept"), (HeaderName::from_static("x-accel-buffering"), "no")], events).into_response()
}

fn next(result: &impl Serialize) -> Event {
    Event::default().event("next").json_data(result).unwrap_or_else(|_| complete())
}

fn complete() -> Event {
    Event::default().event("complete").data("")
}
