//! The demo: a shop with a year of orders, and new orders at a chosen rate. Only on a database in memory, which is
//! gone with the process.

mod history;
mod traffic;
mod year;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context;
use iso_currency::Currency;
use runtime::print_line;
use runtime::settings::duration;
use sea_orm::DatabaseConnection;
use tokio_util::sync::CancellationToken;

/// Orders per second.
const RATES: RangeInclusive<f64> = 0.1..=1_000.0;

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Demo")]
pub struct DemoSettings {
    /// Place this many orders per second, on top of a year of sample orders; only with a database in memory
    #[arg(long, env, value_parser = parse_rate)]
    pub demo: Option<f64>,
    /// How long the demo places orders
    #[arg(long, env, default_value = "1h", value_parser = duration)]
    pub demo_time: Duration,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| RATES.contains(rate));
    rate.ok_or_else(|| format!("not a number of orders per second from {} to {}", RATES.start(), RATES.end()))
}

impl DemoSettings {
    /// Fills the database if the demo is on.
    pub async fn prepare(&self, db: &DatabaseConnection, currency: Currency) -> anyhow::Result<Option<Demo>> {
        let Some(rate) = self.demo else { return Ok(None) };
        let catalogue = history::fill(db, currency).await?;
        Ok(Some(Demo { rate, time: self.demo_time, catalogue }))
    }
}

/// A demo that is ready to place orders.
pub struct Demo {
    /// Orders per second, on average.
    rate: f64,
    time: Duration,
    catalogue: Catalogue,
}

impl Demo {
    /// Places orders until its time is over or `shutdown`.
    pub async fn run(
        self,
        address: SocketAddr,
        token: Option<String>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let token = token.context("the demo needs a token: leave JWT_JWKS_URL out")?;
        let time = humantime::format_duration(self.time);
        let rate = self.rate;
        print_line(format_args!(
            "The demo places about {rate} orders per second for {time}. Open the back office to see them.\n"
        ));
        traffic::Traffic::new(address, token, shutdown)?.run(self).await
    }
}

/// How many clients and products there are. Their ids count from 1.
#[derive(Clone, Copy)]
struct Catalogue {
    clients: usize,
    products: usize,
}
