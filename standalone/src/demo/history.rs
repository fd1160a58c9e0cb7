//! Clients, products, and a month of orders.

use std::f64::consts::TAU;

use anyhow::ensure;
use api::commands::place_order::{Outcome, PlaceOrder, place_at};
use api::commands::products::NewProduct;
use api::commands::refunds::{RefundKind, RefundOrder};
use api::commands::{Commands, Origin};
use api::outbox::log_tailing::Publication;
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use entity::{client, outbox, product};
use iso_currency::Currency;
use rand::Rng;
use sea_orm::{DatabaseConnection, EntityTrait, PaginatorTrait};
use tokio::sync::mpsc;

use super::{Catalogue, Regret};

const HOURS: i64 = 30 * 24;
/// Orders in the busiest hour.
const MAX_ORDERS_PER_HOUR: f64 = 20.0;

const PLACES: [&str; 10] =
    ["Harbour", "Hill", "River", "North", "South", "Garden", "Market", "Station", "Lake", "Old Town"];
const TRADES: [&str; 12] = [
    "Bakery", "Bookshop", "Café", "Clinic", "Dentist", "Florist", "Gallery", "Hotel", "Laundry", "Pharmacy", "School",
    "Studio",
];
/// Names, and prices in whole units of the currency.
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

/// Adds clients, products and a month of orders to the database.
pub async fn fill(db: &DatabaseConnection, currency: Currency) -> anyhow::Result<Catalogue> {
    let commands = Commands::new(db.clone(), currency, Publication::Relay, mpsc::channel(1).0);
    add_clients_and_products(&commands, currency).await?;
    let catalogue = Catalogue {
        clients: client::Entity::find().count(db).await? as usize,
        products: product::Entity::find().count(db).await? as usize,
    };
    let now = Utc::now();
    for hour in (1..HOURS).rev() {
        let time = now - TimeDelta::hours(hour);
        let orders: Vec<PlaceOrder> = (0..orders_at(time, hour)).map(|_| catalogue.random_order()).collect();
        if !orders.is_empty() {
            let placed = place_at(db, currency, &orders, time).await?;
            refund_a_few(&commands, currency, placed.outcomes, time + TimeDelta::minutes(30)).await?;
        }
    }
    // Nothing needs to be published: the read model replays the event log at start.
    outbox::Entity::delete_many().exec(db).await?;
    Ok(catalogue)
}

/// Cancels or refunds a few orders.
async fn refund_a_few(
    commands: &Commands,
    currency: Currency,
    outcomes: Vec<Outcome>,
    time: DateTime<Utc>,
) -> anyhow::Result<()> {
    for outcome in outcomes {
        let (Outcome::Placed(order), Some(regret)) = (outcome, Regret::random()) else { continue };
        let (kind, reason) = match regret {
            Regret::Cancel => (RefundKind::Cancellation { window: None }, "Ordered by mistake"),
            Regret::Refund => (RefundKind::Part(Some(5 * unit(currency))), "Arrived late"),
        };
        let (order_id, reason) = (Some(order.data.order_id), reason.into());
        let origin = Origin::default();
        let command = RefundOrder { order_id, only_client: None, kind, reason, idempotency_key: None, origin };
        let refunded = commands.refund_order_at(&command, time).await;
        ensure!(matches!(refunded, Ok(Ok(_))), "cannot refund an order: {refunded:?}");
    }
    Ok(())
}

/// One unit of the currency in minor units.
fn unit(currency: Currency) -> i64 {
    10i64.pow(currency.exponent().unwrap_or(0).into())
}

async fn add_clients_and_products(commands: &Commands, currency: Currency) -> anyhow::Result<()> {
    for name in PLACES.iter().flat_map(|place| TRADES.map(|trade| format!("{place} {trade}"))) {
        let email = format!("{}@example.com", name.to_lowercase().replace(' ', ".").replace('é', "e"));
        let registered = commands.register_client(&name, &email, None, Origin::default()).await;
        ensure!(matches!(registered, Ok(Ok(_))), "cannot register {name}: {registered:?}");
    }
    for (name, price) in PRODUCTS {
        let (name, price, sku) =
            (name.to_owned(), Some(price * unit(currency)), Some(name.to_uppercase().replace(' ', "-")));
        let created = commands
            .create_product(NewProduct { name: name.clone(), price, available: true, sku }, None, Origin::default())
            .await;
        ensure!(matches!(created, Ok(Ok(_))), "cannot create {name}: {created:?}");
    }
    Ok(())
}

/// How many orders an hour has: few at night, and slightly more every day. `hours_ago` is the age of the hour.
fn orders_at(time: DateTime<Utc>, hours_ago: i64) -> usize {
    let daytime = 0.5 - 0.5 * (TAU * (f64::from(time.hour()) - 2.0) / 24.0).cos();
    let growth = 1.0 - 0.3 * hours_ago as f64 / HOURS as f64;
    (MAX_ORDERS_PER_HOUR * daytime * growth * rand::rng().random::<f64>()).round() as usize
}
