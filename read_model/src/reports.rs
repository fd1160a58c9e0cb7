//! Reads that combine several queries: sales over time, the latest orders, and today's sales.

use std::cmp::Reverse;
use std::collections::HashMap;

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::rules::periods::{products_of_day, products_of_month};
use crate::{Error, OrderSummary, Queries, Ranking, Resolution, Sales, Side};

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
    pub points: Vec<(DateTime<Utc>, Sales)>,
    pub total: Sales,
}

/// The days of a report, in a time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DayRange {
    pub first: NaiveDate,
    /// Included.
    pub last: NaiveDate,
    pub zone: Tz,
}

impl DayRange {
    pub fn utc(first: NaiveDate, last: NaiveDate) -> DayRange {
        DayRange { first, last, zone: Tz::UTC }
    }

    /// Returns the starts of the points, but at most `limit` of them. The first month may start before the first day.
    pub fn points(self, granularity: Granularity, limit: usize) -> Vec<DateTime<Utc>> {
        let DayRange { first, last, zone } = self;
        let days = || first.iter_days().take_while(move |day| *day <= last);
        match granularity {
            Granularity::Hour => {
                let hours = (0..).map(|hour| start_of_day(first, zone) + TimeDelta::hours(hour));
                hours.take_while(|hour| *hour < self.end()).take(limit).collect()
            }
            Granularity::Day => days().map(|day| start_of_day(day, zone)).take(limit).collect(),
            Granularity::Month => {
                let months = (0..).map_while(|month| first.with_day(1)?.checked_add_months(Months::new(month)));
                let months = months.take_while(|month| *month <= last);
                months.map(|month| start_of_day(month, zone)).take(limit).collect()
            }
        }
    }

    /// Returns the resolution of the sums that a report is made of. Days in UTC have sums of their own.
    pub fn resolution(self, granularity: Granularity) -> Resolution {
        match (granularity, self.zone) {
            (Granularity::Day | Granularity::Month, Tz::UTC) => Resolution::Day,
            _ => Resolution::HalfHour,
        }
    }

    /// Returns whether the sums of the first day are still stored.
    pub fn is_available(self, granularity: Granularity, now: DateTime<Utc>) -> bool {
        self.resolution(granularity).is_retained(start_of_day(self.first, self.zone), now)
    }

    /// Returns the first instant after the last day.
    pub fn end(self) -> DateTime<Utc> {
        self.last.succ_opt().map_or(DateTime::<Utc>::MAX_UTC, |day| start_of_day(day, self.zone))
    }
}

/// Returns the first instant of a day. A day may begin after midnight, when clocks are put forward.
pub fn start_of_day(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    let times = (0..=48).filter_map(|half_hour| midnight.checked_add_signed(TimeDelta::minutes(30 * half_hour)));
    let start = times.filter_map(|time| zone.from_local_datetime(&time).earliest()).next();
    start.map_or(midnight.and_utc(), |start| start.to_utc())
}

/// Reads the sales of some days.
pub async fn report(queries: &dyn Queries, days: DayRange, granularity: Granularity) -> Result<Report, Error> {
    let resolution = days.resolution(granularity);
    let (first, end) = (start_of_day(days.first, days.zone), days.end());
    let times = std::iter::successors(Some(first), |time| time.checked_add_signed(resolution.step()))
        .take_while(|time| *time < end);
    let (mut pages, mut steps) = (Vec::new(), Vec::new());
    let mut previous = None;
    for time in times {
        let bucket = resolution.bucket(time);
        // The buckets of a page rise: another page has begun. Its name is formatted once, and not for each step.
        if previous.is_none_or(|previous| bucket <= previous) {
            pages.push(resolution.at(time).0);
        }
        previous = Some(bucket);
        steps.push((time, pages.len() - 1, bucket));
    }
    let buckets = queries.buckets(&on_both_sides(&pages)).await?;
    let starts = days.points(granularity, usize::MAX);
    let mut report =
        Report { points: starts.iter().map(|start| (*start, Sales::default())).collect(), total: Sales::default() };
    let mut point = 0;
    for (time, page, bucket) in steps {
        while starts.get(point + 1).is_some_and(|next| *next <= time) {
            point += 1;
        }
        for (side, buckets) in Side::ALL.into_iter().zip([&buckets[page], &buckets[pages.len() + page]]) {
            let sum = buckets.get(bucket).copied().unwrap_or_default();
            report.total.add(side, sum);
            report.points[point].1.add(side, sum);
        }
    }
    Ok(report)
}

