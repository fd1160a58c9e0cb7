//! Health checks for load balancers and orchestrators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Edge;

/// The process runs.
pub async fn live() -> &'static str {
    "ok\n"
}

/// Reports whether the service should get requests: it can place orders or execute queries, and is not shutting down. The queue
/// does not matter: events wait in the outbox.
pub async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    let stores = edge.app.store_health().await;
    let is_draining = edge.draining.is_cancelled();
    let status = match stores.is_useful() && !is_draining {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut body = json!({});
    stores.write_to(&mut body);
    let backlog = *edge.app.system.publisher.backlog.borrow();
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
