//! Events, as tests need them.

use chrono::{DateTime, Utc};
use entity::{Change, Event, Line, OrderPlaced, event};
use uuid::Uuid;

/// An order of (product, quantity, unit price in minor units) lines, placed now.
pub fn order_placed(client_id: i64, version: i32, lines: &[(i64, i32, i64)]) -> Event {
    order_placed_at(Utc::now(), client_id, version, lines)
}

pub fn order_placed_at(time: DateTime<Utc>, client_id: i64, version: i32, lines: &[(i64, i32, i64)]) -> Event {
    let line = |&(product_id, quantity, unit_price): &(i64, i32, i64)| {
        let name = format!("Product {product_id}");
        Line { product_id, name, unit_price, quantity }
    };
    let lines: Vec<Line> = lines.iter().map(line).collect();
    let order = OrderPlaced {
        client_id,
        client_name: format!("Client {client_id}"),
        client_email: format!("{client_id}@example.com"),
        order_id: order_id(client_id, version),
        currency: "USD".into(),
        total: event::total(&lines).unwrap(),
        lines,
    };
    Event { id: Uuid::now_v7(), time, version, data: Change::OrderPlaced(order) }
}

/// The id of the order of a client's version: the same whenever the event is built.
pub fn order_id(client_id: i64, version: i32) -> Uuid {
    Uuid::from_u128((client_id * 1_000 + i64::from(version)) as u128)
}
