//! Reads that combine several queries: sales over time, the latest orders, and today's sales.

use std::cmp::Reverse;
use std::collections::HashMap;

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, TimeDelta, Utc};

use crate::rules::sales::{products_of_day, products_of_month};
use crate::{Error, OrderSummary, Queries, Ranking, Resolution, Sum};

/// The distance between two points of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    Hour,
    Day,
    Month,
}

/// The sales of a span of days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The start of each step and its sales, without gaps.
    pub points: Vec<(DateTime<Utc>, Sum)>,
    pub total: Sum,
}

/// Returns the starts of the steps from the first to the last day, both included, but at most `limit` of them.
pub fn points(from: NaiveDate, to: NaiveDate, granularity: Granularity, limit: usize) -> Vec<DateTime<Utc>> {
    let start = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc();
    let days = || from.iter_days().take_while(move |day| *day <= to);
    match granularity {
        Granularity::Day => days().map(start).take(limit).collect(),
        Granularity::Hour => {
            let hours = |day| (0..24).map(move |hour| start(day) + TimeDelta::hours(hour));
            days().flat_map(hours).take(limit).collect()
        }
        Granularity::Month => {
            let months = (0..).map_while(|month| from.with_day(1)?.checked_add_months(Months::new(month)));
            months.take_while(|month| *month <= to).map(start).take(limit).collect()
        }
    }
}

/// Reads the sales from the first to the last day, both included.
pub async fn report(
    queries: &dyn Queries,
    from: NaiveDate,
    to: NaiveDate,
    granularity: Granularity,
) -> Result<Report, Error> {
    let resolution = if granularity == Granularity::Hour { Resolution::Hour } else { Resolution::Day };
    let step = if granularity == Granularity::Hour { Granularity::Hour } else { Granularity::Day };
    let steps = points(from, to, step, usize::MAX);
    let mut pages: Vec<String> = steps.iter().map(|time| resolution.at(*time).0).collect();
    pages.dedup();
    let buckets: HashMap<String, Vec<Sum>> = pages.iter().cloned().zip(queries.buckets(&pages).await?).collect();
    let mut report = Report { points: Vec::new(), total: Sum::default() };
    for time in steps {
        let (page, bucket) = resolution.at(time);
        let sales = buckets.get(&page).and_then(|page| page.get(bucket)).copied().unwrap_or_default();
        report.total.add(sales);
        let start = if granularity == Granularity::Month { first_of_month(time) } else { time };
        match report.points.last_mut() {
            Some((last, sum)) if *last == start => sum.add(sales),
            _ => report.points.push((start, sales)),
        }
    }
    Ok(report)
}

fn first_of_month(time: DateTime<Utc>) -> DateTime<Utc> {
    time.with_day(1).unwrap_or(time)
}

/// Returns the fewest periods of product sales, months and days, that cover the first to the last day, both included.
pub fn periods(from: NaiveDate, to: NaiveDate) -> Vec<String> {
    let (mut periods, mut day) = (Vec::new(), Some(from));
    while let Some(first) = day.filter(|day| *day <= to) {
        let next_month = first.checked_add_months(Months::new(1)).filter(|_| first.day() == 1);
        let whole = next_month.filter(|next| next.pred_opt().is_some_and(|last| last <= to));
        periods.push(if whole.is_some() { products_of_month(first) } else { products_of_day(first) });
        day = whole.or(first.succ_opt());
    }
    periods
}

/// Reads the newest orders of all clients, newest first; `count` is at most
/// [`RECENT_ORDERS`](crate::rules::sales::RECENT_ORDERS). It is enough to look at the `count` clients that bought last: every
/// newest order belongs to one of them.
pub async fn latest_orders(queries: &dyn Queries, count: usize) -> Result<Vec<OrderSummary>, Error> {
    let buyers = queries.ranked_clients(Ranking::LastPurchase, None, count).await?;
    let buyers: Vec<i64> = buyers.iter().map(|position| position.id).collect();
    let mut latest = queries.recent_orders(&buyers, count).await?.concat();
    latest.sort_by_cached_key(|order| Reverse((order.time, order.order_id)));
    latest.truncate(count);
    Ok(latest)
}

/// Reads the sales of today, and the approximate number of orders in the last minute.
pub async fn today(queries: &dyn Queries, now: DateTime<Utc>) -> Result<(Sum, i64), Error> {
    let (day, today) = Resolution::Day.at(now);
    let steps: Vec<_> = (0..=6).map(|tens| Resolution::TenSeconds.at(now - TimeDelta::seconds(10 * tens))).collect();
    let mut pages = vec![day];
    pages.extend(steps.iter().map(|(page, _)| page.clone()));
    pages.dedup();
    let buckets = queries.buckets(&pages).await?;
    let sum = |page: &String, bucket: usize| {
        let index = pages.iter().position(|other| other == page);
        index.and_then(|index| buckets[index].get(bucket)).copied().unwrap_or_default()
    };
    let counts: Vec<i64> = steps.iter().map(|(page, bucket)| sum(page, *bucket).count).collect();
    // The current step has only begun: the seventh makes up for its missing part.
    let missing = 10_000 - now.timestamp_millis().rem_euclid(10_000);
    let rate = counts[..6].iter().sum::<i64>() + (counts[6] * missing + 5_000) / 10_000;
    Ok((sum(&pages[0], today), rate))
}
