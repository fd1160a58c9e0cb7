//! `/health/live`: the process runs. `/health/ready`: the queue and the read model are reachable and the pollers work. The body
//! has the lag, and the problems of the read model.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use read_model::{Error, Health, ProjectorState};
use runtime::http::{self, Limits, check_headers};
use runtime::single_flight::SingleFlight;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Consumer;

/// How long a check waits for a store.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests within this time share one check.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Few programs ask for health, and often.
const LIMITS: Limits = Limits { idle_timeout: Duration::from_secs(75), max_connections: 100 };

/// The latest result of the check: the condition of the read model, and whether the queue is reachable.
type Checks = SingleFlight<(), (Health, bool), Infallible>;

/// Serves health until it is dropped.
pub async fn serve(listener: TcpListener, consumer: Consumer) {
    let state = (consumer, Arc::new(Checks::new(1)));
    let router = Router::new()
        .route("/health/live", get(async || "ok\n"))
        .route("/health/ready", get(ready))
        .layer(middleware::from_fn(check_headers))
        .with_state(state);
    http::serve(listener, router, LIMITS, CancellationToken::new()).await;
}

async fn check(consumer: Consumer) -> (Health, bool) {
    let queue = consumer.queue.get_queue_attributes().queue_url(&consumer.queue_url).send();
    let (read_model, queue) =
        tokio::join!(timeout(CHECK_TIMEOUT, consumer.read_model.health()), timeout(CHECK_TIMEOUT, queue));
    let silent = |_| Health::of(Err(Error::Unavailable("it does not respond".into())));
    (read_model.unwrap_or_else(silent), matches!(queue, Ok(Ok(_))))
}

async fn ready(State((consumer, checks)): State<(Consumer, Arc<Checks>)>) -> Response {
    let checked = consumer.clone();
    let Ok((read_model, queue)) = checks.get((), MAX_AGE, async move { Ok(check(checked).await) }).await;
    let (condition, lag) = consumer.condition();
    let is_ready =
        read_model.outage.is_none() && queue && matches!(condition, ProjectorState::Current | ProjectorState::Lagging);
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let queue = if queue { "reachable" } else { "unreachable" };
    let mut body = json!({ "queue": queue, "state": condition, "lagSeconds": lag.as_secs() });
    read_model.write_to(&mut body);
    (status, Json(body)).into_response()
}
