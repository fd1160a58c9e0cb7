//! Events, as tests need them.

use chrono::{DateTime, Utc};
use entity::{Change, Event, Line, OrderPlaced, Refund, event};
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

/// The cancellation of an order of which nothing was refunded before.
pub fn order_cancelled(time: DateTime<Utc>, version: i32, placed: &Event) -> Event {
    let order = placed.order().expect("an order");
    let amounts = order.lines.iter().map(|line| line.total().expect("a small amount")).collect();
    Event { id: Uuid::now_v7(), time, version, data: Change::OrderCancelled(refund(placed, amounts)) }
}

/// A refund of a part of an order: an amount (minor units) for each line.
pub fn order_refunded(time: DateTime<Utc>, version: i32, placed: &Event, amounts: &[i64]) -> Event {
    Event { id: Uuid::now_v7(), time, version, data: Change::OrderRefunded(refund(placed, amounts.into())) }
}

fn refund(placed: &Event, amounts: Vec<i64>) -> Refund {
    let order = placed.order().expect("an order").clone();
    let (placed_at, placed_version, amount) = (placed.time, placed.version, amounts.iter().sum());
    Refund { order, placed_at, placed_version, reason: None, amount, amounts }
}

/// The id of the order of a client's version: the same whenever the event is built.
pub fn order_id(client_id: i64, version: i32) -> Uuid {
    Uuid::from_u128((client_id * 1_000 + i64::from(version)) as u128)
}
