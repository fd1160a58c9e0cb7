//! The contributions of an order besides its client: sums over time, sums of products, and the client's recent orders. Only this
//! file defines them; [`Memory`](crate::Memory) and `apply.lua` add them up.
//!
//! Sums over time are stored in bucket pages: a page of a [`Resolution`] has one bucket for each step of time.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc};
use entity::OrderPlaced;
use serde::Serialize;
use uuid::Uuid;

/// How long the sums by half an hour are stored after their month: two years, for reports in other time zones than UTC. The
/// sums by day never expire.
pub const HALF_HOURS_RETAINED: Days = Days::new(731);
/// How long the sums by ten seconds are stored: longer than the rate of the last minute needs them.
const TEN_SECONDS_RETAINED: TimeDelta = TimeDelta::hours(2);
/// The number of recent orders that are stored for each client.
pub const RECENT_ORDERS: usize = 50;

/// The sum of some orders, or of some sold units of a product.
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

    /// Returns the bucket page of this time, and the index of its bucket.
    pub fn at(self, time: DateTime<Utc>) -> (String, usize) {
        let (page, bucket) = match self {
            Resolution::Day => ("%Y", time.ordinal0()),
            Resolution::HalfHour => ("%Y-%m", time.day0() * 48 + time.hour() * 2 + time.minute() / 30),
            Resolution::TenSeconds => ("%Y-%m-%dT%H", time.minute() * 6 + time.second() / 10),
        };
        (format!("{}{}", self.prefix(), time.format(page)), bucket as usize)
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
            Resolution::TenSeconds => time.checked_add_signed(TEN_SECONDS_RETAINED),
        }
    }
}

/// Returns the name of a day as a period of product sales.
pub fn products_of_day(day: NaiveDate) -> String {
    day.format("products:%Y-%m-%d").to_string()
}

/// Returns the name of the month of a day as a period of product sales.
pub fn products_of_month(day: NaiveDate) -> String {
    day.format("products:%Y-%m").to_string()
}

/// An order in the recent orders of its client.
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

    /// Returns the stored form.
    pub(crate) fn to_text(&self) -> String {
        let OrderSummary { order_id, client_id, time, total, lines } = self;
        format!("{} {client_id} {} {total} {lines}", order_id.simple(), time.timestamp_millis())
    }

    /// Parses the stored form.
    pub(crate) fn from_text(text: &str) -> Option<OrderSummary> {
        let mut parts = text.split(' ');
        let summary = OrderSummary {
            order_id: parts.next()?.parse().ok()?,
            client_id: parts.next()?.parse().ok()?,
            time: DateTime::from_timestamp_millis(parts.next()?.parse().ok()?)?,
            total: parts.next()?.parse().ok()?,
            lines: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(summary)
    }
}

/// The amounts that some orders add to the sums.
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
    pub fn add(&mut self, order: &OrderPlaced, time: DateTime<Utc>, now: DateTime<Utc>) {
        for resolution in Resolution::ALL.into_iter().filter(|resolution| resolution.is_retained(time, now)) {
            let bucket = self.buckets.entry(resolution.at(time)).or_default();
            bucket.sum.add(Sum { count: 1, revenue: order.total });
            bucket.expires_at = resolution.expires_at(time);
        }
        let day = time.date_naive();
        for line in &order.lines {
            let sold = Sum { count: line.quantity.into(), revenue: line.total().unwrap_or(i64::MAX) };
            for period in [products_of_day(day), products_of_month(day)] {
                self.products.entry((period, line.product_id)).or_default().add(sold);
            }
        }
    }
}
