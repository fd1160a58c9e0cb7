//! The demo: a shop with a year of orders, and new orders at a chosen rate. Only on a database in memory, which is
//! gone with the process.

mod history;
mod traffic;
mod year;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context;
use api::commands::Origin;
use api::commands::place_order::{Item, PlaceOrder};
use iso_currency::Currency;
use rand::Rng;
use runtime::print_line;
use runtime::settings::duration;
use sea_orm::DatabaseConnection;
use tokio_util::sync::CancellationToken;

/// Orders per second.
const RATES: RangeInclusive<f64> = 0.1..=1_000.0;
const MAX_LINES: usize = 4;

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

/// A few orders are cancelled or refunded.
#[derive(Clone, Copy)]
enum Regret {
    Cancel,
    Refund,
}

impl Regret {
    /// Of a hundred orders, three are cancelled and two are refunded in part.
    fn random() -> Option<Regret> {
        match rand::rng().random_range(0..100) {
            0..3 => Some(Regret::Cancel),
            3..5 => Some(Regret::Refund),
            _ => None,
        }
    }
}

/// How many clients and products there are. Their ids count from 1.
#[derive(Clone, Copy)]
struct Catalogue {
    clients: usize,
    products: usize,
}

impl Catalogue {
    /// A random order. A few clients and a few products have most of the orders, as in a real shop.
    fn random_order(self) -> PlaceOrder {
        let mut random = rand::rng();
        let mut any_of = |count: usize| (count as f64 * random.random::<f64>().powi(3)) as i64 + 1;
        let (client_id, first) = (any_of(self.clients), any_of(self.products));
        let mut items = vec![Item { product_id: Some(first), quantity: 1 }];
        while items.len() < MAX_LINES && any_of(10) > 4 {
            let product_id = Some(any_of(self.products));
            match items.iter_mut().find(|item| item.product_id == product_id) {
                Some(item) => item.quantity += 1,
                None => items.push(Item { product_id, quantity: 1 }),
            }
        }
        PlaceOrder { client_id: Some(client_id), items, idempotency_key: None, origin: Origin::default() }
    }
}
