//! Measures how fast events are applied to Redis. `apply NUMBER` applies one event for each of NUMBER clients to `REDIS_URL`,
//! a thousand per call, and prints events per second.
#![expect(clippy::disallowed_methods, reason = "a benchmark helper has no settings to document")]

use std::time::Instant;

use entity::{Change, Event, Line, OrderPlaced};
use iso_currency::Currency;
use read_model::{Projection as _, Redis};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS_PER_CALL: usize = 1_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let number: i64 = std::env::args().nth(1).unwrap_or_default().parse()?;
    let redis = Redis::connect(&std::env::var("REDIS_URL")?, 16, Currency::USD).await?;
    let events: Vec<Event> = (1..=number).map(event).collect();
    let began = Instant::now();
    for events in events.chunks(EVENTS_PER_CALL) {
        for result in redis.apply(events).await {
            result?;
        }
    }
    println!("{:.0}", number as f64 / began.elapsed().as_secs_f64());
    Ok(())
}

fn event(client_id: i64) -> Event {
    let lines = vec![Line { product_id: 1, name: "Computer".into(), unit_price: 150_000, quantity: 1 }];
    let order = OrderPlaced {
        client_id,
        client_name: "Client".into(),
        client_email: "client@example.com".into(),
        order_id: Uuid::now_v7(),
        currency: "USD".into(),
        total: 150_000,
        lines,
    };
    Event { id: Uuid::now_v7(), time: chrono::Utc::now(), version: 1, data: Change::OrderPlaced(order) }
}
