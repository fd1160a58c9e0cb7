//! Something to look at: a catalogue, a month of orders of the past, and orders as they come, at a chosen rate and for a
//! chosen time. Only on a database in memory, which is gone with the process.

use std::f64::consts::TAU;
use std::time::Duration;

use anyhow::{Context, ensure};
use api::commands::master_data::MasterData;
use api::commands::place_order::{Item, PlaceOrder, place};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use entity::{client, order, order_event, product};
use iso_currency::Currency;
use rand::Rng;
use runtime::one_line;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Orders a second that somebody may ask for.
const RATES: std::ops::RangeInclusive<f64> = 0.1..=1_000.0;
/// The past that there is.
const HOURS: i64 = 30 * 24;
/// Orders in the busiest hour of it.
const BUSIEST: f64 = 20.0;
/// Orders come in waves of this length.
const WAVE: Duration = Duration::from_secs(120);
const LONGEST: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(10);

const PLACES: [&str; 10] =
    ["Harbour", "Hill", "River", "North", "South", "Garden", "Market", "Station", "Lake", "Old Town"];
const TRADES: [&str; 12] = [
    "Bakery", "Bookshop", "Café", "Clinic", "Dentist", "Florist", "Gallery", "Hotel", "Laundry", "Pharmacy", "School",
    "Studio",
];
/// Prices in whole units of the currency.
const PRODUCTS: [(&str, i64); 21] = [
    ("Cable", 9),
    ("Mouse", 29),
    ("Keyboard", 59),
    ("Headphones", 119),
    ("Monitor", 249),
    ("Webcam", 69),
    ("Speaker", 89),
    ("Printer", 179),
    ("Scanner", 159),
    ("Router", 99),
    ("Tablet", 379),
    ("Laptop", 1_199),
    ("Dock", 149),
    ("Desk lamp", 39),
    ("Desk", 429),
    ("Chair", 289),
    ("Drive", 79),
    ("Memory card", 19),
    ("Camera", 649),
    ("Tripod", 49),
    ("Projector", 799),
];

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Demo")]
pub struct DemoSettings {
    /// Place so many orders a second, over a catalogue with a past of 30 days; on a database in memory only
    #[arg(long, env, value_parser = parse_rate)]
    pub demo: Option<f64>,
    /// How long orders come
    #[arg(long, env, default_value = "1h", value_parser = humantime::parse_duration)]
    pub demo_time: Duration,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| RATES.contains(rate));
    rate.ok_or_else(|| format!("not a number of orders a second from {} to {}", RATES.start(), RATES.end()))
}

/// Who buys how much of what: some buy, and some is bought, far more often than the rest.
fn any_order(clients: usize, products: usize) -> PlaceOrder {
    let mut random = rand::rng();
    let mut one_of = |all: usize| (all as f64 * random.random::<f64>().powi(3)) as i64 + 1;
    let (client_id, first) = (one_of(clients), one_of(products));
    let mut items = vec![Item { product_id: first, quantity: 1 }];
    while items.len() < LONGEST && one_of(10) > 4 {
        let product_id = one_of(products);
        match items.iter_mut().find(|item| item.product_id == product_id) {
            Some(item) => item.quantity += 1,
            None => items.push(Item { product_id, quantity: 1 }),
        }
    }
    PlaceOrder { client_id, items, idempotency_key: None, traceparent: None }
}

/// What orders are made of.
#[derive(Clone, Copy)]
pub struct Catalogue {
    clients: usize,
    products: usize,
}

