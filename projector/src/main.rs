//! The `projector` process: configure, connect, project, drain. And the commands ([`cli`]) of whoever operates it.

mod cli;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use cli::Command;
use iso_currency::Currency;
use projector::consume::activity::Activity;
use projector::consume::{Consumer, health};
use projector::sweep::Sweep;
use projector::verify::{CONCURRENT, Repair, Verifier};
use projector::{queues, rebuild};
use read_model::Redis;
use runtime::logging::{self, LogSettings};
use runtime::{database, duration_from, one_line, queue::aws_settings};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Order service: projects events from the queue into the read model
///
/// Without a command it consumes the queue. Settings are environment variables, each also a flag.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(clap::Args)]
struct Settings {
    /// Address to serve health on
    #[arg(long, env, default_value = "127.0.0.1:8081")]
    listen_addr: SocketAddr,
    /// URL of the SQS queue; region, credentials and endpoint are the AWS SDK's own AWS_* variables
    #[arg(long, env)]
    queue_url: Option<String>,
    /// Receiving calls under way at once while there is a backlog, which is applied together; 4 when there is none
    #[arg(long, env, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    pollers: u16,
    /// Command database; where it is given, what the read model lacks is noticed and healed
    #[arg(long, env, hide_env_values = true)]
    database_url: Option<String>,
    /// How often clients are compared with the command database, those that changed lately first
    #[arg(long, env, default_value = "10s", value_parser = duration_from(Duration::from_millis(100)))]
    sweep_interval: Duration,
    /// How long after its publication an event counts as on its way to the read model
    #[arg(long, env, default_value = "1m", value_parser = humantime::parse_duration)]
    in_flight: Duration,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
    #[command(flatten)]
    log: LogSettings,
}

/// How long a statement of the sweep may take.
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
    let queue_url = settings.queue_url.context("QUEUE_URL is not set: the SQS queue to consume")?;
    let read_model = Arc::new(settings.read_model.connect().await?);
    let queue = queues::client(&aws_settings().await?);
    queues::check(&queue, &queue_url).await?;
    let currency = settings.read_model.currency;
    let consumer = Consumer::new(queue, queue_url, read_model.clone(), currency);
    let listener = TcpListener::bind(settings.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {} (LISTEN_ADDR)", settings.listen_addr))?;
    let shutdown = runtime::shutdown_signal()?;
    info!(health = %listener.local_addr()?, pollers = settings.pollers, sweep = settings.database_url.is_some(), "ready");
    let activity = consumer.activity.clone();
    let tidying = tokio::spawn(rebuild::clean_up((*read_model).clone(), shutdown.clone()));
    let sweeping = async {
        let Some(url) = settings.database_url else { return Ok(()) };
        let (in_flight, interval) = (settings.in_flight, settings.sweep_interval);
        let sweeping = sweep(url, (*read_model).clone(), currency, in_flight, interval, activity, shutdown.clone());
        tokio::spawn(sweeping).await?
    };
    let background = async {
        tokio::try_join!(async { anyhow::Ok(tidying.await?) }, sweeping)?;
        // That they end with the shutdown must not cut off the others.
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        stopped = consumer.clone().run(settings.pollers.into(), shutdown.clone()) => stopped?,
        stopped = axum::serve(listener, health::router(consumer)).into_future() => bail!("health stopped: {stopped:?}"),
        failed = background => failed.context("keeping the read model right failed")?,
    }
    info!("stopped");
    Ok(())
}

/// Sweeps as soon as the database can be reached: the projector does not need it for anything else.
async fn sweep(
    url: String,
    read_model: Redis,
    currency: Currency,
    in_flight: Duration,
    interval: Duration,
    activity: Arc<Activity>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut waiting = false;
    let db = loop {
        match database::connect(&url, CONCURRENT as u32, Some(SWEEP_TIMEOUT)).await {
            Ok(db) => break db,
            Err(error) if !std::mem::replace(&mut waiting, true) => warn!("no sweep for now: {error}"),
            Err(_) => {}
        }
        if timeout(interval, shutdown.cancelled()).await.is_ok() {
            return Ok(());
        }
    };
    let verifier = Verifier { db, read_model, currency, in_flight, repair: Repair::FromLog };
    while let Err(error) = verifier.check_database().await {
        warn!("no sweep for now: {}", one_line(error.as_ref()));
        if timeout(SWEEP_TIMEOUT, shutdown.cancelled()).await.is_ok() {
            return Ok(());
        }
    }
    Sweep::new(verifier, interval, activity).run(shutdown).await;
    Ok(())
}
