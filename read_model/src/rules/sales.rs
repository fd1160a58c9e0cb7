//! What an event adds to the sums over time and to the sums of products. Only this file defines it; [`Memory`](crate::Memory) and
//! `apply.lua` add it up.
//!
//! Each sum has two sides: *gross*, the orders that were placed, and *cancelled*, the cancellations and refunds of orders. Both
//! only grow, so that events can arrive in any order; queries return the difference, *net*. A cancellation or a refund counts at
//! its own time, and not at the time of its order.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use entity::{Change, Event, Line, OrderPlaced};
use serde::Serialize;

use super::periods::{Resolution, products_of_day, products_of_month};

/// The sum of some orders, or of some units of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// The number of orders, or of units.
    pub count: i64,
    /// Minor units.
    pub revenue: i64,
}

impl Sum {
    pub fn add(&mut self, other: Sum) {
        self.count = self.count.saturating_add(other.count);
        self.revenue = self.revenue.saturating_add(other.revenue);
    }
}

/// The two sides of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The orders that were placed.
    Gross,
    /// The cancellations and refunds. A refund of a part counts its amount, but no order and no unit.
    Cancelled,
}

/// Replaces the colon in the names of bucket pages and of periods of product sales on the cancelled side.
const CANCELLED: &str = "_cancelled:";

impl Side {
    pub const ALL: [Side; 2] = [Side::Gross, Side::Cancelled];

    /// Returns the name of a bucket page or of a period of product sales on this side, given its name on the gross side.
    pub fn name(self, gross: String) -> String {
        match self {
            Side::Gross => gross,
            Side::Cancelled => gross.replacen(':', CANCELLED, 1),
        }
    }

    /// Parses a name: its side, and its name on the gross side.
    pub fn of_name(name: &str) -> (Side, String) {
        match name.split_once(CANCELLED) {
            Some((pages, time)) => (Side::Cancelled, format!("{pages}:{time}")),
            None => (Side::Gross, name.to_owned()),
        }
    }
}

/// Both sides of a sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sales {
    pub gross: Sum,
    pub cancelled: Sum,
}

impl Sales {
    /// The gross side minus the cancelled side. Negative if the latter is larger, in the same time.
    pub fn net(self) -> Sum {
        Sum {
            count: self.gross.count.saturating_sub(self.cancelled.count),
            revenue: self.gross.revenue.saturating_sub(self.cancelled.revenue),
        }
    }

    pub fn sides(self) -> [(Side, Sum); 2] {
        [(Side::Gross, self.gross), (Side::Cancelled, self.cancelled)]
    }

    pub fn add(&mut self, side: Side, sum: Sum) {
        match side {
            Side::Gross => self.gross.add(sum),
            Side::Cancelled => self.cancelled.add(sum),
        }
    }
}

/// Returns what an event adds to the sums of its client and of its time: the side, the number of orders and the amount. `None`
/// for an event that is not about an order.
pub fn contribution(event: &Event) -> Option<(Side, Sum)> {
    match &event.data {
        Change::OrderPlaced(order) => Some((Side::Gross, Sum { count: 1, revenue: order.total })),
        Change::OrderCancelled(refund) => Some((Side::Cancelled, Sum { count: 1, revenue: refund.amount })),
        Change::OrderRefunded(refund) => Some((Side::Cancelled, Sum { count: 0, revenue: refund.amount })),
        Change::Client(_) | Change::Product(_) => None,
    }
}

/// Returns what an event adds to the sums of products, on the side of its [`contribution`].
fn contributions_of_products(event: &Event) -> Vec<(i64, Sum)> {
    match &event.data {
        Change::OrderPlaced(OrderPlaced { lines, .. }) => {
            let sold = |line: &Line| Sum { count: line.quantity.into(), revenue: line.total().unwrap_or(i64::MAX) };
            lines.iter().map(|line| (line.product_id, sold(line))).collect()
        }
        Change::OrderCancelled(refund) | Change::OrderRefunded(refund) => {
            let is_cancelled = matches!(event.data, Change::OrderCancelled(_));
            let lines = refund.order.lines.iter().zip(&refund.amounts);
            let sums = lines.map(|(line, amount)| {
                let units = if is_cancelled { line.quantity } else { 0 };
                (line.product_id, Sum { count: units.into(), revenue: *amount })
            });
            sums.filter(|(_, sum)| *sum != Sum::default()).collect()
        }
        Change::Client(_) | Change::Product(_) => Vec::new(),
    }
}

/// Returns how many lines the order of an event has: a measure of the work to apply it.
pub fn line_count(event: &Event) -> usize {
    match &event.data {
        Change::OrderPlaced(order) => order.lines.len(),
        Change::OrderCancelled(refund) | Change::OrderRefunded(refund) => refund.order.lines.len(),
        Change::Client(_) | Change::Product(_) => 0,
    }
}

/// The amounts that some events add to the sums.
#[derive(Default)]
pub(crate) struct SalesDelta {
    /// By bucket page and index of the bucket, without the pages that have expired.
    pub buckets: BTreeMap<(String, usize), BucketDelta>,
    /// By period and product.
    pub products: BTreeMap<(String, i64), Sum>,
}

/// The amounts that are added to a bucket.
#[derive(Default)]
pub(crate) struct BucketDelta {
    pub sum: Sum,
    /// When the page expires, `None` for never.
    pub expires_at: Option<DateTime<Utc>>,
}

impl SalesDelta {
    pub fn add(&mut self, event: &Event, now: DateTime<Utc>) {
        let (Some((side, sum)), time) = (contribution(event), event.time) else { return };
        for resolution in Resolution::ALL.into_iter().filter(|resolution| resolution.is_retained(time, now)) {
            let (page, bucket) = resolution.at(time);
            let bucket = self.buckets.entry((side.name(page), bucket)).or_default();
            bucket.sum.add(sum);
            bucket.expires_at = resolution.expires_at(time);
        }
        let day = time.date_naive();
        for (product, sum) in contributions_of_products(event) {
            for period in [products_of_day(day), products_of_month(day)] {
                self.products.entry((side.name(period), product)).or_default().add(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::periods::first_day_of_products;

    #[test]
    fn each_side_has_names_of_its_own() {
        for (gross, cancelled) in [
            ("days:2026", "days_cancelled:2026"),
            ("moments:2026-11-24T13", "moments_cancelled:2026-11-24T13"),
            ("products:2026-11", "products_cancelled:2026-11"),
        ] {
            assert_eq!(
                (Side::Gross.name(gross.into()), Side::of_name(gross)),
                (gross.into(), (Side::Gross, gross.into()))
            );
            assert_eq!(Side::Cancelled.name(gross.into()), cancelled);
            assert_eq!(Side::of_name(cancelled), (Side::Cancelled, gross.into()));
            // The release before does not take them for its own pages.
            assert_eq!((Resolution::of_page(cancelled), first_day_of_products(cancelled)), (None, None));
        }
    }
}