/// Adds clients and products, and a month of orders.
pub async fn seed(db: &DatabaseConnection, currency: Currency) -> anyhow::Result<Catalogue> {
    let shops = PLACES.iter().flat_map(|place| TRADES.map(|trade| format!("{place} {trade}")));
    // Their events are found in the outbox.
    let master_data = MasterData::new(db.clone(), currency, mpsc::channel(1).0);
    for name in shops {
        let email = format!("{}@example.com", name.to_lowercase().replace(' ', ".").replace('é', "e"));
        let registered = master_data.register_client(&name, &email, None).await;
        ensure!(matches!(registered, Ok(Ok(_))), "cannot register {name}: {registered:?}");
    }
    let unit = 10i64.pow(currency.exponent().unwrap_or(0).into());
    for (name, price) in PRODUCTS {
        let created = master_data.create_product(name, Some(price * unit), None).await;
        ensure!(matches!(created, Ok(Ok(_))), "cannot create {name}: {created:?}");
    }
    let all = Catalogue {
        clients: client::Entity::find().count(db).await? as usize,
        products: product::Entity::find().count(db).await? as usize,
    };
    let now = Utc::now();
    for hour in (1..HOURS).rev() {
        let time = now - TimeDelta::hours(hour);
        // Few at night, and a little more from day to day.
        let day = 0.5 - 0.5 * (TAU * (f64::from(time.hour()) - 2.0) / 24.0).cos();
        let orders = (BUSIEST * day * (1.0 - 0.3 * hour as f64 / HOURS as f64) * rand::rng().random::<f64>()).round();
        let orders: Vec<PlaceOrder> = (0..orders as usize).map(|_| any_order(all.clients, all.products)).collect();
        if !orders.is_empty() {
            place(db, currency, &orders).await?;
            set_back(db, now, time).await?;
        }
    }
    Ok(all)
}

/// What was placed just now was placed then, and is published.
async fn set_back(db: &DatabaseConnection, now: DateTime<Utc>, then: DateTime<Utc>) -> anyhow::Result<()> {
    let orders = order::Entity::update_many().col_expr(order::Column::PlacedAt, Expr::value(then));
    orders.filter(order::Column::PlacedAt.gte(now)).exec(db).await?;
    let events = order_event::Entity::update_many().col_expr(order_event::Column::OccurredAt, Expr::value(then));
    let events = events.col_expr(order_event::Column::PublishedAt, Expr::value(then));
    events.filter(order_event::Column::OccurredAt.gte(now)).exec(db).await?;
    Ok(())
}

/// Places orders as a frontend would, until the time is over or `shutdown`.
pub async fn traffic(
    url: String,
    token: Option<String>,
    rate: f64,
    time: Duration,
    catalogue: Catalogue,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    const PLACE: &str =
        "mutation Demo($input: PlaceOrderInput!) { placeOrder(input: $input) { userErrors { message } } }";
    let token = token.context("the demo needs a token: leave JWT_JWKS_URL out")?;
    let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let (began, mut placed) = (Instant::now(), 0u64);
    let mut due = began;
    while began.elapsed() < time {
        // As far apart as calls at an exchange; from half to one and a half times as many as asked for.
        let wave = 1.0 + 0.5 * (TAU * began.elapsed().as_secs_f64() / WAVE.as_secs_f64()).sin();
        let apart = -(1.0 - rand::rng().random::<f64>()).ln() / (rate * wave);
        due += Duration::from_secs_f64(apart.min(60.0));
        tokio::select! {
            () = sleep_until(due) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        let PlaceOrder { client_id, items, .. } = any_order(catalogue.clients, catalogue.products);
        let item = |item: Item| json!({ "productId": item.product_id.to_string(), "quantity": item.quantity });
        let items: Vec<Value> = items.into_iter().map(item).collect();
        let input = json!({ "clientId": client_id.to_string(), "items": items });
        let request =
            http.post(&url).bearer_auth(&token).json(&json!({ "query": PLACE, "variables": { "input": input } }));
        let (shutdown, url) = (shutdown.clone(), url.clone());
        placed += 1;
        // Orders do not wait for each other.
        tokio::spawn(async move {
            let answer = async { request.send().await?.error_for_status()?.json::<Value>().await };
            match answer.await {
                Ok(answer) if answer["errors"].is_null() => {}
                Ok(answer) if !shutdown.is_cancelled() => warn!("an order of the demo failed: {}", answer["errors"]),
                Err(error) if !shutdown.is_cancelled() => warn!("{url}: {}", one_line(&error)),
                Ok(_) | Err(_) => {}
            }
        });
    }
    info!(orders = placed, "the demo is over, the service goes on");
    Ok(())
}
