//! `projector sweep`

use std::path::PathBuf;

use anyhow::Context;
use projector::background::{self, CommandDatabase, SweepSettings};
use projector::rebuild;
use runtime::telemetry::Telemetry;
use runtime::telemetry::metrics::{self, MetricsSettings};
use tracing::info;

#[derive(clap::Args)]
#[command(next_help_heading = "Stores")]
pub struct Arguments {
    /// Command database; must be the writer, not a replica
    #[arg(long, env, hide_env_values = true)]
    database_url: String,
    /// File with the password of the database, instead of the URL; a new password in it is used within a second
    #[arg(long, env)]
    database_password_file: Option<PathBuf>,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
    #[command(flatten)]
    sweep: SweepSettings,
    #[command(flatten)]
    metrics: MetricsSettings,
}

impl Arguments {
    /// Sweeps and removes old generations until shutdown. It does not know how far the queue lags behind: during a long backlog it applies
    /// events that are still in the queue, which are recognised when they arrive.
    pub async fn run(self, telemetry: &mut Telemetry) -> anyhow::Result<()> {
        metrics::start(self.metrics, telemetry).await?;
        let (password_file, currency) = (self.database_password_file, self.read_model.currency);
        let database = CommandDatabase { url: self.database_url, password_file, currency };
        database.check().await?;
        let read_model = self.read_model.connect().await?;
        let shutdown = runtime::shutdown_signal()?;
        info!("ready");
        let clean_up = tokio::spawn(rebuild::clean_up(read_model.clone(), shutdown.clone()));
        let clean_up = async { clean_up.await.context("a background task failed") };
        let sweep = background::sweep(database, self.sweep, read_model, <_>::default(), shutdown);
        tokio::try_join!(sweep, clean_up)?;
        info!("stopped");
        Ok(())
    }
}