/// Returns the names of bucket pages or periods on the gross side, and then on the other.
fn on_both_sides(names: &[String]) -> Vec<String> {
    Side::ALL.into_iter().flat_map(|side| names.iter().map(move |name| side.name(name.clone()))).collect()
}

/// Adds up the sales of each product over periods: see [`periods`].
pub async fn product_sales(queries: &dyn Queries, periods: &[String]) -> Result<HashMap<i64, Sales>, Error> {
    let mut sales: HashMap<i64, Sales> = HashMap::new();
    for side in Side::ALL {
        let periods: Vec<String> = periods.iter().map(|period| side.name(period.clone())).collect();
        for (product, sum) in queries.product_sales(&periods).await? {
            sales.entry(product).or_default().add(side, sum);
        }
    }
    Ok(sales)
}

/// Returns the fewest periods of product sales, months and days, that cover the first to the last day, both included. Their names
/// are those of the gross side.
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
/// [`RECENT_ORDERS`](crate::rules::recent_orders::RECENT_ORDERS). It is enough to look at the `count` clients that bought last: every
/// newest order belongs to one of them. Of several orders in the same millisecond, any may be left out.
pub async fn latest_orders(queries: &dyn Queries, count: usize) -> Result<Vec<OrderSummary>, Error> {
    let buyers = queries.ranked_clients(Ranking::LastPurchase, None, count).await?;
    let buyers: Vec<i64> = buyers.iter().map(|position| position.id).collect();
    let mut latest = queries.recent_orders(&buyers, count).await?.concat();
    latest.sort_by_cached_key(|order| Reverse((order.time, order.order_id)));
    latest.truncate(count);
    Ok(latest)
}

/// Reads the sales of today in UTC, and the approximate number of orders in the last minute.
pub async fn today(queries: &dyn Queries, now: DateTime<Utc>) -> Result<(Sales, i64), Error> {
    let (day, today) = Resolution::Day.at(now);
    let steps: Vec<_> = (0..=6).map(|tens| Resolution::TenSeconds.at(now - TimeDelta::seconds(10 * tens))).collect();
    let mut pages = on_both_sides(&[day]);
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
    Ok((Sales { gross: sum(&pages[0], today), cancelled: sum(&pages[1], today) }, rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(first: &str, last: &str, zone: Tz, granularity: Granularity) -> Vec<String> {
        let days = DayRange { first: first.parse().unwrap(), last: last.parse().unwrap(), zone };
        days.points(granularity, 100).iter().map(|start| start.format("%m-%dT%H:%M").to_string()).collect()
    }

    #[test]
    fn days_are_those_of_the_time_zone() {
        let days = |first, last, zone| starts(first, last, zone, Granularity::Day);
        assert_eq!(days("2026-03-28", "2026-03-30", Tz::Europe__Berlin), ["03-27T23:00", "03-28T23:00", "03-29T22:00"]);
        assert_eq!(days("2026-10-24", "2026-10-26", Tz::Europe__Berlin), ["10-23T22:00", "10-24T22:00", "10-25T23:00"]);
        assert_eq!(days("2026-01-01", "2026-01-01", Tz::Asia__Kolkata), ["12-31T18:30"]);
        // In Cairo, clocks are put forward at midnight: the day begins at 1:00.
        assert_eq!(days("2026-04-24", "2026-04-25", Tz::Africa__Cairo), ["04-23T22:00", "04-24T21:00"]);
        let months = starts("2026-03-15", "2026-04-02", Tz::America__New_York, Granularity::Month);
        assert_eq!(months, ["03-01T05:00", "04-01T04:00"]);
    }

    #[test]
    fn a_day_on_which_clocks_change_has_23_or_25_hours() {
        let hours = |day| starts(day, day, Tz::Europe__Berlin, Granularity::Hour).len();
        assert_eq!([hours("2026-03-28"), hours("2026-03-29"), hours("2026-10-25")], [24, 23, 25]);
    }
}
