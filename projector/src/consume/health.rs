//! `/health/live`: the process runs. `/health/ready`: the queue and the read model are reachable and the pollers work. The body
//! has the lag, and the problems of the read model.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use read_model::{Error, Health};
use serde_json::json;
use tokio::time::timeout;

use super::Consumer;
use super::activity::Condition;

/// How long a check waits for a store.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

pub fn router(consumer: Consumer) -> Router {
    Router::new().route("/health/live", get(async || "ok\n")).route("/health/ready", get(ready)).with_state(consumer)
}

async fn ready(State(consumer): State<Consumer>) -> Response {
    let queue = consumer.queue.get_queue_attributes().queue_url(&consumer.queue_url).send();
    let (read_model, queue) =
        tokio::join!(timeout(CHECK_TIMEOUT, consumer.read_model.health()), timeout(CHECK_TIMEOUT, queue));
    let silent = |_| Health::of(Err(Error::Unavailable("it does not respond".into())));
    let (read_model, queue) = (read_model.unwrap_or_else(silent), matches!(queue, Ok(Ok(_))));
    let (condition, lag) = consumer.activity.condition();
    let condition = if consumer.is_receiving() { condition } else { Condition::Waiting };
    let is_ready = read_model.outage.is_none() && queue && matches!(condition, Condition::Current | Condition::Lagging);
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let queue = if queue { "reachable" } else { "unreachable" };
    let mut body = json!({ "queue": queue, "state": condition, "lagSeconds": lag.as_secs() });
    read_model.write_to(&mut body);
    (status, Json(body)).into_response()
}
