//! The settings. Each is an environment variable and a flag; the comment of a field is its help text.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use runtime::logging::LogSettings;
use runtime::settings::{duration, listen_address};
use runtime::telemetry::metrics::MetricsSettings;

use crate::edge::auth::TokenSettings;
use crate::edge::documents::DocumentSettings;
use crate::edge::documents::limits::LimitSettings;
use crate::edge::settings::HttpSettings;
use crate::outbox::log_tailing::Publication;

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Stores")]
pub struct Settings {
    /// Address and port of the HTTP server
    #[arg(long, env, help_heading = "HTTP", default_value = "127.0.0.1:8080", value_parser = listen_address)]
    pub listen_addr: SocketAddr,
    /// URL of the command database, such as postgres://user:password@host/database or sqlite://orders.db
    #[arg(long, env, hide_env_values = true)]
    pub database_url: Option<String>,
    /// File with the password of the database, instead of the URL; a new password in it is used within a second
    #[arg(long, env)]
    pub database_password_file: Option<PathBuf>,
    /// Maximum number of database connections, from 3 to 1000. Two place orders, one serves the outbox relay, and the statements of one caller use at most a quarter
    #[arg(long, env, default_value_t = 16, value_parser = clap::value_parser!(u32).range(3..=1000))]
    pub database_connections: u32,
    /// URL of the SQS queue. Region, credentials and endpoint come from the AWS_* variables of the AWS SDK
    #[arg(long, env)]
    pub queue_url: Option<String>,
    /// ARN of an SNS topic. The api sends events to it instead of the queue, and other programs can subscribe to it
    #[arg(long, env)]
    pub topic_arn: Option<String>,
    /// Send events to the queue or topic. off leaves that to a program that reads them from the write-ahead log of PostgreSQL
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub relay: bool,
    #[command(flatten)]
    pub read_model: read_model::RedisSettings,
    /// How long client(minVersion:) waits for the version, such as 2s; must be shorter than OPERATION_TIMEOUT
    #[arg(long, env, help_heading = "Limits", default_value = "2s", value_parser = duration)]
    pub read_wait: Duration,
    /// How long after it was placed an order can be cancelled, such as 30d, by the clock of the database (unset: without limit)
    #[arg(long, env, help_heading = "Limits", value_parser = duration)]
    pub cancel_window: Option<Duration>,
    #[command(flatten)]
    pub log: LogSettings,
    #[command(flatten)]
    pub metrics: MetricsSettings,
    #[command(flatten)]
    pub tokens: TokenSettings,
    #[command(flatten)]
    pub edge: EdgeSettings,
}

impl Settings {
    pub fn publication(&self) -> Publication {
        if self.relay { Publication::Relay } else { Publication::LogReader }
    }
}

/// Settings of the HTTP edge.
#[derive(Clone, Debug, clap::Args)]
pub struct EdgeSettings {
    #[command(flatten)]
    pub http: HttpSettings,
    #[command(flatten)]
    pub documents: DocumentSettings,
    #[command(flatten)]
    pub limits: LimitSettings,
}
