//! Reports of sales.

use std::sync::Arc;

use async_graphql::{Context, ID};
use chrono::{DateTime, Days, NaiveDate, Timelike, Utc};
use read_model::Resolution;
use read_model::reports::{self, DayRange};

use super::{MAX_DAYS, MAX_DAYS_OF_CLIENTS, MAX_POINTS, TOP_PRODUCTS};
use crate::edge::auth::READ_SALES;
use crate::edge::quota::QuotaKey;
use crate::edge::rate_limits::Meter;
use crate::graphql::app;
use crate::graphql::arguments::{date_range, page_size, parse_id, parse_time_zone};
use crate::graphql::authorize::{authorize_for, authorize_for_all};
use crate::graphql::database::database;
use crate::graphql::error::Error;
use crate::graphql::scalars::Date;
use crate::graphql::types::client_report::ClientReport;
use crate::graphql::types::product::Product;
use crate::graphql::types::sales::{Granularity, ProductSales, ProductSort, SalesReport};
use crate::orders::client_sales::{self, MAX_ROWS, SalesOfClient};

/// Orders and refunds of a client of which adding them up costs 1. For 10,000 that takes 25 ms.
const ROWS_PER_POINT: usize = 25;
/// Days in another time zone than UTC of which adding up their half hours costs 1. For three years that takes 10 ms or more.
const ZONED_DAYS_PER_POINT: usize = 2;

pub async fn report(
    ctx: &Context<'_>,
    days: (Date, Date),
    granularity: Granularity,
    time_zone: &str,
) -> Result<SalesReport, Error> {
    authorize_for_all(ctx, READ_SALES)?;
    let (days, granularity) = (day_range(days, time_zone)?, granularity.into());
    let points = points(days, granularity)?;
    if days.resolution(granularity) == Resolution::HalfHour {
        if !days.is_available(granularity, Utc::now()) {
            let message =
                "`from` is too long ago: hours, and days in other time zones than UTC, are available for two years.";
            return Err(Error::BadUserInput(message.into()));
        }
        if days.last > Utc::now().date_naive() + Days::new(366) {
            return Err(Error::BadUserInput("`to` is more than a year ahead.".into()));
        }
        if points.iter().any(|start| start.minute() % 30 != 0) {
            return Err(Error::BadUserInput(format!(
                "{time_zone} differs from UTC by a quarter of an hour, which reports do not support."
            )));
        }
        let read = (days.last - days.first).num_days().unsigned_abs() as usize;
        ctx.data_unchecked::<Meter>().charge(read / ZONED_DAYS_PER_POINT)?;
    }
    Ok(SalesReport(app(ctx).reports.sales(days, granularity).await?))
}

fn day_range((from, to): (Date, Date), time_zone: &str) -> Result<DayRange, Error> {
    let ((first, last), zone) = (date_range(from, to)?, parse_time_zone(time_zone)?);
    Ok(DayRange { first, last, zone })
}

/// The starts of the points of a report.
fn points(days: DayRange, granularity: reports::Granularity) -> Result<Vec<DateTime<Utc>>, Error> {
    let points = days.points(granularity, MAX_POINTS as usize + 1);
    match points.len() <= MAX_POINTS as usize {
        true => Ok(points),
        false => Err(Error::BadUserInput(format!("The report would have more than {MAX_POINTS} points."))),
    }
}

/// The sales to a client over time.
pub async fn of_client(
    ctx: &Context<'_>,
    client: &ID,
    days: (Date, Date),
    granularity: Granularity,
    time_zone: &str,
) -> Result<SalesReport, Error> {
    authorize_for(ctx, READ_SALES, [client.as_str()])?;
    let (days, granularity) = (day_range(days, time_zone)?, granularity.into());
    points(days, granularity)?;
    // No order is of client 0.
    let client = parse_id(client).unwrap_or(0);
    let SalesOfClient { report, rows } =
        client_sales::of_client(&*database(ctx).await, client, days, granularity).await?;
    ctx.data_unchecked::<Meter>().charge_later(rows / ROWS_PER_POINT).await?;
    let too_many =
        || Error::BadUserInput(format!("The client has more than {MAX_ROWS} orders in the range. Shorten it."));
    Ok(SalesReport(Arc::new(report.ok_or_else(too_many)?)))
}

pub async fn top_products(
    ctx: &Context<'_>,
    days: (Date, Date),
    first: Option<i32>,
    sort_by: ProductSort,
) -> Result<Vec<ProductSales>, Error> {
    authorize_for_all(ctx, READ_SALES)?;
    let ((from, to), first, app) = (days_of_products(days)?, page_size(first, TOP_PRODUCTS)?, app(ctx));
    let top = app.reports.top_products(from, to, sort_by.into(), caller(ctx)).await?;
    Ok(top.iter().take(first).map(|sold| ProductSales::new(&sold.product, sold.sales, app.currency)).collect())
}

fn caller<'a>(ctx: &Context<'a>) -> &'a QuotaKey {
    &ctx.data_unchecked::<Meter>().key
}

/// The sales of one product. Those of a list of products are read together.
pub async fn of_product(ctx: &Context<'_>, product: &Product, days: (Date, Date)) -> Result<ProductSales, Error> {
    authorize_for_all(ctx, READ_SALES)?;
    let ((from, to), app) = (days_of_products(days)?, app(ctx));
    let sums = app.reports.product_sums(from, to, caller(ctx)).await?;
    let sales = parse_id(&product.id).and_then(|id| sums.get(&id)).copied().unwrap_or_default();
    Ok(ProductSales::of(product.clone(), sales, app.currency))
}

fn days_of_products((from, to): (Date, Date)) -> Result<(NaiveDate, NaiveDate), Error> {
    let (from, to) = date_range(from, to)?;
    match (to - from).num_days() <= i64::from(MAX_DAYS) {
        true => Ok((from, to)),
        false => Err(Error::BadUserInput("`to` is more than ten years after `from`.".into())),
    }
}

pub async fn clients(ctx: &Context<'_>, days: (Date, Date), time_zone: &str) -> Result<ClientReport, Error> {
    authorize_for_all(ctx, READ_SALES)?;
    let days = day_range(days, time_zone)?;
    if (days.last - days.first).num_days() > i64::from(MAX_DAYS_OF_CLIENTS) {
        return Err(Error::BadUserInput("The range has more than 366 days.".into()));
    }
    Ok(ClientReport(app(ctx).client_reports.of(days, caller(ctx)).await?))
}
