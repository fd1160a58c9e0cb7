//! Health checks for load balancers and orchestrators.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::timeout;

use super::Edge;

/// How long a check waits for a store.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The process runs.
pub async fn live() -> &'static str {
    "ok\n"
}

/// Reports whether the service can accept orders and execute queries. The queue is reported, too, but does not affect the
/// status: events wait in the outbox.
pub async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    let (database, read_model, queue) = tokio::join!(
        within_timeout(edge.app.is_database_reachable()),
        edge.app.read_model_health(CHECK_TIMEOUT),
        within_timeout(async { edge.queue.check().await.is_ok() }),
    );
    let is_draining = edge.draining.is_cancelled();
    let status = match database && read_model.outage.is_none() && !is_draining {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let word = |reachable| if reachable { "reachable" } else { "unreachable" };
    let mut body = json!({ "database": word(database), "queue": word(queue) });
    read_model.write_to(&mut body);
    let backlog = *edge.queue.backlog.borrow();
    if let Some(age) = backlog.oldest {
        body["oldestUnpublishedSeconds"] = json!(age.as_secs());
    }
    if backlog.refused > 0 {
        body["refusedEvents"] = json!(backlog.refused);
    }
    if is_draining {
        body["stopping"] = json!(true);
    }
    (status, Json(body)).into_response()
}

async fn within_timeout(check: impl Future<Output = bool>) -> bool {
    timeout(CHECK_TIMEOUT, check).await.unwrap_or(false)
}
