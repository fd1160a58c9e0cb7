//! The contributions of an event besides its client: sums over time, sums of products, and the client's recent orders. Only this
//! file defines them; [`Memory`](crate::Memory) and `apply.lua` add them up.
//!
//! Each sum has two sides: *gross*, the orders that were placed, and *cancelled*, the cancellations and refunds of orders. Both
//! only grow, so that events can arrive in any order; queries return the difference, *net*. A cancellation or a refund counts at
//! its own time, and not at the time of its order.
//!
//! Sums over time are stored in bucket pages: a page of a [`Resolution`] has one bucket for each step of time.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD as BASE64;
use chrono::{DateTime, Datelike, Days, DurationRound, Months, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc};
use entity::{Change, Event, Line, OrderPlaced};
use serde::Serialize;
use uuid::Uuid;

/// How long the sums by half an hour are stored after their month: two years, for reports in other time zones than UTC. The
/// sums by day never expire.
const HALF_HOURS_RETAINED: Days = Days::new(731);
/// How long the sums by ten seconds are stored after their hour: longer than the rate of the last minute needs them.
const TEN_SECONDS_RETAINED: TimeDelta = TimeDelta::hours(2);
/// The number of recent orders that are stored for each client.
pub const RECENT_ORDERS: usize = 50;

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

/// The steps of time of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// A page holds the days of a year.
    Day,
    /// A page holds the half hours of a month. Nearly all time zones differ from UTC by a multiple of half an hour.
    HalfHour,
    /// A page holds the steps of ten seconds of an hour.
    TenSeconds,
}

impl Resolution {
    const ALL: [Resolution; 3] = [Resolution::Day, Resolution::HalfHour, Resolution::TenSeconds];

    /// Returns the bucket page of this time on the gross side, and the index of its bucket.
    pub fn at(self, time: DateTime<Utc>) -> (String, usize) {
        let page = match self {
            Resolution::Day => "%Y",
            Resolution::HalfHour => "%Y-%m",
            Resolution::TenSeconds => "%Y-%m-%dT%H",
        };
        (format!("{}{}", self.prefix(), time.format(page)), self.bucket(time))
    }

    /// Returns the index of the bucket of this time in its page.
    pub fn bucket(self, time: DateTime<Utc>) -> usize {
        let bucket = match self {
            Resolution::Day => time.ordinal0(),
            Resolution::HalfHour => time.day0() * 48 + time.hour() * 2 + time.minute() / 30,
            Resolution::TenSeconds => time.minute() * 6 + time.second() / 10,
        };
        bucket as usize
    }

    /// Returns the length of a bucket.
    pub fn step(self) -> TimeDelta {
        match self {
            Resolution::Day => TimeDelta::days(1),
            Resolution::HalfHour => TimeDelta::minutes(30),
            Resolution::TenSeconds => TimeDelta::seconds(10),
        }
    }

    /// Parses the name of a bucket page on the gross side: its resolution, and the start of its first bucket.
    pub fn of_page(page: &str) -> Option<(Resolution, DateTime<Utc>)> {
        Resolution::ALL.into_iter().find_map(|resolution| {
            let start = page.strip_prefix(resolution.prefix())?;
            let rest = match resolution {
                Resolution::Day => "-01-01T00:00:00Z",
                Resolution::HalfHour => "-01T00:00:00Z",
                Resolution::TenSeconds => ":00:00Z",
            };
            Some((resolution, format!("{start}{rest}").parse().ok()?))
        })
    }

    /// Returns whether a bucket page is of this resolution.
    pub(crate) fn has(self, page: &str) -> bool {
        page.starts_with(self.prefix())
    }

    fn prefix(self) -> &'static str {
        match self {
            Resolution::Day => "days:",
            Resolution::HalfHour => "half_hours:",
            Resolution::TenSeconds => "moments:",
        }
    }

    /// Returns whether the page of this time has not expired.
    pub fn is_retained(self, time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.expires_at(time).is_none_or(|until| until > now)
    }

    /// Returns when the page of this time expires, `None` for never.
    fn expires_at(self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Resolution::Day => None,
            Resolution::HalfHour => {
                let month = time.date_naive().with_day(1)?.checked_add_months(Months::new(1))?;
                Some(month.checked_add_days(HALF_HOURS_RETAINED)?.and_time(NaiveTime::MIN).and_utc())
            }
            Resolution::TenSeconds => time
                .duration_trunc(TimeDelta::hours(1))
                .ok()?
                .checked_add_signed(TimeDelta::hours(1) + TEN_SECONDS_RETAINED),
        }
    }
}

/// Returns the name of a day as a period of product sales on the gross side.
pub fn products_of_day(day: NaiveDate) -> String {
    day.format("products:%Y-%m-%d").to_string()
}

/// Parses the name of a period of product sales on the gross side, a day or a month: its first day.
pub fn first_day_of_products(period: &str) -> Option<NaiveDate> {
    let date = period.strip_prefix("products:")?;
    date.parse().or_else(|_| format!("{date}-01").parse()).ok()
}

