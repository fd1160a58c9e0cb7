//! The `projector` process: configure, connect, project, drain. And the commands of whoever operates it.

use std::future::IntoFuture;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use aws_config::BehaviorVersion;
use aws_sdk_sqs::Client;
use clap::{Parser, Subcommand, ValueEnum};
use iso_currency::Currency;
use projector::consumer::{self, Consumer};
use projector::{health, queues, replay};
use read_model::Redis;
use sea_orm::{ConnectOptions, Database};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Order service: projects events from the queue into the read model
///
/// Without a command it consumes the queue. Settings are environment variables, each also a flag.
#[derive(Parser)]
#[command(version)]
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
    /// Receiving calls under way at once; each also applies what it receives
    #[arg(long, env, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pollers: u16,
    #[command(flatten)]
    redis: RedisSettings,
    /// How log lines look; RUST_LOG says which appear, such as RUST_LOG=info,projector=debug
    #[arg(long, env, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
}

#[derive(clap::Args)]
struct RedisSettings {
    /// Read model, such as redis://host:6379, or rediss:// with TLS
    #[arg(long, env, hide_env_values = true)]
    redis_url: Option<String>,
    /// Currency of all amounts (ISO 4217)
    #[arg(long, env, default_value = "USD", value_parser = parse_currency)]
    currency: Currency,
    /// Partitions of the read model; fixed for as long as the data in Redis live
    #[arg(long, env, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    partitions: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Manages the SQS queues
    #[command(subcommand)]
    Queues(Queues),
    /// Applies the whole event log to the read model once more; safe at any time
    Replay {
        /// Command database that holds the log
        #[arg(long, env, hide_env_values = true)]
        database_url: String,
        #[command(flatten)]
        redis: RedisSettings,
    },
}

#[derive(Subcommand)]
enum Queues {
    /// Creates the queue and its dead-letter queue where they do not exist, and prints their URLs
    Create {
        /// Name of the queue; the other is NAME-dead-letters
        #[arg(default_value = "orders")]
        name: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    init_logging(cli.settings.log_format)?;
    match cli.command {
        None => consume(cli.settings).await,
        Some(Command::Queues(Queues::Create { name })) => {
            for queue in queues::create(&connect_queue().await?, &name).await? {
                println!("{:<8} {:<24} {}", if queue.created { "created" } else { "exists" }, queue.name, queue.url);
            }
            Ok(())
        }
        Some(Command::Replay { database_url, redis }) => {
            let mut options = ConnectOptions::new(database_url);
            options.max_connections(1).acquire_timeout(Duration::from_secs(5)).sqlx_logging(false);
            let db = Database::connect(options)
                .await
                .map_err(|error| anyhow!("cannot reach the database of DATABASE_URL: {error}"))?;
            let events = replay::replay(&db, &connect_redis(&redis).await?, redis.currency).await?;
            println!("{events} events replayed");
            Ok(())
        }
    }
}

async fn consume(settings: Settings) -> anyhow::Result<()> {
    let queue_url = settings.queue_url.context("QUEUE_URL is not set: the SQS queue to consume")?;
    let read_model = Arc::new(connect_redis(&settings.redis).await?);
    let queue = connect_queue().await?;
    queues::check(&queue, &queue_url).await?;

    let consumer = Consumer { queue, queue_url, read_model, currency: settings.redis.currency };
    let listener = TcpListener::bind(settings.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {} (LISTEN_ADDR)", settings.listen_addr))?;
    let shutdown = shutdown_signal()?;
    info!(health = %listener.local_addr()?, pollers = settings.pollers, "ready");
    tokio::select! {
        stopped = consumer.clone().run(settings.pollers.into(), shutdown) => stopped?,
        stopped = axum::serve(listener, health::router(consumer)).into_future() => bail!("health stopped: {stopped:?}"),
    }
    info!("stopped");
    Ok(())
}

async fn connect_redis(settings: &RedisSettings) -> anyhow::Result<Redis> {
    let url = settings.redis_url.as_deref().context("REDIS_URL is not set: the read model")?;
    Ok(Redis::connect(url, settings.partitions, settings.currency).await?)
}

async fn connect_queue() -> anyhow::Result<Client> {
    let settings = aws_config::load_defaults(BehaviorVersion::latest()).await;
    ensure!(settings.region().is_some(), "no AWS region is configured: set AWS_REGION");
    Ok(consumer::client(&settings))
}

fn parse_currency(code: &str) -> Result<Currency, String> {
    Currency::from_code(code).ok_or_else(|| "not a currency code of ISO 4217, such as USD".into())
}

/// Logs to standard error, what `RUST_LOG` says, or else from `info` up.
fn init_logging(format: LogFormat) -> anyhow::Result<()> {
    let directives = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let filter = EnvFilter::try_new(directives.as_deref().unwrap_or("info")).context("RUST_LOG is not understood")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Cancelled at the first SIGTERM or SIGINT.
fn shutdown_signal() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping");
        token.cancel();
    });
    Ok(shutdown)
}
