//! The `api` process: configure, connect, serve, drain.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::auth::{self, Authenticator};
use api::config::Settings;
use api::graphql::{App, schema};
use api::relay::{Queue, aws_settings};
use api::{graphiql, store};
use clap::{Parser, Subcommand};
use read_model::Redis;
use tokio::net::TcpListener;
use tracing::info;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Order service: GraphQL over HTTP, and the outbox relay
///
/// Without a command it serves. Settings are environment variables, each also a flag.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the GraphQL schema
    Schema,
    /// Mints a token for development from JWT_SECRET
    Token {
        /// What it allows, separated by spaces: orders:place, clients:read, products:read
        #[arg(long)]
        scope: String,
        /// The one client it may act for; any without it
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// How long it is valid, such as 15m or 8h
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        ttl: Duration,
        /// Whom it is for
        #[arg(long, default_value = "developer")]
        subject: String,
        #[command(flatten)]
        auth: Box<auth::TokenSettings>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => run(cli.settings).await,
        Some(Command::Schema) => {
            print!("{}", schema(None).sdl());
            Ok(())
        }
        Some(Command::Token { scope, client, ttl, subject, auth }) => {
            auth.mint(&subject, &scope, client.as_deref(), ttl).map(|token| println!("{token}"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    api::config::init_logging(settings.log_format)?;
    let database_url = settings.database_url.context("DATABASE_URL is not set: the command database")?;
    let redis_url = settings.redis_url.context("REDIS_URL is not set: the read model")?;
    let queue_url = settings.queue_url.context("QUEUE_URL is not set: the SQS queue that events are published to")?;
    let authenticator = Authenticator::new(&settings.auth).await?;

    let db = store::open(&database_url, settings.database_connections).await?;
    let read_model = Redis::connect(&redis_url, settings.partitions, settings.currency).await?;
    let queue = Queue::new(&aws_settings().await?, queue_url);
    queue.check().await?;

    let app = App {
        db,
        read_model: Arc::new(read_model),
        relay: Arc::default(),
        currency: settings.currency,
        read_wait: settings.read_wait,
    };
    let listener = TcpListener::bind(settings.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {} (LISTEN_ADDR)", settings.listen_addr))?;
    info!(address = %listener.local_addr()?, "ready");
    let graphiql = settings.graphiql.then(|| graphiql::page(None));
    api::serve(listener, app, queue, authenticator, graphiql, api::shutdown_signal()?).await?;
    info!("stopped");
    Ok(())
}
