//! Answers as server-sent events: [GraphQL over SSE](https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md),
//! distinct connections mode.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderName;
use axum::http::header::VARY;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use serde_json::json;

use super::Edge;
use super::access_log::{RequestId, Underway};
use super::response::{self, MediaType};
use crate::edge::executor::{Prepared, expiry};
use crate::edge::quota::Caller;
use crate::edge::refusal::Refusal;

/// How often a comment keeps an idle stream open in proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// The answers of an operation. A subscription that ends by itself, because its token expires or the service stops, ends
/// without `complete`: clients then connect again.
pub fn stream(edge: &Edge, caller: &Caller, id: RequestId, prepared: Prepared) -> Response {
    let connection = match edge.live_connection(caller) {
        Ok(connection) => connection,
        Err(refused) => return response::not_executed(MediaType::EventStream, refused),
    };
    let open = (Underway::new(prepared.operation.clone(), id, "sse"), connection);
    let goes_on = prepared.operation.is_subscription();
    let (expires, shutdown) = (caller.expires(), edge.shutdown.clone());
    let end = async move {
        if !goes_on {
            std::future::pending::<()>().await;
        }
        tokio::select! {
            () = expiry(expires) => {}
            () = shutdown.cancelled() => {}
        }
    };
    let answers = edge.executor.stream(prepared).take_until(Box::pin(end));
    let events = answers.flat_map(move |answer| {
        let is_last = !goes_on || !answer.errors.is_empty();
        stream::iter([Some(next(&answer)), is_last.then(complete)].into_iter().flatten())
    });
    send(events.map(move |event| {
        let _ = &open; // until the stream ends
        event
    }))
}

/// What is wrong with a request, for those who only look into the stream.
pub fn refuse(refused: Refusal) -> Response {
    match refused {
        Refusal::Invalid(errors) => send(stream::iter([next(&json!({ "errors": errors })), complete()])),
        refused => response::not_executed(MediaType::EventStream, refused),
    }
}

fn send(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Proxies like to collect what they pass on.
    ([(VARY, "Accept"), (HeaderName::from_static("x-accel-buffering"), "no")], events).into_response()
}

fn next(answer: &impl Serialize) -> Event {
    Event::default().event("next").json_data(answer).unwrap_or_else(|_| complete())
}

fn complete() -> Event {
    Event::default().event("complete").data("")
}
