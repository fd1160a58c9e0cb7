//! Reports of the projector about itself, for operators without access to its health check.

use std::time::Duration;

use chrono::Utc;
use read_model::ProjectorStatus;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Consumer;

/// How often a projector reports. A report counts for longer.
const INTERVAL: Duration = Duration::from_secs(2);

impl Consumer {
    pub(super) async fn report(self, shutdown: CancellationToken) {
        let (id, started, version) = (Uuid::now_v7(), Utc::now(), env!("CARGO_PKG_VERSION").to_owned());
        loop {
            let (state, lag) = self.condition();
            let status = ProjectorStatus { id, version: version.clone(), started, state, lag_s: lag.as_secs() };
            // While it fails, operators see that the read model is unreachable.
            let _ = shutdown.run_until_cancelled(self.read_model.report(&status)).await;
            if timeout(INTERVAL, shutdown.cancelled()).await.is_ok() {
                return;
            }
        }
    }
}
