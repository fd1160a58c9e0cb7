use std::path::PathBuf;

use iso_currency::Currency;

use crate::{ConnectError, Redis, RedisAddress};

/// The address of the read model, and the settings that all processes on it share.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Stores")]
pub struct RedisSettings {
    /// Redis of the read model, such as redis://host:6379, or rediss:// for TLS; for a Cluster any node, or several separated by commas
    #[arg(long, env, hide_env_values = true)]
    pub redis_url: Option<String>,
    /// User name for Redis, exactly as it is; replaces the one in REDIS_URL
    #[arg(long, env)]
    pub redis_username: Option<String>,
    /// Password for Redis, exactly as it is, also with characters such as #/@%; replaces the one in REDIS_URL
    #[arg(long, env, hide_env_values = true)]
    pub redis_password: Option<String>,
    /// PEM file of certificate authorities to trust for rediss://, besides those of the system
    #[arg(long, env)]
    pub redis_ca_file: Option<PathBuf>,
    /// Currency of all amounts (ISO 4217)
    #[arg(long, env, default_value = "USD", value_parser = parse_currency)]
    pub currency: Currency,
    /// Number of partitions of the read model; cannot be changed while Redis holds data
    #[arg(long, env, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: u16,
}

impl RedisSettings {
    pub async fn connect(&self) -> Result<Redis, ConnectError> {
        let address = RedisAddress {
            url: self.redis_url.clone().ok_or(ConnectError::NotSet)?,
            username: self.redis_username.clone(),
            password: self.redis_password.clone(),
            ca_file: self.redis_ca_file.clone(),
        };
        Redis::connect_to(&address, self.partitions, self.currency).await
    }
}

fn parse_currency(code: &str) -> Result<Currency, String> {
    Currency::from_code(code).ok_or_else(|| "not a currency code of ISO 4217, such as USD".into())
}