/// Returns the name of the month of a day as a period of product sales on the gross side.
pub fn products_of_month(day: NaiveDate) -> String {
    day.format("products:%Y-%m").to_string()
}

/// An order in the recent orders of its client, as it was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderSummary {
    pub order_id: Uuid,
    pub client_id: i64,
    pub time: DateTime<Utc>,
    /// Minor units.
    pub total: i64,
    /// The number of its lines.
    pub lines: u32,
}

impl OrderSummary {
    pub fn of(order: &OrderPlaced, time: DateTime<Utc>) -> OrderSummary {
        let OrderPlaced { order_id, client_id, total, ref lines, .. } = *order;
        OrderSummary { order_id, client_id, time, total, lines: lines.len() as u32 }
    }

    /// Returns the stored form, without the client: the id in base64, the time (milliseconds after the time in the id, a UUID of
    /// version 7), the total and the number of lines.
    pub(crate) fn to_text(&self) -> String {
        let OrderSummary { order_id, time, total, lines, .. } = self;
        let since_id = time.timestamp_millis() - time_of(*order_id);
        format!("{} {since_id} {total} {lines}", BASE64.encode(order_id.as_bytes()))
    }

    /// Parses the stored form.
    pub(crate) fn from_text(client_id: i64, text: &str) -> Option<OrderSummary> {
        let parts: Vec<&str> = text.split(' ').collect();
        let (order_id, time, total, lines) = match parts[..] {
            [id, since_id, total, lines] => {
                let id = Uuid::from_slice(&BASE64.decode(id).ok()?).ok()?;
                (id, time_of(id).checked_add(since_id.parse().ok()?)?, total, lines)
            }
            // In generations of format 3 and older.
            [id, _, time, total, lines] => (id.parse().ok()?, time.parse().ok()?, total, lines),
            _ => return None,
        };
        let time = DateTime::from_timestamp_millis(time)?;
        Some(OrderSummary { order_id, client_id, time, total: total.parse().ok()?, lines: lines.parse().ok()? })
    }
}

/// Milliseconds since 1970 in the id of an order; 0 if it has none.
fn time_of(id: Uuid) -> i64 {
    let milliseconds =
        |time: uuid::Timestamp| time.to_unix().0 as i64 * 1_000 + i64::from(time.to_unix().1 / 1_000_000);
    id.get_timestamp().map_or(0, milliseconds)
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

    #[test]
    fn the_names_of_pages_and_periods_are_parsed() {
        for text in ["2026-11-24T13:47:39Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
            let time: DateTime<Utc> = text.parse().unwrap();
            for resolution in Resolution::ALL {
                let (page, bucket) = resolution.at(time);
                let (parsed, start) = Resolution::of_page(&page).unwrap();
                assert_eq!(parsed, resolution);
                assert_eq!(resolution.at(start + resolution.step() * bucket as i32).0, page);
                assert!(
                    (0..resolution.step().num_seconds())
                        .contains(&(time - start - resolution.step() * bucket as i32).num_seconds())
                );
            }
            let day = time.date_naive();
            assert_eq!(first_day_of_products(&products_of_day(day)), Some(day));
            assert_eq!(first_day_of_products(&products_of_month(day)), day.with_day(1));
        }
        for other in ["days:", "days:x", "half_hours:2026", "moments:2026-11-24", "products:2026", "client:1"] {
            assert_eq!((Resolution::of_page(other), first_day_of_products(other)), (None, None), "{other}");
        }
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

    #[test]
    fn an_order_is_read_as_it_was_written_in_either_format() {
        let (now, time) = (Uuid::now_v7(), DateTime::from_timestamp_millis(1_790_000_000_123).unwrap());
        for order_id in [now, Uuid::nil(), Uuid::max(), Uuid::from_u128(7)] {
            let order = OrderSummary { order_id, client_id: 7, time, total: i64::MAX, lines: 100 };
            assert_eq!(OrderSummary::from_text(7, &order.to_text()), Some(order.clone()));
            let older = format!("{} 7 {} {} 100", order_id.simple(), time.timestamp_millis(), i64::MAX);
            assert_eq!(OrderSummary::from_text(7, &older), Some(order));
        }
        let at_once = OrderSummary {
            order_id: now,
            client_id: 7,
            time: DateTime::from_timestamp_millis(time_of(now)).unwrap(),
            total: 300_000,
            lines: 2,
        };
        assert!(at_once.to_text().len() <= 33, "{}", at_once.to_text());
        for damaged in [
            "",
            "x",
            "x 1 2 3",
            "AAAA 1 2 3",
            "AAAAAAAAAAAAAAAAAAAAAA 1 2",
            "AAAAAAAAAAAAAAAAAAAAAA 9223372036854775807 1 1",
        ] {
            assert_eq!(OrderSummary::from_text(7, damaged), None, "{damaged}");
        }
    }
}
