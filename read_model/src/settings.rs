use iso_currency::Currency;

use crate::{ConnectError, Redis};

/// The address of the read model, and the settings that all processes on it share.
#[derive(Clone, Debug, clap::Args)]
pub struct RedisSettings {
    /// Redis of the read model, such as redis://host:6379, or rediss:// for TLS; for a Cluster any node, or several separated by commas
    #[arg(long, env, hide_env_values = true)]
    pub redis_url: Option<String>,
    /// Currency of all amounts (ISO 4217)
    #[arg(long, env, default_value = "USD", value_parser = parse_currency)]
    pub currency: Currency,
    /// Number of partitions of the read model; cannot be changed while Redis holds data
    #[arg(long, env, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: u16,
}

impl RedisSettings {
    pub async fn connect(&self) -> Result<Redis, ConnectError> {
        let url = self.redis_url.as_deref().ok_or(ConnectError::NotSet)?;
        Redis::connect(url, self.partitions, self.currency).await
    }
}

fn parse_currency(code: &str) -> Result<Currency, String> {
    Currency::from_code(code).ok_or_else(|| "not a currency code of ISO 4217, such as USD".into())
}
