//! Health checks for load balancers and orchestrators.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use read_model::Health;
use runtime::single_flight::SingleFlight;
use serde_json::json;
use tokio::time::timeout;

use super::Edge;
use crate::graphql::App;
use crate::outbox::relay::Queue;

/// How long a check waits for a store. Orchestrators wait a second by default, and must see that the other stores work.
const CHECK_TIMEOUT: Duration = Duration::from_millis(700);
/// Requests within this time share one check.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The latest results of the checks.
pub struct Checks {
    stores: SingleFlight<(), Stores, Infallible>,
}

#[derive(Clone)]
struct Stores {
    database: bool,
    read_model: Arc<Health>,
    queue: bool,
}

impl Default for Checks {
    fn default() -> Checks {
        Checks { stores: SingleFlight::new(1) }
    }
}

impl Checks {
    async fn stores(&self, app: &App, queue: &Queue) -> Stores {
        let (app, queue) = (app.clone(), queue.clone());
        let check = async move {
            let (database, read_model, queue) = tokio::join!(
                within_timeout(app.is_database_reachable()),
                app.read_model_health(CHECK_TIMEOUT),
                within_timeout(async { queue.check().await.is_ok() }),
            );
            Ok(Stores { database, read_model: Arc::new(read_model), queue })
        };
        let Ok(stores) = self.stores.get((), MAX_AGE, check).await;
        stores
    }
}

/// The process runs.
pub async fn live() -> &'static str {
    "ok\n"
}

/// Reports whether the service should get requests: it can place orders or execute queries, and is not shutting down. One store
/// that fails must not keep requests from the other. The queue never does: events wait in the outbox.
pub async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    let Stores { database, read_model, queue } = edge.checks.stores(&edge.app, &edge.queue).await;
    let is_draining = edge.draining.is_cancelled();
    let status = match (database || read_model.outage.is_none()) && !is_draining {
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
