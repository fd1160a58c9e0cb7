//! The `api` program: configure, connect, serve, drain.

mod token;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use api::commands::database;
use api::config::Settings;
use api::edge::auth::Authenticator;
use api::edge::pages;
use api::edge::pages::graphiql;
use api::edge::settings::SchemaExposure;
use api::graphql::federation::subgraph_sdl;
use api::graphql::schema;
use api::outbox::relay::Publisher;
use api::{Backend, Service};
use clap::{Parser, Subcommand};
use entity::event::contract;
use runtime::database::{Login, watch_credentials};
use runtime::queue::aws_settings;
use runtime::settings::listen;
use runtime::telemetry::metrics;
use runtime::{Exit, logging, print_line, telemetry};
use tracing::{info, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Order service: serves GraphQL over HTTP and publishes events, unless a command is given
#[derive(Parser)]
#[command(version, propagate_version = true, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Let clients query the schema (introspection)
    #[arg(long, env, help_heading = "HTTP")]
    introspection: bool,
    /// Serve the GraphiQL page at /graphiql/ and enable introspection
    #[arg(long, env, help_heading = "HTTP")]
    graphiql: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Print the GraphQL schema
    Schema {
        /// As a subgraph of Apollo Federation 2, for a composer
        #[arg(long)]
        subgraph: bool,
    },
    /// Print the contract of the events (AsyncAPI 3)
    Events {
        /// Write it and the JSON Schema of each type as files into this directory
        #[arg(long, value_name = "DIRECTORY")]
        write: Option<PathBuf>,
    },
    /// Create a token for development, signed with JWT_SECRET
    Token(Box<token::Arguments>),
}

#[tokio::main]
async fn main() -> Exit {
    let cli: Cli = runtime::settings::parse();
    Exit::from(match cli.command {
        None => {
            let exposure = match (cli.graphiql, cli.introspection) {
                (true, _) => SchemaExposure::Graphiql { tokens: None },
                (false, true) => SchemaExposure::Introspection,
                (false, false) => SchemaExposure::Hidden,
            };
            run(cli.settings, exposure).await
        }
        Some(Command::Schema { subgraph }) => {
            let text = if subgraph { subgraph_sdl().to_owned() } else { schema(None).sdl() };
            print_line(text.trim_end());
            Ok(())
        }
        Some(Command::Events { write: None }) => {
            print_line(format_args!("{:#}", contract::asyncapi()));
            Ok(())
        }
        Some(Command::Events { write: Some(directory) }) => write_contract(&directory),
        Some(Command::Token(arguments)) => arguments.run(),
    })
}

fn write_contract(directory: &Path) -> anyhow::Result<()> {
    let write =
        |path: PathBuf, text| fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()));
    contract::files().into_iter().try_for_each(|(name, text)| write(directory.join(name), text))
}

async fn run(settings: Settings, exposure: SchemaExposure) -> anyhow::Result<()> {
    let mut telemetry = telemetry::start("api")?;
    logging::init(settings.log, &telemetry)?;
    metrics::start(settings.metrics, &mut telemetry).await?;
    let publication = settings.publication();
    let database_url = settings.database_url.context("DATABASE_URL is not set: it must name the command database")?;
    let publisher = Publisher::new(&aws_settings().await?, settings.topic_arn, settings.queue_url)?;
    settings.read_model.redis_url.as_ref().context("REDIS_URL is not set: the read model")?;
    let authenticator = Authenticator::new(&settings.tokens).await?;

    // Before the read model: an empty Redis would store a currency that the database refuses.
    let login = Login { url: &database_url, password_file: settings.database_password_file.as_deref() };
    let db = database::open(login, settings.database_connections, settings.read_model.currency).await?;
    publication.check(&db).await?;
    let read_model = settings.read_model.connect().await?;
    publisher.check().await?;

    let backend = Backend {
        db: db.clone(),
        read_model: Arc::new(read_model),
        currency: settings.read_model.currency,
        read_wait: settings.read_wait,
        cancel_window: settings.cancel_window,
        publication,
    };
    let shutdown = runtime::shutdown_signal()?;
    let is_cdn_needed = exposure.has_page() && !graphiql::is_built_in();
    let are_pages_missing = settings.edge.http.dashboard && !pages::are_built_in();
    let service = Service::new(backend, publisher, authenticator, settings.edge, exposure, shutdown.clone())?;
    let listener = listen(settings.listen_addr, "LISTEN_ADDR").await?;
    info!(address = %listener.local_addr()?, "ready");
    if is_cdn_needed {
        info!("GraphiQL is not built in: the page loads it from unpkg.com; `make build` builds it in");
    }
    if are_pages_missing {
        warn!("DASHBOARD is on, but the back office and the shop are not built in; `make build` builds them in");
    }
    let served = async {
        let served = service.serve(listener).await;
        shutdown.cancel();
        served
    };
    let (served, watched) = tokio::join!(served, watch_credentials(db, shutdown.clone()));
    served.and(watched)?;
    info!("stopped");
    Ok(())
}
