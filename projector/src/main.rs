//! The `projector` process: configure, connect, consume until shutdown. With a command it does that instead ([`cli`]).

mod cli;

use std::future::{IntoFuture, pending};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use backon::{ExponentialBuilder, Retryable};
use clap::Parser;
use cli::Command;
use projector::consume::activity::Activity;
use projector::consume::{Consumer, health};
use projector::sweep::Sweep;
use projector::verify::{CONCURRENT_CLIENTS, Repair, Verifier};
use projector::{queues, rebuild};
use read_model::Redis;
use runtime::database::{self, Login, OtherCurrency};
use runtime::logging::{self, LogSettings};
use runtime::{duration_from, one_line, queue::aws_settings};
use sea_orm::DatabaseConnection;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Order service: applies events from the queue to the read model
///
/// Without a command it consumes the queue. Each setting is an environment variable and a flag.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, clap::Args)]
struct Settings {
    /// Address to serve health on
    #[arg(long, env, default_value = "127.0.0.1:8081")]
    listen_addr: SocketAddr,
    /// URL of the SQS queue; region, credentials and endpoint come from the AWS SDK's own AWS_* variables
    #[arg(long, env)]
    queue_url: Option<String>,
    /// Concurrent SQS receive calls during a backlog (4 when idle)
    #[arg(long, env, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    pollers: u16,
    /// Command database; if set, differences between it and the read model are found and repaired
    #[arg(long, env, hide_env_values = true)]
    database_url: Option<String>,
    /// File with the password of the database, instead of the URL; a new password in it is used within a second
    #[arg(long, env)]
    database_password_file: Option<PathBuf>,
    /// How often recent changes are compared with the command database
    #[arg(long, env, default_value = "10s", value_parser = duration_from(Duration::from_millis(100)))]
    sweep_interval: Duration,
    /// How long it takes to compare all clients, products and sums with the command database once
    #[arg(long, env, default_value = "1d", value_parser = humantime::parse_duration)]
    sweep_period: Duration,
    /// How long a published event may take to reach the read model before it counts as missing
    #[arg(long, env, default_value = "1m", value_parser = humantime::parse_duration)]
    in_flight: Duration,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
    #[command(flatten)]
    log: LogSettings,
}

/// Time limit of a database statement of the sweep.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    run(cli).await.unwrap_or_else(|error| runtime::exit_code(Err(error)))
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    logging::init(cli.settings.log)?;
    match cli.command {
        Some(command) => command.run().await,
        None => consume(cli.settings).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn consume(settings: Settings) -> anyhow::Result<()> {
    let queue_url = settings.queue_url.clone().context("QUEUE_URL is not set: the SQS queue to consume")?;
    // Before the read model: an empty Redis would store a currency that the database refuses.
    if let Some(url) = &settings.database_url
        && let Err(error) = database(url, &settings).await
        && error.is::<OtherCurrency>()
    {
        return Err(error);
    }
    let read_model = Arc::new(settings.read_model.connect().await?);
    let queue = queues::client(&aws_settings().await?);
    queues::check(&queue, &queue_url).await?;
    let consumer = Consumer::new(queue, queue_url, read_model.clone(), settings.read_model.currency);
    let listener = TcpListener::bind(settings.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {} (LISTEN_ADDR)", settings.listen_addr))?;
    let shutdown = runtime::shutdown_signal()?;
    info!(health = %listener.local_addr()?, pollers = settings.pollers, sweep = settings.database_url.is_some(), "ready");

    let pollers = settings.pollers.into();
    let clean_up = tokio::spawn(rebuild::clean_up((*read_model).clone(), shutdown.clone()));
    let sweep = tokio::spawn(sweep(settings, (*read_model).clone(), consumer.activity.clone(), shutdown.clone()));
    let background = async {
        let clean_up = async { clean_up.await.context("a background task failed") };
        let sweep = async { sweep.await.context("a background task failed")? };
        tokio::try_join!(clean_up, sweep)?;
        // They end at the shutdown, which must not cut off the consumer.
        pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        stopped = consumer.clone().run(pollers, shutdown) => stopped?,
        stopped = axum::serve(listener, health::router(consumer)).into_future() => bail!("health stopped: {stopped:?}"),
        failed = background => failed?,
    }
    info!("stopped");
    Ok(())
}

/// Sweeps as soon as the database is reachable. The projector needs it for nothing else.
async fn sweep(
    settings: Settings,
    read_model: Redis,
    activity: Arc<Activity>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Some(url) = settings.database_url.clone() else { return Ok(()) };
    let (interval, period) = (settings.sweep_interval, settings.sweep_period);
    let connected = (|| verifier(url.clone(), settings.clone(), read_model.clone()))
        .retry(ExponentialBuilder::default().without_max_times())
        .when(|error| !error.is::<OtherCurrency>())
        .notify(|error, pause| warn!(?pause, "cannot sweep yet: {}", one_line(error.as_ref())));
    if let Some(verifier) = shutdown.run_until_cancelled(connected).await {
        Sweep::new(verifier?, interval, period, activity).run(shutdown).await;
    }
    Ok(())
}

async fn verifier(url: String, settings: Settings, read_model: Redis) -> anyhow::Result<Verifier> {
    let db = database(&url, &settings).await?;
    Ok(Verifier::new(db, read_model, settings.read_model.currency, settings.in_flight, Repair::FromLog))
}

/// Connects to the command database and checks its currency.
async fn database(url: &str, settings: &Settings) -> anyhow::Result<DatabaseConnection> {
    let login = Login { url, password_file: settings.database_password_file.as_deref() };
    let db = database::connect(login, CONCURRENT_CLIENTS as u32, Some(SWEEP_TIMEOUT)).await?;
    database::check_currency(&db, settings.read_model.currency.code()).await?;
    Ok(db)
}
