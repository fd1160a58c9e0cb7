//! The task that sweeps. The projector and standalone start it beside a consumer, `projector sweep` alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use chrono::Utc;
use iso_currency::Currency;
use read_model::Redis;
use runtime::database::{self, Login};
use runtime::one_line;
use runtime::settings::{duration, duration_from};
use sea_orm::DatabaseConnection;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::consume::activity::Activity;
use crate::metrics::SWEEP_LAST_SUCCESS;
use crate::sweep::Sweep;
use crate::verify::{CONCURRENT_CLIENTS, Repair, Verifier};

/// Time limit of a database statement of the sweep.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sweep")]
pub struct SweepSettings {
    /// How often recent changes are compared with the command database
    #[arg(long, env, default_value = "10s", value_parser = duration_from(Duration::from_millis(100)))]
    pub sweep_interval: Duration,
    /// How long it takes to compare all clients, products and sums with the command database once
    #[arg(long, env, default_value = "1d", value_parser = duration)]
    pub sweep_period: Duration,
    /// How long a published event may take to reach the read model before it counts as missing
    #[arg(long, env, default_value = "1m", value_parser = duration)]
    pub in_flight: Duration,
}

/// The command database that the read model is compared with.
#[derive(Clone, Debug)]
pub struct CommandDatabase {
    pub url: String,
    pub password_file: Option<PathBuf>,
    pub currency: Currency,
}

impl CommandDatabase {
    /// Fails if connecting can never succeed, for example because of another currency. This comes before the read model is connected: an
    /// empty Redis would store a currency that the database refuses.
    pub async fn check(&self) -> anyhow::Result<()> {
        match self.clone().connect().await {
            Err(error) if database::is_permanent(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Connects and checks the currency.
    pub async fn connect(self) -> anyhow::Result<DatabaseConnection> {
        let login = Login { url: &self.url, password_file: self.password_file.as_deref() };
        let db = database::connect(login, CONCURRENT_CLIENTS as u32, Some(STATEMENT_TIMEOUT)).await?;
        database::check_currency(&db, self.currency.code()).await?;
        Ok(db)
    }
}

/// Sweeps as soon as the database is reachable. The consumer does not need it.
///
/// # Errors
/// An error for which connecting again cannot help ([`database::is_permanent`]).
pub async fn sweep(
    database: CommandDatabase,
    settings: SweepSettings,
    read_model: Redis,
    activity: Arc<Activity>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    // So that an alert can find a sweep that never succeeds.
    SWEEP_LAST_SUCCESS.record(Utc::now().timestamp() as f64, &[]);
    let connected = (|| database.clone().connect())
        .retry(ExponentialBuilder::default().without_max_times())
        .when(|error| !database::is_permanent(error))
        .notify(|error, pause| warn!(?pause, "cannot sweep yet: {}", one_line(error.as_ref())));
    if let Some(db) = shutdown.run_until_cancelled(connected).await {
        let db = db?;
        let verifier = Verifier::new(db, read_model, database.currency, settings.in_flight, Repair::FromLog);
        Sweep::new(verifier, settings.sweep_interval, settings.sweep_period, activity).run(shutdown).await;
    }
    Ok(())
}
