//! Database, read model and queue: each is embedded unless its URL is set.

use std::sync::Arc;

use anyhow::{anyhow, ensure};
use api::config::Settings;
use aws_config::SdkConfig;
use futures::TryStreamExt;
use projector::{queues, replay};
use read_model::{Memory, ReadModel, Redis};
use runtime::database::{self, Login};
use runtime::one_line;
use runtime::queue::aws_settings;
use sea_orm::DatabaseConnection;
use tracing::info;

use crate::demo::DemoSettings;
use crate::queue;

pub struct Stores {
    pub db: DatabaseConnection,
    pub read_model: Arc<dyn ReadModel>,
    /// The same read model, unless it is embedded.
    pub redis: Option<Redis>,
    pub aws: SdkConfig,
    pub queue_url: String,
}

/// Checks that the settings of the stores fit together.
///
/// # Errors
/// When a topic has no queue, when a queue or a Redis would outlive a database in memory, when the demo would write to a database that
/// lasts, or when nothing could send events to the embedded queue.
pub fn check(settings: &Settings, demo: &DemoSettings) -> anyhow::Result<()> {
    let in_memory = settings.database_url.as_deref().is_none_or(database::is_in_memory);
    let lasting = settings.queue_url.is_some() || settings.read_model.redis_url.is_some();
    ensure!(
        !in_memory || !lasting,
        "QUEUE_URL and REDIS_URL need a DATABASE_URL that lasts: they would outlive a database in memory and contradict \
         the next one"
    );
    ensure!(
        settings.relay || settings.queue_url.is_some(),
        "RELAY=off needs a QUEUE_URL: no program that reads the log of PostgreSQL can send events to the embedded queue"
    );
    ensure!(
        settings.topic_arn.is_none() || settings.queue_url.is_some(),
        "TOPIC_ARN needs the QUEUE_URL of a queue that is subscribed to the topic"
    );
    ensure!(
        in_memory || demo.demo.is_none(),
        "DEMO fills the database with orders and accepts only one in memory: leave DATABASE_URL out"
    );
    Ok(())
}

/// Opens the database. A SQLite database is also migrated, and gets sample data when it is new; for PostgreSQL `migration`
/// does both.
pub async fn open_database(settings: &Settings) -> anyhow::Result<DatabaseConnection> {
    let url = settings.database_url.as_deref().unwrap_or("sqlite::memory:");
    let currency = settings.read_model.currency;
    if !url.starts_with("sqlite:") {
        let login = Login { url, password_file: settings.database_password_file.as_deref() };
        return api::commands::database::open(login, settings.database_connections, currency).await;
    }
    let db = database::connect(url, 1, None).await?;
    let failed = |error| anyhow!("the migration failed: {}", one_line(&error));
    migration::up(&db).await.map_err(failed)?;
    database::store_currency(&db, currency.code()).await?;
    migration::sample_data(&db, currency.code()).await.map_err(failed)?;
    Ok(db)
}

impl Stores {
    /// Connects to the other stores or embeds them. Whatever was embedded in the previous process is gone with it, so the
    /// event log is replayed first.
    pub async fn open(settings: &Settings, db: DatabaseConnection) -> anyhow::Result<Stores> {
        let currency = settings.read_model.currency;
        let redis = match &settings.read_model.redis_url {
            Some(_) => Some(settings.read_model.connect().await?),
            None => None,
        };
        let read_model: Arc<dyn ReadModel> = match &redis {
            Some(redis) => Arc::new(redis.clone()),
            None => Arc::new(Memory::default()),
        };
        if redis.is_none() || settings.queue_url.is_none() {
            let pages = replay::replay(&db, &*read_model, currency, None);
            let events = pages.try_fold(0, async |_, replayed| Ok(replayed.events)).await?;
            info!(events, "event log replayed into the read model");
        }
        let aws = match settings.queue_url {
            Some(_) => aws_settings().await?,
            None => queue::embedded().await,
        };
        let queue_url = match &settings.queue_url {
            Some(url) => url.clone(),
            None => queues::create(&queues::client(&aws), "orders").await?[0].url.clone(),
        };
        Ok(Stores { db, read_model, redis, aws, queue_url })
    }
}
