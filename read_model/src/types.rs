//! The results and errors of the read model.

use std::cmp::Ordering;

use chrono::{DateTime, Utc};
use entity::ProductChanged;

use crate::{Sales, Sum};

/// The state of a client after its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub id: i64,
    pub name: String,
    pub email: String,
    /// The sum of all orders as placed, in minor units.
    pub total: i64,
    /// The number of all orders, including cancelled ones.
    pub order_count: i64,
    /// The sum of its cancellations and refunds. They may arrive before their orders.
    pub cancelled: Sum,
    pub last_purchase: Option<DateTime<Utc>>,
    /// The watermark: every event up to this version is included. Later events may be included as well, if they arrived out of
    /// order.
    pub version: i32,
}

impl Client {
    pub fn sales(&self) -> Sales {
        Sales { gross: Sum { count: self.order_count, revenue: self.total }, cancelled: self.cancelled }
    }

    /// The value that the client is ranked by.
    pub fn rank(&self, by: Ranking) -> i64 {
        match by {
            // As `apply.lua` calculates it.
            Ranking::Total => (self.total as f64 - self.cancelled.revenue as f64) as i64,
            Ranking::LastPurchase => self.last_purchase.map_or(0, |time| time.timestamp_millis()),
        }
    }
}

/// The state of a product after its newest event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    pub id: i64,
    pub name: String,
    /// Minor units.
    pub price: i64,
    /// Whether it can be ordered.
    pub available: bool,
    pub sku: Option<String>,
    pub version: i32,
}

impl Product {
    /// The product after this change.
    pub fn of(change: &ProductChanged, version: i32) -> Product {
        let ProductChanged { product_id: id, name, price, available, sku, .. } = change.clone();
        Product { id, name, price, available, sku, version }
    }
}

/// The value that clients are ranked by, largest first. Clients with equal values are ordered by their ids as text, largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ranking {
    /// The sum of a client's orders minus cancellations and refunds, in minor units.
    Total,
    /// The time of a client's newest order, in ms since 1970; 0 for a client without orders.
    LastPurchase,
}

/// A position in a [`Ranking`]. It remains valid when the client that had it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RankPosition {
    /// The value that the client is ranked by, exact up to 53 bits.
    pub rank: i64,
    pub id: i64,
}

impl RankPosition {
    /// `Less` if this position comes before the other.
    pub(crate) fn order(&self, other: &RankPosition) -> Ordering {
        other.rank.cmp(&self.rank).then_with(|| other.id.to_string().cmp(&self.id.to_string()))
    }
}

/// The result of applying an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Now,
    /// The event had been applied before; nothing changed.
    Before,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store is down, full, loading or misconfigured. The same request can succeed later.
    #[error("Redis is unavailable: {0}")]
    Unavailable(String),
    /// The stored data prevent the operation. Nothing was changed, and repeating it does not help.
    #[error("the read model is damaged: {0}")]
    Damaged(String),
    /// The event cannot be genuine: see [`check_version`](crate::rules::check_version). Nothing was changed.
    #[error("{0}")]
    Refused(String),
}
