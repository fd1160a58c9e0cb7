//! The settings: environment variables, each also a flag. Their descriptions are the help text.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use iso_currency::Currency;
use tracing_subscriber::EnvFilter;

use crate::auth;

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Address to serve HTTP on
    #[arg(long, env, default_value = "127.0.0.1:8080")]
    pub listen_addr: SocketAddr,
    /// Command database, such as postgres://user:password@host/database or sqlite://orders.db
    #[arg(long, env, hide_env_values = true)]
    pub database_url: Option<String>,
    /// Read model, such as redis://host:6379, or rediss:// with TLS
    #[arg(long, env, hide_env_values = true)]
    pub redis_url: Option<String>,
    /// URL of the SQS queue; region, credentials and endpoint are the AWS SDK's own AWS_* variables
    #[arg(long, env)]
    pub queue_url: Option<String>,
    /// Currency of all amounts (ISO 4217)
    #[arg(long, env, default_value = "USD", value_parser = parse_currency)]
    pub currency: Currency,
    /// How long client(minVersion:) waits for that version
    #[arg(long, env, default_value = "2s", value_parser = humantime::parse_duration)]
    pub read_wait: Duration,
    /// Database connections, at most
    #[arg(long, env, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_connections: u32,
    /// Partitions of the read model; fixed for as long as the data in Redis live
    #[arg(long, env, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: u16,
    /// Serve the GraphiQL page at /graphql
    #[arg(long, env)]
    pub graphiql: bool,
    /// How log lines look; RUST_LOG says which appear, such as RUST_LOG=info,api=debug
    #[arg(long, env, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    #[command(flatten)]
    pub auth: auth::TokenSettings,
}

fn parse_currency(code: &str) -> Result<Currency, String> {
    Currency::from_code(code).ok_or_else(|| "not a currency code of ISO 4217, such as USD".into())
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

const DEFAULT_LOG: &str = "info,sea_orm_migration=warn";

/// Logs to standard error, what `RUST_LOG` says, or else from `info` up.
pub fn init_logging(format: LogFormat) -> anyhow::Result<()> {
    let directives = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let filter =
        EnvFilter::try_new(directives.as_deref().unwrap_or(DEFAULT_LOG)).context("RUST_LOG is not understood")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
