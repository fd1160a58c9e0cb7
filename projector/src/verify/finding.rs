//! Differences that a comparison finds.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use entity::Subject;
use serde::Serialize;

use super::Money;

/// How a client or a product differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Difference {
    /// The read model does not have it.
    Missing { events: u64 },
    /// The read model has it without some events, which are no longer on their way.
    Behind { events: u64, version: i32 },
    /// Its orders do not add up.
    WrongTotal { orders: i64, orders_expected: i64, total: Money, total_expected: Money },
    /// Its cancellations and refunds do not add up.
    WrongRefunds { cancelled: i64, cancelled_expected: i64, refunded: Money, refunded_expected: Money },
    /// The time of its last purchase is not that of its newest order.
    WrongLastPurchase { last_purchase: Option<DateTime<Utc>>, last_purchase_expected: Option<DateTime<Utc>> },
    /// Its places in the rankings do not match its total and last order.
    Misranked,
    /// So many of its newest orders are missing from its recent orders.
    MissingRecentOrders { stored: usize, expected: usize },
    /// Its recent orders are not its newest orders.
    WrongRecentOrders,
    /// Its name, e-mail address or price is not that of the newest event that it includes.
    WrongDetails,
    /// The database does not have it, or not this version of it.
    Orphaned { version: i32 },
    /// The stored data cannot be read.
    Damaged { why: String },
}

impl Difference {
    /// Whether events that the database does not have may have caused it. Then sums may have counted them.
    pub fn may_be_forged(&self) -> bool {
        match self {
            Difference::Orphaned { .. }
            | Difference::WrongTotal { .. }
            | Difference::WrongRefunds { .. }
            | Difference::WrongLastPurchase { .. }
            | Difference::WrongRecentOrders => true,
            Difference::Missing { .. }
            | Difference::Behind { .. }
            | Difference::Misranked
            | Difference::MissingRecentOrders { .. }
            | Difference::WrongDetails
            | Difference::Damaged { .. } => false,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let count = |events| match events {
            1 => "1 event".to_owned(),
            events => format!("{events} events"),
        };
        match self {
            Difference::Missing { events } => write!(f, "missing: not one of {} is applied", count(*events)),
            Difference::Behind { events, version } => {
                let verb = if *events == 1 { "is" } else { "are" };
                write!(f, "behind: {} after version {version} {verb} missing", count(*events))
            }
            Difference::WrongTotal { orders, orders_expected, total, total_expected } => write!(
                f,
                "wrong total: {total} for {orders} orders, expected {total_expected} for {orders_expected} orders"
            ),
            Difference::WrongRefunds { cancelled, cancelled_expected, refunded, refunded_expected } => write!(
                f,
                "wrong refunds: {refunded} and {cancelled} cancelled orders, expected {refunded_expected} and {cancelled_expected} \
                 cancelled orders"
            ),
            Difference::WrongLastPurchase { last_purchase, last_purchase_expected } => {
                let [stored, expected] = [last_purchase, last_purchase_expected].map(|time| {
                    time.map_or("none".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
                });
                write!(f, "wrong last purchase: {stored}, expected {expected}")
            }
            Difference::Misranked => write!(f, "misranked: the rankings do not match its total and last order"),
            Difference::MissingRecentOrders { stored, expected } => {
                write!(f, "missing recent orders: {stored} are stored, expected {expected}")
            }
            Difference::WrongRecentOrders => write!(f, "wrong recent orders: they are not its newest orders"),
            Difference::WrongDetails => write!(f, "wrong details: they do not match its newest event"),
            Difference::Orphaned { version } => write!(f, "orphaned: version {version} is not in the database"),
            Difference::Damaged { why } => write!(f, "damaged: {why}"),
        }
    }
}

/// A client or a product that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    #[serde(flatten)]
    pub subject: Subject,
    #[serde(flatten)]
    pub difference: Difference,
    /// Whether Redis may have lost it. Then a repair may have had to guess which events the sums have counted.
    #[serde(skip)]
    pub may_be_lost: bool,
    /// Whether it has been repaired.
    pub repaired: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let repaired = if self.repaired { "  (repaired)" } else { "" };
        write!(f, "{:<20} {}{repaired}", self.subject.to_string(), self.difference)
    }
}
