use std::time::Duration;

use iso_currency::Currency;

use crate::{ConnectError, Redis};

/// Where the read model is, and what all processes on it must agree on.
#[derive(Clone, Debug, clap::Args)]
pub struct RedisSettings {
    /// Read model, such as redis://host:6379, or rediss:// with TLS; of a Cluster any node, or several with commas between them
    #[arg(long, env, hide_env_values = true)]
    pub redis_url: Option<String>,
    /// Currency of all amounts (ISO 4217)
    #[arg(long, env, default_value = "USD", value_parser = parse_currency)]
    pub currency: Currency,
    /// Partitions of the read model; fixed for as long as the data in Redis live
    #[arg(long, env, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: u16,
    /// For how long orders can be read one by one, from when they were placed; processes that apply events keep them so long
    #[arg(long, env, default_value = "30d", value_parser = humantime::parse_duration)]
    pub keep_orders: Duration,
}

impl RedisSettings {
    pub async fn connect(&self) -> Result<Redis, ConnectError> {
        let url = self.redis_url.as_deref().ok_or(ConnectError::NotSet)?;
        Ok(Redis::connect(url, self.partitions, self.currency).await?.keeping_orders(self.keep_orders))
    }
}

fn parse_currency(code: &str) -> Result<Currency, String> {
    Currency::from_code(code).ok_or_else(|| "not a currency code of ISO 4217, such as USD".into())
}
