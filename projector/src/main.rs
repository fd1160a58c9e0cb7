//! The `projector` process: configure, connect, consume until shutdown. With a command it does that instead ([`cli`]).

mod cli;

use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Parser;
use cli::Command;
use projector::background::{self, CommandDatabase, SweepSettings};
use projector::consume::{Consumer, health};
use projector::{queues, rebuild};
use runtime::Exit;
use runtime::logging::{self, LogSettings};
use runtime::queue::aws_settings;
use runtime::settings::{listen, listen_address};
use runtime::telemetry::metrics::{self, MetricsSettings};
use runtime::telemetry::{self, Telemetry};
use tracing::info;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Order service: applies events from the queue to the read model, unless a command is given
#[derive(Parser)]
#[command(version, propagate_version = true, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Stores")]
struct Settings {
    /// Address and port to serve health on
    #[arg(long, env, help_heading = "HTTP", default_value = "127.0.0.1:8081", value_parser = listen_address)]
    listen_addr: SocketAddr,
    /// URL of the SQS queue. Region, credentials and endpoint come from the AWS_* variables of the AWS SDK
    #[arg(long, env)]
    queue_url: Option<String>,
    /// Concurrent SQS receive calls during a backlog (4 when idle), from 1 to 64
    #[arg(long, env, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    pollers: u16,
    /// Command database; if set, differences between it and the read model are found and repaired
    #[arg(long, env, hide_env_values = true)]
    database_url: Option<String>,
    /// File with the password of the database, instead of the URL; a new password in it is used within a second
    #[arg(long, env)]
    database_password_file: Option<PathBuf>,
    #[command(flatten)]
    read_model: read_model::RedisSettings,
    #[command(flatten)]
    sweep: SweepSettings,
    #[command(flatten)]
    log: LogSettings,
    #[command(flatten)]
    metrics: MetricsSettings,
}

impl Settings {
    fn database(&self) -> Option<CommandDatabase> {
        let (password_file, currency) = (self.database_password_file.clone(), self.read_model.currency);
        self.database_url.clone().map(|url| CommandDatabase { url, password_file, currency })
    }
}

#[tokio::main]
async fn main() -> Exit {
    let cli = runtime::settings::parse();
    Exit::from(run(cli).await)
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let mut telemetry = telemetry::start("projector")?;
    logging::init(cli.settings.log, &telemetry)?;
    match cli.command {
        Some(command) => command.run(&mut telemetry).await,
        None => consume(cli.settings, &mut telemetry).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn consume(settings: Settings, telemetry: &mut Telemetry) -> anyhow::Result<()> {
    metrics::start(settings.metrics, telemetry).await?;
    let database = settings.database();
    let queue_url = settings.queue_url.context("QUEUE_URL is not set: the SQS queue to consume")?;
    if let Some(database) = &database {
        database.check().await?;
    }
    let read_model = Arc::new(settings.read_model.connect().await?);
    let queue = queues::client(&aws_settings().await?);
    queues::check(&queue, &queue_url).await?;
    let consumer = Consumer::new(queue, queue_url, read_model.clone(), settings.read_model.currency);
    let listener = listen(settings.listen_addr, "LISTEN_ADDR").await?;
    let shutdown = runtime::shutdown_signal()?;
    info!(health = %listener.local_addr()?, pollers = settings.pollers, sweep = database.is_some(), "ready");

    let clean_up = tokio::spawn(rebuild::clean_up((*read_model).clone(), shutdown.clone()));
    let (swept, activity, stop) = ((*read_model).clone(), consumer.activity.clone(), shutdown.clone());
    let sweep = tokio::spawn(async move {
        match database {
            Some(database) => background::sweep(database, settings.sweep, swept, activity, stop).await,
            None => Ok(()),
        }
    });
    let background = async {
        let clean_up = async { clean_up.await.context("a background task failed") };
        let sweep = async { sweep.await.context("a background task failed")? };
        tokio::try_join!(clean_up, sweep)?;
        // They end at the shutdown, which must not cut off the consumer.
        pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        stopped = consumer.clone().run(settings.pollers.into(), shutdown) => stopped?,
        () = health::serve(listener, consumer) => bail!("health stopped"),
        failed = background => failed?,
    }
    info!("stopped");
    Ok(())
}
