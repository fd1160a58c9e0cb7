use std::sync::Arc;

use async_graphql::{Context, Enum, Object, SimpleObject};
use chrono::Utc;
use iso_currency::Currency;
use read_model::Sales;
use read_model::reports::{self, Report};

use super::client::Client;
use super::money::Money;
use super::order::OrderSummary;
use super::product::Product;
use crate::graphql::app;
use crate::graphql::scalars::{DateTime, int};
use crate::queries::reports::ProductRanking;
use crate::queries::sales_snapshots;

/// The length of the points of a report.
#[derive(Clone, Copy, Default, PartialEq, Eq, Enum)]
#[graphql(remote = "reports::Granularity")]
pub enum Granularity {
    /// An hour. The root field `sales` has those of the last two years.
    Hour,
    /// A day, from midnight to midnight.
    #[default]
    Day,
    /// A calendar month. Days outside the range of the report do not count.
    Month,
}

pub struct SalesReport(pub Arc<Report>);

/// The sales in a range of days. Cancellations and refunds count when they are made, and not at the time of their order.
#[Object]
impl SalesReport {
    /// The sum of the orders that were placed in the range.
    async fn gross(&self, ctx: &Context<'_>) -> Money {
        Money::new(self.0.total.gross.revenue, app(ctx).currency)
    }

    /// The sum of the cancellations and refunds in the range.
    async fn cancelled(&self, ctx: &Context<'_>) -> Money {
        Money::new(self.0.total.cancelled.revenue, app(ctx).currency)
    }

    /// `gross` minus `cancelled`. Negative if `cancelled` is larger.
    async fn net(&self, ctx: &Context<'_>) -> Money {
        Money::new(self.0.total.net().revenue, app(ctx).currency)
    }

    /// The number of orders that were placed in the range. The largest value, 2147483647, also stands for larger numbers.
    async fn order_count(&self) -> i32 {
        int(self.0.total.gross.count)
    }

    /// The number of orders that were cancelled in the range.
    async fn cancelled_count(&self) -> i32 {
        int(self.0.total.cancelled.count)
    }

    /// The sales of each hour, day or month in the range, including those without orders.
    async fn points(&self, ctx: &Context<'_>) -> Vec<SalesPoint> {
        let currency = app(ctx).currency;
        let point = |&(start, sales): &(chrono::DateTime<Utc>, Sales)| SalesPoint {
            start: DateTime(start),
            gross: Money::new(sales.gross.revenue, currency),
            cancelled: Money::new(sales.cancelled.revenue, currency),
            net: Money::new(sales.net().revenue, currency),
            order_count: int(sales.gross.count),
            cancelled_count: int(sales.cancelled.count),
        };
        self.0.points.iter().map(point).collect()
    }
}

/// The sales in an hour, a day or a month.
#[derive(SimpleObject)]
pub struct SalesPoint {
    /// The start of the hour, day or month.
    start: DateTime,
    /// The sum of the orders that were placed.
    gross: Money,
    /// The sum of the cancellations and refunds.
    cancelled: Money,
    /// `gross` minus `cancelled`.
    net: Money,
    /// The number of orders that were placed.
    order_count: i32,
    /// The number of orders that were cancelled.
    cancelled_count: i32,
}

/// The sales of a product. Cancellations and refunds count when they are made, and not at the time of their order.
#[derive(SimpleObject)]
pub struct ProductSales {
    /// The product.
    product: Product,
    /// The number of units sold, without those of cancelled orders. The largest value, 2147483647, also stands for larger
    /// numbers.
    units: i32,
    /// The revenue, with each unit at the price of its order, minus cancellations and refunds.
    revenue: Money,
    /// The number of units sold, including those of cancelled orders.
    gross_units: i32,
    /// The revenue without subtracting cancellations and refunds.
    gross_revenue: Money,
    /// The sum of the cancellations and refunds.
    cancelled_revenue: Money,
}

impl ProductSales {
    pub fn new(product: &read_model::Product, sales: Sales, currency: Currency) -> ProductSales {
        ProductSales::of(Product::new(product.clone(), currency), sales, currency)
    }

    pub fn of(product: Product, sales: Sales, currency: Currency) -> ProductSales {
        ProductSales {
            product,
            units: int(sales.net().count),
            revenue: Money::new(sales.net().revenue, currency),
            gross_units: int(sales.gross.count),
            gross_revenue: Money::new(sales.gross.revenue, currency),
            cancelled_revenue: Money::new(sales.cancelled.revenue, currency),
        }
    }
}

/// The sort order of products by their sales, minus cancellations and refunds.
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
    /// `grossToday` minus `cancelledToday`.
    revenue_today: Money,
    /// The sum of the orders that were placed since midnight UTC.
    gross_today: Money,
    /// The sum of the cancellations and refunds since midnight UTC.
    cancelled_today: Money,
    /// The number of orders that were placed since midnight UTC.
    orders_today: i32,
    /// The number of orders that were cancelled since midnight UTC.
    cancelled_orders_today: i32,
    /// The approximate number of orders in the last minute.
    orders_per_minute: i32,
    /// The ten newest orders, newest first, as they were placed. Cancelled ones stay in the list: `order(id:)` returns the status of an
    /// order.
    latest_orders: Vec<OrderSummary>,
}

impl SalesSnapshot {
    pub fn new(snapshot: sales_snapshots::SalesSnapshot, currency: Currency) -> SalesSnapshot {
        let order = |(order, client): (read_model::OrderSummary, Option<read_model::Client>)| {
            OrderSummary::new(order, client.map(|client| Client::new(client, currency)), currency)
        };
        SalesSnapshot {
            time: DateTime(snapshot.time),
            revenue_today: Money::new(snapshot.today.net().revenue, currency),
            gross_today: Money::new(snapshot.today.gross.revenue, currency),
            cancelled_today: Money::new(snapshot.today.cancelled.revenue, currency),
            orders_today: int(snapshot.today.gross.count),
            cancelled_orders_today: int(snapshot.today.cancelled.count),
            orders_per_minute: int(snapshot.orders_per_minute),
            latest_orders: snapshot.latest_orders.into_iter().map(order).collect(),
        }
    }
}
