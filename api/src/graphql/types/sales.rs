use std::sync::Arc;

use async_graphql::{Context, Enum, Object, SimpleObject};
use chrono::Utc;
use iso_currency::Currency;
use read_model::Sum;
use read_model::reports::{self, Report};

use super::client::Client;
use super::money::Money;
use super::order::OrderSummary;
use super::product::Product;
use crate::graphql::app;
use crate::graphql::scalars::{DateTime, int};
use crate::queries::reports::ProductRanking;
use crate::queries::{self, sales_snapshots};

/// The length of the points of a report.
#[derive(Clone, Copy, Default, PartialEq, Eq, Enum)]
#[graphql(remote = "reports::Granularity")]
pub enum Granularity {
    /// An hour. Available for the last two years.
    Hour,
    /// A day, from midnight to midnight.
    #[default]
    Day,
    /// A calendar month. Days outside the range of the report do not count.
    Month,
}

pub struct SalesReport(pub Arc<Report>);

/// The sales in a range of days.
#[Object]
impl SalesReport {
    /// The sum of all orders in the range.
    async fn total(&self, ctx: &Context<'_>) -> Money {
        Money::new(self.0.total.revenue, app(ctx).currency)
    }

    /// The number of orders in the range. The largest value, 2147483647, also stands for larger numbers.
    async fn order_count(&self) -> i32 {
        int(self.0.total.count)
    }

    /// The sales of each hour, day or month in the range, including those without orders.
    async fn points(&self, ctx: &Context<'_>) -> Vec<SalesPoint> {
        let currency = app(ctx).currency;
        let point = |&(start, sum): &(chrono::DateTime<Utc>, Sum)| SalesPoint {
            start: DateTime(start),
            revenue: Money::new(sum.revenue, currency),
            order_count: int(sum.count),
        };
        self.0.points.iter().map(point).collect()
    }
}

/// The sales in an hour, a day or a month.
#[derive(SimpleObject)]
pub struct SalesPoint {
    /// The start of the hour, day or month.
    start: DateTime,
    /// The sum of the orders.
    revenue: Money,
    /// The number of orders.
    order_count: i32,
}

/// The sales of a product.
#[derive(SimpleObject)]
pub struct ProductSales {
    /// The product.
    product: Product,
    /// The number of units sold. The largest value, 2147483647, also stands for larger numbers.
    units: i32,
    /// The revenue, with each unit at the price of its order.
    revenue: Money,
}

impl ProductSales {
    pub fn new(sales: queries::reports::ProductSales, currency: Currency) -> ProductSales {
        ProductSales {
            product: Product::new(sales.product, currency),
            units: int(sales.sold.count),
            revenue: Money::new(sales.sold.revenue, currency),
        }
    }
}

/// The sort order of products by their sales.
#[derive(Clone, Copy, Default, PartialEq, Eq, Enum)]
#[graphql(remote = "ProductRanking")]
pub enum ProductSort {
    /// The highest revenue first.
    #[default]
    #[graphql(name = "REVENUE_DESC")]
    Revenue,
    /// The most units sold first.
    #[graphql(name = "UNITS_DESC")]
    Units,
}

/// The current sales of all clients.
#[derive(SimpleObject)]
pub struct SalesSnapshot {
    /// The time of the snapshot.
    time: DateTime,
    /// The sum of the orders since midnight UTC.
    revenue_today: Money,
    /// The number of orders since midnight UTC.
    orders_today: i32,
    /// The approximate number of orders in the last minute.
    orders_per_minute: i32,
    /// The ten newest orders, newest first.
    latest_orders: Vec<OrderSummary>,
}

impl SalesSnapshot {
    pub fn new(snapshot: sales_snapshots::SalesSnapshot, currency: Currency) -> SalesSnapshot {
        let order = |(order, client): (read_model::OrderSummary, Option<read_model::Client>)| {
            OrderSummary::new(order, client.map(|client| Client::new(client, currency)), currency)
        };
        SalesSnapshot {
            time: DateTime(snapshot.time),
            revenue_today: Money::new(snapshot.today.revenue, currency),
            orders_today: int(snapshot.today.count),
            orders_per_minute: int(snapshot.orders_per_minute),
            latest_orders: snapshot.latest_orders.into_iter().map(order).collect(),
        }
    }
}
