//! The sales to one client over time, from the rows of its orders and refunds.
//!
//! The read model has no sums of a client over time: [`client_reports`](super::client_reports) says why. A report reads each order of its
//! range, so it has a largest number of them.

use chrono::{DateTime, Utc};
use entity::{order, order_refund};
use read_model::reports::{DayRange, Granularity, Report};
use read_model::{Sales, Side, Sum};
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QuerySelect, QueryTrait};

use super::lists::Filter;

/// Orders, and refunds, of one report.
pub const MAX_ROWS: usize = 10_000;

/// The sales to a client, and the orders and refunds that were read for them.
pub struct SalesOfClient {
    /// `None` if the client has more than [`MAX_ROWS`] orders or refunds in these days.
    pub report: Option<Report>,
    pub rows: usize,
}

/// Reads the sales to a client.
///
/// # Errors
/// When the database fails.
pub async fn of_client(
    db: &DatabaseConnection,
    client: i64,
    days: DayRange,
    granularity: Granularity,
) -> Result<SalesOfClient, DbErr> {
    let limit = MAX_ROWS as u64 + 1;
    let filter = Filter { client: Some(client), ..Filter::of_days(days) };
    let (least, greatest) = filter.ids();
    let orders = filter.range(least, greatest).filter(filter.unindexed()).select_only();
    let orders = orders.columns([order::Column::PlacedAt, order::Column::Total]).limit(limit).into_tuple();
    let orders: Vec<(DateTime<Utc>, i64)> = orders.all(db).await?;
    let refunds = order_refund::Entity::find()
        .filter(order_refund::Column::ClientId.eq(client))
        .apply_if(filter.from, |refunds, from| refunds.filter(order_refund::Column::RefundedAt.gte(from)))
        .apply_if(filter.before, |refunds, before| refunds.filter(order_refund::Column::RefundedAt.lt(before)))
        .select_only()
        .columns([order_refund::Column::RefundedAt, order_refund::Column::Amount, order_refund::Column::Cancels])
        .limit(limit)
        .into_tuple();
    let refunds: Vec<(DateTime<Utc>, i64, bool)> = refunds.all(db).await?;
    let rows = orders.len() + refunds.len();
    if orders.len().max(refunds.len()) > MAX_ROWS {
        return Ok(SalesOfClient { report: None, rows });
    }
    let starts = days.points(granularity, usize::MAX).into_iter();
    let mut report =
        Report { points: starts.map(|start| (start, Sales::default())).collect(), total: Sales::default() };
    for (time, total) in orders {
        add(&mut report, time, Side::Gross, Sum { count: 1, revenue: total });
    }
    for (time, amount, cancels) in refunds {
        add(&mut report, time, Side::Cancelled, Sum { count: i64::from(cancels), revenue: amount });
    }
    Ok(SalesOfClient { report: Some(report), rows })
}

/// Adds to the total and to the point of this time.
fn add(report: &mut Report, time: DateTime<Utc>, side: Side, sum: Sum) {
    report.total.add(side, sum);
    let later = report.points.partition_point(|(start, _)| *start <= time);
    if let Some((_, sales)) = later.checked_sub(1).and_then(|point| report.points.get_mut(point)) {
        sales.add(side, sum);
    }
}
