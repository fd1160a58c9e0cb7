//! Reports of sales.

use async_graphql::Context;
use chrono::{Days, Timelike, Utc};
use read_model::Resolution;
use read_model::reports::DayRange;

use super::{MAX_DAYS, MAX_POINTS, TOP_PRODUCTS};
use crate::edge::auth::READ_SALES;
use crate::graphql::app;
use crate::graphql::arguments::{date_range, page_size, parse_time_zone};
use crate::graphql::authorize::authorize_for_all;
use crate::graphql::error::Error;
use crate::graphql::scalars::Date;
use crate::graphql::types::sales::{Granularity, ProductSales, ProductSort, SalesReport};

pub async fn report(
    ctx: &Context<'_>,
    (from, to): (Date, Date),
    granularity: Granularity,
    time_zone: &str,
) -> Result<SalesReport, Error> {
    authorize_for_all(ctx, READ_SALES)?;
    let ((first, last), zone) = (date_range(from, to)?, parse_time_zone(time_zone)?);
    let (days, granularity) = (DayRange { first, last, zone }, granularity.into());
    let points = days.points(granularity, MAX_POINTS as usize + 1);
    if points.len() > MAX_POINTS as usize {
        return Err(Error::BadUserInput(format!("The report would have more than {MAX_POINTS} points.")));
    }
    if days.resolution(granularity) == Resolution::HalfHour {
        if !days.is_available(granularity, Utc::now()) {
            let message =
                "`from` is too long ago: hours, and days in other time zones than UTC, are available for two years.";
            return Err(Error::BadUserInput(message.into()));
        }
        if last > Utc::now().date_naive() + Days::new(366) {
            return Err(Error::BadUserInput("`to` is more than a year ahead.".into()));
        }
        if points.iter().any(|start| start.minute() % 30 != 0) {
            return Err(Error::BadUserInput(format!(
                "{time_zone} differs from UTC by a quarter of an hour, which reports do not support."
            )));
        }
    }
    Ok(SalesReport(app(ctx).reports.sales(days, granularity).await?))
}

pub async fn top_products(
    ctx: &Context<'_>,
    (from, to): (Date, Date),
    first: Option<i32>,
    sort_by: ProductSort,
) -> Result<Vec<ProductSales>, Error> {
    authorize_for_all(ctx, READ_SALES)?;
    let ((from, to), first, app) = (date_range(from, to)?, page_size(first, TOP_PRODUCTS)?, app(ctx));
    if (to - from).num_days() > i64::from(MAX_DAYS) {
        return Err(Error::BadUserInput("`to` is more than ten years after `from`.".into()));
    }
    let top = app.reports.top_products(from, to, sort_by.into()).await?;
    Ok(top.iter().take(first).map(|sales| ProductSales::new(sales.clone(), app.currency)).collect())
}
