//! The recent orders of a client.

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD as BASE64;
use chrono::{DateTime, Utc};
use entity::OrderPlaced;
use uuid::Uuid;

/// The number of recent orders that are stored for each client.
pub const RECENT_ORDERS: usize = 50;

/// An order in the recent orders of its client, as it was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderSummary {
    pub order_id: Uuid,
    pub client_id: i64,
    pub time: DateTime<Utc>,
    /// Minor units.
    pub total: i64,
    /// The number of its lines.
    pub lines: u32,
}

impl OrderSummary {
    pub fn of(order: &OrderPlaced, time: DateTime<Utc>) -> OrderSummary {
        let OrderPlaced { order_id, client_id, total, ref lines, .. } = *order;
        OrderSummary { order_id, client_id, time, total, lines: lines.len() as u32 }
    }

    /// Returns the stored form, without the client: the id in base64, the time (milliseconds after the time in the id, a UUID of
    /// version 7), the total and the number of lines.
    pub(crate) fn to_text(&self) -> String {
        let OrderSummary { order_id, time, total, lines, .. } = self;
        let since_id = time.timestamp_millis() - time_of(*order_id);
        format!("{} {since_id} {total} {lines}", BASE64.encode(order_id.as_bytes()))
    }

    /// Parses the stored form.
    pub(crate) fn from_text(client_id: i64, text: &str) -> Option<OrderSummary> {
        let parts: Vec<&str> = text.split(' ').collect();
        let (order_id, time, total, lines) = match parts[..] {
            [id, since_id, total, lines] => {
                let id = Uuid::from_slice(&BASE64.decode(id).ok()?).ok()?;
                (id, time_of(id).checked_add(since_id.parse().ok()?)?, total, lines)
            }
            // In generations of format 3 and older.
            [id, _, time, total, lines] => (id.parse().ok()?, time.parse().ok()?, total, lines),
            _ => return None,
        };
        let time = DateTime::from_timestamp_millis(time)?;
        Some(OrderSummary { order_id, client_id, time, total: total.parse().ok()?, lines: lines.parse().ok()? })
    }
}

/// Milliseconds since 1970 in the id of an order; 0 if it has none.
fn time_of(id: Uuid) -> i64 {
    let milliseconds =
        |time: uuid::Timestamp| time.to_unix().0 as i64 * 1_000 + i64::from(time.to_unix().1 / 1_000_000);
    id.get_timestamp().map_or(0, milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_written_in_either_format() {
        let (now, time) = (Uuid::now_v7(), DateTime::from_timestamp_millis(1_790_000_000_123).unwrap());
        for order_id in [now, Uuid::nil(), Uuid::max(), Uuid::from_u128(7)] {
            let order = OrderSummary { order_id, client_id: 7, time, total: i64::MAX, lines: 100 };
            assert_eq!(OrderSummary::from_text(7, &order.to_text()), Some(order.clone()));
            let older = format!("{} 7 {} {} 100", order_id.simple(), time.timestamp_millis(), i64::MAX);
            assert_eq!(OrderSummary::from_text(7, &older), Some(order));
        }
        let at_once = OrderSummary {
            order_id: now,
            client_id: 7,
            time: DateTime::from_timestamp_millis(time_of(now)).unwrap(),
            total: 300_000,
            lines: 2,
        };
        assert!(at_once.to_text().len() <= 33, "{}", at_once.to_text());
        for damaged in [
            "",
            "x",
            "x 1 2 3",
            "AAAA 1 2 3",
            "AAAAAAAAAAAAAAAAAAAAAA 1 2",
            "AAAAAAAAAAAAAAAAAAAAAA 9223372036854775807 1 1",
        ] {
            assert_eq!(OrderSummary::from_text(7, damaged), None, "{damaged}");
        }
    }
}
