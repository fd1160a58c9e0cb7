//! `/health/live`: the process runs. `/health/ready`: it can reach the queue and the read model, and its pollers go on; and
//! how far behind they are.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::time::timeout;

use super::Consumer;
use super::activity::Progressing;

/// How long a check waits for a store.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pollers that have heard nothing of the queue for so long, not even that it is empty, have stopped: a long poll takes 20
pub fn router(consumer: Consumer) -> Router {
    Router::new().route("/health/live", get(async || "ok\n")).route("/health/ready", get(ready)).with_state(consumer)
}

async fn ready(State(consumer): State<Consumer>) -> Response {
    let queue = consumer.queue.get_queue_attributes().queue_url(&consumer.queue_url).send();
    let (read_model, queue) =
        tokio::join!(timeout(CHECK_TIMEOUT, consumer.read_model.ping()), timeout(CHECK_TIMEOUT, queue));
    let (read_model, queue) = (matches!(read_model, Ok(Ok(()))), matches!(queue, Ok(Ok(_))));
    let (state, lag) = consumer.activity.state();
    let state = if consumer.is_receiving() { state } else { Progressing::Waiting };
    let good = read_model && queue && matches!(state, Progressing::Current | Progressing::Lagging);
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = |reachable| if reachable { "reachable" } else { "unreachable" };
    let told =
        json!({ "readModel": word(read_model), "queue": word(queue), "state": state, "lagSeconds": lag.as_secs() });
    (status, Json(told)).into_response()
}
