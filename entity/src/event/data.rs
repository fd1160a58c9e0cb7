//! The `data` of events. Comments and limits are part of the published schema (`contract`); [`checks`](super::checks) enforces the limits.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{MAX_LINES, MAX_NAME, MAX_QUANTITY, MAX_SKU, MAX_TOTAL};

/// The client after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientChanged {
    #[schemars(range(min = 1))]
    pub client_id: i64,
    /// Personal data.
    #[schemars(length(max = MAX_NAME))]
    pub client_name: String,
    /// Personal data. In lower case.
    #[schemars(length(max = MAX_NAME))]
    pub client_email: String,
}

/// The product after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProductChanged {
    #[schemars(range(min = 1))]
    pub product_id: i64,
    #[schemars(length(max = MAX_NAME))]
    pub name: String,
    /// Minor units, such as cents.
    #[schemars(range(min = 0, max = MAX_TOTAL))]
    pub price: i64,
    /// ISO 4217.
    #[schemars(regex(pattern = "^[A-Z]{3}$"))]
    pub currency: String,
    /// Whether it can be ordered. Older events lack it: it was `true` then.
    #[serde(default = "is_available")]
    #[schemars(extend("default" = true))]
    pub available: bool,
    /// The shop's own number of the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = MAX_SKU), regex(pattern = "^[!-~]+$"))]
    pub sku: Option<String>,
}

/// Events from before products could be withdrawn do not say it.
fn is_available() -> bool {
    true
}

/// The order, with everything that a reader needs, so that it does not read the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderPlaced {
    #[schemars(range(min = 1))]
    pub client_id: i64,
    /// Personal data. The name at the time of the event.
    #[schemars(length(max = MAX_NAME))]
    pub client_name: String,
    /// Personal data. The address at the time of the event, in lower case.
    #[schemars(length(max = MAX_NAME))]
    pub client_email: String,
    pub order_id: Uuid,
    /// ISO 4217.
    #[schemars(regex(pattern = "^[A-Z]{3}$"))]
    pub currency: String,
    /// The sum over the lines, in minor units, such as cents.
    #[schemars(range(min = 0, max = MAX_TOTAL))]
    pub total: i64,
    #[schemars(length(min = 1, max = MAX_LINES))]
    pub lines: Vec<Line>,
}

/// An amount that is refunded of an order. A cancellation refunds all that is left. It contains the whole order, because it can arrive
/// before the event of the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refund {
    #[serde(flatten)]
    pub order: OrderPlaced,
    pub placed_at: DateTime<Utc>,
    /// The version (`sequence`) of the client after the order was placed.
    #[schemars(range(min = 1))]
    pub placed_version: i32,
    /// May be personal data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = MAX_NAME))]
    pub reason: Option<String>,
    /// The sum over `amounts`, in minor units. A refund has at least 1; a cancellation has 0 if nothing was left.
    #[schemars(range(min = 0, max = MAX_TOTAL))]
    pub amount: i64,
    /// The part of each line of the order, in the order of `lines`, in minor units.
    #[schemars(length(min = 1, max = MAX_LINES), inner(range(min = 0, max = MAX_TOTAL)))]
    pub amounts: Vec<i64>,
}

/// A product of an order, with its name and price at that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    #[schemars(range(min = 1))]
    pub product_id: i64,
    #[schemars(length(max = MAX_NAME))]
    pub name: String,
    /// Minor units, such as cents.
    #[schemars(range(min = 0, max = MAX_TOTAL))]
    pub unit_price: i64,
    #[schemars(range(min = 1, max = MAX_QUANTITY))]
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
