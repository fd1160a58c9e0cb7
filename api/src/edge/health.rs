//! Health checks for load balancers and orchestrators.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use runtime::single_flight::SingleFlight;
use serde_json::json;
use tokio::time::timeout;

use super::Edge;
use crate::graphql::{App, StoreHealth};
use crate::outbox::relay::Publisher;

/// How long a check waits for a store. Orchestrators wait a second by default, and must see that the other stores work.
const CHECK_TIMEOUT: Duration = Duration::from_millis(700);
/// Requests within this time share one check.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The latest results of the checks: of the stores that operations need, and whether the queue is reachable.
pub struct Checks {
    latest: SingleFlight<(), (Arc<StoreHealth>, bool), Infallible>,
}

impl Default for Checks {
    fn default() -> Checks {
        Checks { latest: SingleFlight::new(1) }
    }
}

impl Checks {
    async fn latest(&self, app: &App, publisher: &Publisher) -> (Arc<StoreHealth>, bool) {
        let (app, publisher) = (app.clone(), publisher.clone());
        let check = async move {
            let (stores, queue) =
                tokio::join!(app.store_health(CHECK_TIMEOUT), timeout(CHECK_TIMEOUT, publisher.check()));
            Ok((Arc::new(stores), matches!(queue, Ok(Ok(())))))
        };
        let Ok(latest) = self.latest.get((), MAX_AGE, check).await;
        latest
    }
}

/// The process runs.
pub async fn live() -> &'static str {
    "ok\n"
}

/// Reports whether the service should get requests: it can place orders or execute queries, and is not shutting down. The queue
/// does not matter: events wait in the outbox.
pub async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    let (stores, queue) = edge.checks.latest(&edge.app, &edge.publisher).await;
    let is_draining = edge.draining.is_cancelled();
    let status = match stores.is_useful() && !is_draining {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut body = json!({ "queue": if queue { "reachable" } else { "unreachable" } });
    stores.write_to(&mut body);
    let backlog = *edge.publisher.backlog.borrow();
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
