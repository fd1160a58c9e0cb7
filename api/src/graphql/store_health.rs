//! Whether commands and queries can be executed.

use std::time::Duration;

use read_model::{Error, Health};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::App;

pub struct StoreHealth {
    database: bool,
    read_model: Health,
}

impl App {
    /// The health of the stores. One that does not respond within `limit` counts as unavailable.
    pub async fn store_health(&self, limit: Duration) -> StoreHealth {
        let (database, read_model) =
            tokio::join!(timeout(limit, self.db.ping()), timeout(limit, self.read_model.health()));
        let silent = |_| Health::of(Err(Error::Unavailable("it does not respond".into())));
        StoreHealth { database: matches!(database, Ok(Ok(()))), read_model: read_model.unwrap_or_else(silent) }
    }
}

impl StoreHealth {
    /// Whether orders can be placed or queries executed. One store that fails must not keep requests from the other.
    pub fn is_useful(&self) -> bool {
        self.database || self.read_model.outage.is_none()
    }

    /// Adds fields to the body of a health check.
    pub fn write_to(&self, body: &mut Value) {
        body["database"] = json!(if self.database { "reachable" } else { "unreachable" });
        self.read_model.write_to(body);
    }
}
