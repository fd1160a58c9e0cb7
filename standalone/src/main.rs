//! The whole order service in one process: api and projector on embedded stores. A real store can replace each of them.
//! This is what `cargo run` starts.

mod demo;
mod queue;
mod stores;
mod welcome;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::config::Settings;
use api::edge::auth::{Authenticator, SCOPES};
use api::edge::origin::AllowedOrigin;
use api::edge::pages::tokens::PageTokens;
use api::edge::settings::SchemaExposure;
use api::outbox::relay::Publisher;
use api::{Backend, Service};
use clap::{Parser, Subcommand};
use projector::background::{self, CommandDatabase, SweepSettings};
use projector::consume::Consumer;
use projector::consume::activity::Activity;
use projector::{queues, rebuild};
use read_model::Redis;
use runtime::database::watch_credentials;
use runtime::settings::{listen, listen_address};
use runtime::telemetry::metrics;
use runtime::{Exit, logging, print_line, telemetry};
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use crate::demo::DemoSettings;
use crate::stores::Stores;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const POLLERS: u32 = 4;
const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

const ABOUT_STORES: &str = "It needs no other program: database, queue and read model are embedded and kept in memory. DATABASE_URL, \
                            QUEUE_URL and REDIS_URL replace them. With DATABASE_URL=sqlite://orders.db orders survive a restart.";

/// The order service in one process, to try it and to develop against it
#[derive(Parser)]
#[command(version, propagate_version = true, args_conflicts_with_subcommands = true, after_help = ABOUT_STORES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    sweep: SweepSettings,
    #[command(flatten)]
    demo: DemoSettings,
}

#[derive(Subcommand)]
enum Command {
    /// Serve only the embedded queue, for an api and a projector in processes of their own
    Queue {
        /// Address and port to serve SQS on
        #[arg(long, env, help_heading = "HTTP", default_value = "127.0.0.1:9324", value_parser = listen_address)]
        queue_listen_addr: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> Exit {
    let cli: Cli = runtime::settings::parse();
    Exit::from(match cli.command {
        None => run(cli.settings, cli.sweep, cli.demo).await,
        Some(Command::Queue { queue_listen_addr }) => serve_queue(queue_listen_addr).await,
    })
}

async fn run(mut settings: Settings, sweep: SweepSettings, demo: DemoSettings) -> anyhow::Result<()> {
    let mut telemetry = telemetry::start("standalone")?;
    logging::init(settings.log, &telemetry)?;
    metrics::start(settings.metrics, &mut telemetry).await?;
    if settings.tokens.jwt_secret.is_none() && settings.tokens.jwt_jwks_url.is_none() {
        settings.tokens.jwt_secret = Some(format!("{}{}", Uuid::new_v4(), Uuid::new_v4()));
    }
    stores::check(&settings, &demo)?;
    let authenticator = Authenticator::new(&settings.tokens).await?;
    let db = stores::open_database(&settings).await?;
    settings.publication().check(&db).await?;
    let demo = demo.prepare(&db, settings.read_model.currency).await?;
    let Stores { db, read_model, redis, aws, queue_url } = Stores::open(&settings, db).await?;
    let sqs = queues::client(&aws);
    queues::check(&sqs, &queue_url).await?;

    let currency = settings.read_model.currency;
    let backend = Backend {
        db: db.clone(),
        read_model: read_model.clone(),
        currency,
        read_wait: settings.read_wait,
        cancel_window: settings.cancel_window,
        publication: settings.publication(),
    };
    let consumer = Consumer::new(sqs, queue_url.clone(), read_model, currency);
    let activity = consumer.activity.clone();
    let listener = listen(settings.listen_addr, "LISTEN_ADDR").await?;
    let address = listener.local_addr()?;
    let token = development_token(&settings)?;
    // A page shows its token to everyone who can open it, so only a page on this machine gets one.
    let tokens = token.clone().filter(|_| address.ip().is_loopback());
    let tokens = tokens.map(|token| PageTokens::new(token, settings.tokens.clone()));
    let exposure = SchemaExposure::Graphiql { tokens };
    let publisher = Publisher::new(&aws, settings.topic_arn.clone(), Some(queue_url))?;
    publisher.check().await?;
    let shutdown = runtime::shutdown_signal()?;
    let mut edge = settings.edge.clone();
    edge.http.dashboard = true;
    if edge.http.cors_origins.is_empty() {
        edge.http.cors_origins = local_origins()?;
    }
    if demo.is_some() {
        edge.limits.rate_limit = 0; // one subject places all orders of the demo
    }
    let service = Service::new(backend, publisher, authenticator, edge, exposure, shutdown.clone())?;
    info!(%address, "ready");
    print_line(welcome::text(&settings, address, token.as_deref()));

    let traffic = async {
        match demo {
            Some(demo) => demo.run(address, token.clone(), shutdown.clone()).await,
            None => Ok(()),
        }
    };
    let consumed = async {
        let running = consumer.run(POLLERS, shutdown.clone());
        match settings.queue_url {
            Some(_) => running.await,
            // The embedded queue ends with this process, so nobody waits for its receive calls.
            None => shutdown.run_until_cancelled(running).await.unwrap_or(Ok(())),
        }
    };
    let served = async {
        let repaired = sweep_and_clean_up(redis, &settings, sweep, activity, shutdown.clone());
        let parts = async { tokio::try_join!(service.serve(listener), consumed, repaired, traffic) };
        let served = parts.await.map(drop);
        shutdown.cancel();
        served
    };
    let (served, watched) = tokio::join!(served, watch_credentials(db, shutdown.clone()));
    served.and(watched)
}

/// Sweeps a Redis and removes its old generations, if there is one.
async fn sweep_and_clean_up(
    redis: Option<Redis>,
    settings: &Settings,
    sweep: SweepSettings,
    activity: Arc<Activity>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (Some(redis), Some(url)) = (redis, settings.database_url.clone()) else { return Ok(()) };
    let (password_file, currency) = (settings.database_password_file.clone(), settings.read_model.currency);
    let database = CommandDatabase { url, password_file, currency };
    let clean_up = async {
        rebuild::clean_up(redis.clone(), shutdown.clone()).await;
        Ok(())
    };
    tokio::try_join!(clean_up, background::sweep(database, sweep, redis.clone(), activity, shutdown.clone()))?;
    Ok(())
}

/// Pages that are developed on this machine, with any development server.
fn local_origins() -> anyhow::Result<Vec<AllowedOrigin>> {
    let origins = ["http://localhost:*", "http://127.0.0.1:*"].into_iter();
    origins.map(|origin| origin.parse().map_err(anyhow::Error::msg)).collect()
}

fn development_token(settings: &Settings) -> anyhow::Result<Option<String>> {
    if settings.tokens.jwt_secret.is_none() {
        return Ok(None);
    }
    settings.tokens.mint("developer", &SCOPES.join(" "), None, TOKEN_LIFETIME).map(Some)
}

async fn serve_queue(address: SocketAddr) -> anyhow::Result<()> {
    let listener = listen(address, "QUEUE_LISTEN_ADDR").await?;
    let shutdown = runtime::shutdown_signal()?;
    print_line(welcome::queue_text(listener.local_addr()?));
    queue::serve(listener, shutdown).await
}
