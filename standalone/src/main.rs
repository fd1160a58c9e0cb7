//! The whole order service in one process: api and projector on embedded stores, each of which can be replaced by a
//! real one. What `cargo run` starts.

mod demo;
mod queue;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use api::Service;
use api::config::Settings;
use api::edge::auth::{Authenticator, SCOPES};
use api::edge::pages;
use api::edge::pages::graphiql::{self, Exploring};
use api::graphql::App;
use api::outbox::relay;
use clap::{Parser, Subcommand};
use futures::TryStreamExt;
use projector::consume::Consumer;
use projector::replay::Selection;
use projector::{queues, rebuild, replay};
use read_model::{Memory, ReadModel};
use runtime::queue::aws_settings;
use runtime::{database, logging, one_line};
use sea_orm::DatabaseConnection;
use tokio::net::TcpListener;
use tracing::info;
use uuid::Uuid;

use crate::demo::DemoSettings;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const POLLERS: u32 = 4;
const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// The order service in one process, to try it and to develop against it
///
/// It needs nothing else: database, queue and read model are embedded, and kept in memory. DATABASE_URL, QUEUE_URL and
/// REDIS_URL replace them; with DATABASE_URL=sqlite://orders.db orders survive a restart.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    demo: DemoSettings,
}

#[derive(Subcommand)]
enum Command {
    /// Serves only the embedded queue, for an api and a projector that run as processes of their own
    Queue {
        /// Address to serve SQS on
        #[arg(long, env = "QUEUE_LISTEN_ADDR", default_value = "127.0.0.1:9324")]
        queue_listen_addr: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    runtime::exit_code(match cli.command {
        None => run(cli.settings, cli.demo).await,
        Some(Command::Queue { queue_listen_addr }) => serve_queue(queue_listen_addr).await,
    })
}

async fn run(mut settings: Settings, demo: DemoSettings) -> anyhow::Result<()> {
    logging::init(settings.log)?;
    if settings.tokens.jwt_secret.is_none() && settings.tokens.jwt_jwks_url.is_none() {
        settings.tokens.jwt_secret = Some(format!("{}{}", Uuid::new_v4(), Uuid::new_v4()));
    }
    let remembers = settings.queue_url.is_some() || settings.read_model.redis_url.is_some();
    let in_memory = |url: &String| url.contains(":memory:") || url.contains("mode=memory");
    let in_memory = settings.database_url.as_ref().is_none_or(in_memory);
    ensure!(
        !in_memory || !remembers,
        "QUEUE_URL and REDIS_URL need a DATABASE_URL that lasts: they would outlive, and contradict, a database in memory"
    );
    ensure!(
        in_memory || demo.demo.is_none(),
        "DEMO fills the database with orders: only one in memory, so leave DATABASE_URL out"
    );
    let authenticator = Authenticator::new(&settings.tokens).await?;

    let db = open_database(&settings).await?;
    let currency = settings.read_model.currency;
    let demo = match demo.demo {
        Some(rate) => Some((rate, demo.demo_time, demo::seed(&db, currency).await?)),
        None => None,
    };
    let redis = match &settings.read_model.redis_url {
        Some(_) => Some(settings.read_model.connect().await?),
        None => None,
    };
    let read_model: Arc<dyn ReadModel> = match &redis {
        Some(redis) => Arc::new(redis.clone()),
        None => Arc::new(Memory::new(settings.read_model.keep_orders)),
    };
    if settings.read_model.redis_url.is_none() || settings.queue_url.is_none() {
        // What is embedded forgot everything with the process before.
        let all = Selection::default();
        let pages = replay::replay(&db, &*read_model, currency, &all);
        let events = pages.try_fold(0, async |_, replayed| Ok(replayed.events)).await?;
        info!(events, "event log replayed into the read model");
    }
    let aws = match settings.queue_url {
        Some(_) => aws_settings().await?,
        None => queue::embedded().await,
    };
    let sqs = queues::client(&aws);
    let queue_url = match &settings.queue_url {
        Some(url) => url.clone(),
        None => queues::create(&sqs, "orders").await?[0].url.clone(),
    };
    queues::check(&sqs, &queue_url).await?;

    let app = App { db, read_model: read_model.clone(), currency, read_wait: settings.read_wait };
    let consumer = Consumer::new(sqs, queue_url.clone(), read_model, currency);
    let listener = listen(settings.listen_addr, "LISTEN_ADDR").await?;
    let address = listener.local_addr()?;
    let token = development_token(&settings)?;
    // Whoever can open the page can use its token: only on this machine.
    let exploring = Exploring::Graphiql { token: token.clone().filter(|_| address.ip().is_loopback()) };
    let queue = relay::Queue::new(&aws, queue_url);
    let shutdown = runtime::shutdown_signal()?;
    let mut edge = settings.edge.clone();
    edge.http.dashboard = true;
    if demo.is_some() {
        edge.limits.rate_limit = 0; // all of it is of one subject
    }
    let service = Service::new(app, queue, authenticator, edge, exploring, shutdown.clone())?;
    info!(%address, "ready");
    println!("{}", welcome(&settings, address, token.as_deref()));
    if let Some((rate, time, _)) = &demo {
        let time = humantime::format_duration(*time);
        println!("The demo: orders come for {time}, about {rate} a second. Open the dashboard.\n");
    }
    let tidying = async {
        if let Some(redis) = redis {
            rebuild::tidy(redis, shutdown.clone()).await;
        }
        Ok(())
    };
    let demo = async {
        match demo {
            Some((rate, time, catalogue)) => {
                let url = format!("http://{address}/graphql");
                demo::traffic(url, token.clone(), rate, time, catalogue, shutdown.clone()).await
            }
            None => Ok(()),
        }
    };
    tokio::try_join!(service.serve(listener), consumer.run(POLLERS, shutdown.clone()), tidying, demo)?;
    Ok(())
}

async fn open_database(settings: &Settings) -> anyhow::Result<DatabaseConnection> {
    let url = settings.database_url.as_deref().unwrap_or("sqlite::memory:");
    if !url.starts_with("sqlite:") {
        return api::commands::database::open(url, settings.database_connections).await;
    }
    let db = database::connect(url, 1, None).await?;
    migration::up(&db).await.map_err(|error| anyhow!("the migration failed: {}", one_line(&error)))?;
    Ok(db)
}

fn development_token(settings: &Settings) -> anyhow::Result<Option<String>> {
    if settings.tokens.jwt_secret.is_none() {
        return Ok(None);
    }
    settings.tokens.mint("developer", &SCOPES.join(" "), None, TOKEN_LIFETIME).map(Some)
}

fn welcome(settings: &Settings, address: SocketAddr, token: Option<&str>) -> String {
    let part =
        |url: &Option<String>, given: &str, embedded: &str| (if url.is_some() { given } else { embedded }).to_owned();
    let database =
        part(&settings.database_url, "DATABASE_URL", "SQLite in memory; DATABASE_URL=sqlite://orders.db keeps it");
    let queue = part(&settings.queue_url, "QUEUE_URL", "embedded");
    let read_model = part(&settings.read_model.redis_url, "REDIS_URL", "in memory, rebuilt from the database at start");
    let page = match graphiql::is_built_in() {
        true => "open it in a browser",
        false => "open it in a browser; built without npm, it comes from unpkg.com",
    };
    let pages = match pages::are_built_in() {
        true => format!("http://{address}/dashboard   and a shop at http://{address}/shop"),
        false => "built without npm, it is not there".into(),
    };
    let identity = match token {
        Some(token) => format!(
            r#"A token for development, valid for 12 hours, and an order of 1 computer and 3 phones for Bob:

TOKEN={token}

curl http://{address}/graphql -H 'Content-Type: application/json' -H "Authorization: Bearer $TOKEN" \
  -d '{{"query": "mutation {{ placeOrder(input: {{clientId: \"1\", items: [{{productId: \"1\", quantity: 1}}, {{productId: \"2\", quantity: 3}}]}}) {{ order {{ id total {{ amount }} }} clientVersion userErrors {{ message }} }} }}"}}'"#
        ),
        None => "Tokens are those whose keys are at JWT_JWKS_URL.".into(),
    };
    format!(
        r"The order service is ready.

  GraphiQL    http://{address}/graphiql/   ({page})
  Dashboard   {pages}
  GraphQL     POST http://{address}/graphql
  Health      http://{address}/health/ready

  Database    {database}
  Queue       {queue}
  Read model  {read_model}

{identity}
"
    )
}

async fn serve_queue(address: SocketAddr) -> anyhow::Result<()> {
    let listener = listen(address, "QUEUE_LISTEN_ADDR").await?;
    let shutdown = runtime::shutdown_signal()?;
    println!("SQS, in memory, is at http://{}. For the processes that use it:", listener.local_addr()?);
    println!();
    println!("export AWS_ENDPOINT_URL=http://{} AWS_REGION=us-east-1", listener.local_addr()?);
    println!("export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any");
    queue::serve(listener, shutdown).await
}

async fn listen(address: SocketAddr, variable: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} ({variable})"))
}
