//! The `projector` process: configure, connect, project, drain. And the commands of whoever operates it.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use process::logging::{self, LogSettings};
use process::{database, queue::aws_settings};
use projector::consumer::{self, Consumer};
use projector::{health, queues, replay};
use tokio::net::TcpListener;
use tracing::info;

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
    /// Receiving calls under way at once; each also applies what it receives
    #[arg(long, env, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pollers: u16,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
    #[command(flatten)]
    log: LogSettings,
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
        read_model: read_model::RedisSettings,
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
    process::exit(run(Cli::parse()).await)
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    logging::init(cli.settings.log)?;
    match cli.command {
        None => consume(cli.settings).await,
        Some(Command::Queues(Queues::Create { name })) => {
            for queue in queues::create(&consumer::client(&aws_settings().await?), &name).await? {
                println!("{:<8} {:<24} {}", if queue.created { "created" } else { "exists" }, queue.name, queue.url);
            }
            Ok(())
        }
        Some(Command::Replay { database_url, read_model }) => {
            let db = database::connect(&database_url, 1, None).await?;
            let events = replay::replay(&db, &read_model.connect().await?, read_model.currency).await?;
            println!("{events} events replayed");
            Ok(())
        }
    }
}

async fn consume(settings: Settings) -> anyhow::Result<()> {
    let queue_url = settings.queue_url.context("QUEUE_URL is not set: the SQS queue to consume")?;
    let read_model = Arc::new(settings.read_model.connect().await?);
    let queue = consumer::client(&aws_settings().await?);
    queues::check(&queue, &queue_url).await?;

    let consumer = Consumer::new(queue, queue_url, read_model, settings.read_model.currency);
    let listener = TcpListener::bind(settings.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {} (LISTEN_ADDR)", settings.listen_addr))?;
    let shutdown = process::shutdown_signal()?;
    info!(health = %listener.local_addr()?, pollers = settings.pollers, "ready");
    tokio::select! {
        stopped = consumer.clone().run(settings.pollers.into(), shutdown) => stopped?,
        stopped = axum::serve(listener, health::router(consumer)).into_future() => bail!("health stopped: {stopped:?}"),
    }
    info!("stopped");
    Ok(())
}
