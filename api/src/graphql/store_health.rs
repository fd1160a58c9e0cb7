//! Whether commands and queries can be executed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use read_model::{Error, Health};
use runtime::single_flight::SingleFlight;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::App;

/// How long a check waits for a store. Orchestrators wait a second by default, and must see that the other stores work.
const CHECK_TIMEOUT: Duration = Duration::from_millis(700);
/// Requests within this time share one check.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The result of a check of the stores.
pub struct StoreHealth {
    pub database: bool,
    pub read_model: Health,
    /// Events wait in the outbox while it is unreachable.
    pub queue: bool,
}

/// The last check.
pub struct Checks(SingleFlight<(), Arc<StoreHealth>, Infallible>);

impl Default for Checks {
    fn default() -> Checks {
        Checks(SingleFlight::new(1))
    }
}

impl App {
    /// The health of the stores, at most a second old. One that does not respond in time counts as unavailable.
    pub async fn store_health(&self) -> Arc<StoreHealth> {
        let app = self.clone();
        let Ok(health) = self.checks.0.get((), MAX_AGE, async move { Ok(Arc::new(app.check_stores().await)) }).await;
        health
    }

    async fn check_stores(&self) -> StoreHealth {
        let (database, read_model, queue) = tokio::join!(
            timeout(CHECK_TIMEOUT, self.db.ping()),
            timeout(CHECK_TIMEOUT, self.read_model.health()),
            timeout(CHECK_TIMEOUT, self.system.publisher.check())
        );
        let silent = |_| Health::of(Err(Error::Unavailable("it does not respond".into())));
        StoreHealth {
            database: matches!(database, Ok(Ok(()))),
            read_model: read_model.unwrap_or_else(silent),
            queue: matches!(queue, Ok(Ok(()))),
        }
    }
}

impl StoreHealth {
    /// Whether orders can be placed or queries executed. One store that fails must not keep requests from the other.
    pub fn is_useful(&self) -> bool {
        self.database || self.read_model.outage.is_none()
    }

    /// Adds fields to the body of a health check.
    pub fn write_to(&self, body: &mut Value) {
        let state = |is_reachable| if is_reachable { "reachable" } else { "unreachable" };
        body["queue"] = json!(state(self.queue));
        body["database"] = json!(state(self.database));
        self.read_model.write_to(body);
    }
}
