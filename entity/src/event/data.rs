//! The `data` of events.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::MAX_TOTAL;

/// `data` of `CLIENT_REGISTERED`, `CLIENT_UPDATED` and `CLIENT_FORGOTTEN`: the client after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientChanged {
    pub client_id: i64,
    pub client_name: String,
    pub client_email: String,
}

/// `data` of `PRODUCT_CREATED`, `PRICE_CHANGED` and `PRODUCT_UPDATED`: the product after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProductChanged {
    pub product_id: i64,
    pub name: String,
    /// Minor units.
    pub price: i64,
    /// ISO 4217.
    pub currency: String,
    /// Whether it can be ordered.
    #[serde(default = "is_available")]
    pub available: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku: Option<String>,
}

/// Events from before products could be withdrawn do not say it.
fn is_available() -> bool {
    true
}

/// `data` of `ORDER_PLACED`: everything that a projection needs, so that it does not read the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderPlaced {
    pub client_id: i64,
    pub client_name: String,
    pub client_email: String,
    pub order_id: Uuid,
    /// ISO 4217.
    pub currency: String,
    /// Minor units: the sum over the lines.
    pub total: i64,
    pub lines: Vec<Line>,
}

/// `data` of `ORDER_CANCELLED` and `ORDER_REFUNDED`: an amount that is refunded of an order. A cancellation refunds all that is
/// left. It contains the whole order, because it can arrive before `ORDER_PLACED`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refund {
    #[serde(flatten)]
    pub order: OrderPlaced,
    pub placed_at: DateTime<Utc>,
    /// The version of the client after the order was placed.
    pub placed_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Minor units: the sum over `amounts`.
    pub amount: i64,
    /// The part of each line of the order, in minor units.
    pub amounts: Vec<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub product_id: i64,
    pub name: String,
    /// Minor units.
    pub unit_price: i64,
    pub quantity: i32,
}

impl Line {
    /// Minor units; `None` on overflow.
    pub fn total(&self) -> Option<i64> {
        self.unit_price.checked_mul(self.quantity.into())
    }
}

/// The sum over the lines in minor units; `None` above [`MAX_TOTAL`].
pub fn total(lines: &[Line]) -> Option<i64> {
    lines.iter().try_fold(0i64, |sum, line| sum.checked_add(line.total()?)).filter(|total| *total <= MAX_TOTAL)
}
