use async_graphql::{Enum, SimpleObject};
use chrono::Utc;
use iso_currency::Currency;
use read_model::Sum;
use read_model::reports::{self, Report};

use super::client::Client;
use super::money::Money;
use super::order::ClientOrder;
use super::product::Product;
use crate::graphql::scalars::{DateTime, int};
use crate::queries::sales_snapshots::Snapshot;

/// How long each point of a report is.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "reports::Granularity")]
pub enum Granularity {
    /// An hour. Kept for 90 days.
    Hour,
    /// A day, from midnight on.
    Day,
    /// A calendar month, cut where the report begins and ends.
    Month,
}

/// What was sold in some time, in UTC.
#[derive(SimpleObject)]
pub struct SalesReport {
    /// What all orders of that time add up to.
    total: Money,
    /// How many orders were placed; 2147483647 stands for more.
    order_count: i32,
    /// Each hour, day or month of that time, also where nothing was sold.
    points: Vec<SalesPoint>,
}

/// What was sold in an hour, a day or a month.
#[derive(SimpleObject)]
pub struct SalesPoint {
    /// Where it begins.
    start: DateTime,
    /// What the orders add up to.
    revenue: Money,
    /// How many orders were placed.
    order_count: i32,
}

impl SalesReport {
    pub fn new(report: &Report, currency: Currency) -> SalesReport {
        let point = |&(start, sum): &(chrono::DateTime<Utc>, Sum)| SalesPoint {
            start: DateTime(start),
            revenue: Money::new(sum.revenue, currency),
            order_count: int(sum.count),
        };
        SalesReport {
            total: Money::new(report.total.revenue, currency),
            order_count: int(report.total.count),
            points: report.points.iter().map(point).collect(),
        }
    }
}

/// What was sold of a product.
#[derive(Clone, SimpleObject)]
pub struct ProductSales {
    /// The product.
    pub product: Product,
    /// How many pieces were sold; 2147483647 stands for more.
    pub units: i32,
    /// What they brought in, each at the price it was ordered at.
    pub revenue: Money,
}

impl ProductSales {
    pub fn new(product: Product, sold: Sum, currency: Currency) -> ProductSales {
        ProductSales { product, units: int(sold.count), revenue: Money::new(sold.revenue, currency) }
    }
}

/// What is sold, at a moment.
#[derive(SimpleObject)]
pub struct SalesSnapshot {
    /// The moment.
    time: DateTime,
    /// What the orders since midnight, in UTC, add up to.
    revenue_today: Money,
    /// How many orders were placed since midnight, in UTC.
    orders_today: i32,
    /// About how many orders were placed in the last minute.
    orders_per_minute: i32,
    /// The last ten orders of all clients, newest first.
    latest_orders: Vec<ClientOrder>,
}

impl SalesSnapshot {
    pub fn new(snapshot: Snapshot, currency: Currency) -> SalesSnapshot {
        let latest = snapshot.latest.into_iter().map(|(purchase, client)| {
            ClientOrder::new(purchase, client.map(|client| Client::new(client, currency)), currency)
        });
        SalesSnapshot {
            time: DateTime(snapshot.time),
            revenue_today: Money::new(snapshot.today.revenue, currency),
            orders_today: int(snapshot.today.count),
            orders_per_minute: int(snapshot.rate),
            latest_orders: latest.collect(),
        }
    }
}
