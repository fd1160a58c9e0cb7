//! What an order counts for besides its client: the sums over time and products, and the lists it is in. This is the one
//! place that says which; [`Memory`](crate::Memory) and `apply.lua` only add it up.
//!
//! Sums are kept by pages: a page of a [`Resolution`] has one cell for each step of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc};
use entity::OrderPlaced;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, Ranking, ReadModel};

/// How long sums by the hour are kept. Those by the day are for ever.
pub const HOURS_RETAINED: Days = Days::new(90);
/// How long sums by ten seconds are kept: until the rate of the last minute does not need them.
const TEN_SECONDS_RETAINED: TimeDelta = TimeDelta::hours(2);
/// Nothing is kept for longer, if not for ever.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Orders in the list of each client.
pub const RECENT_ORDERS: usize = 50;

/// What some orders, or some pieces of a product, add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Orders, or pieces.
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

/// By which steps of time something is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// A page has the days of a year.
    Day,
    /// A page has the hours of a month.
    Hour,
    /// A page has the tens of seconds of an hour.
    TenSeconds,
}

impl Resolution {
    const ALL: [Resolution; 3] = [Resolution::Day, Resolution::Hour, Resolution::TenSeconds];

    /// The page that has this time, and its cell.
    pub fn at(self, time: DateTime<Utc>) -> (String, usize) {
        let (name, cell) = match self {
            Resolution::Day => (time.format("days:%Y"), time.ordinal0()),
            Resolution::Hour => (time.format("hours:%Y-%m"), time.day0() * 24 + time.hour()),
            Resolution::TenSeconds => (time.format("moments:%Y-%m-%dT%H"), time.minute() * 6 + time.second() / 10),
        };
        (name.to_string(), cell as usize)
    }

    /// Whether the page that has this time is kept.
    pub fn is_retained(self, time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.retained_until(time).is_none_or(|until| until > now)
    }

    /// Until when the page that has this time is kept, if not for ever.
    fn retained_until(self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Resolution::Day => None,
            Resolution::Hour => {
                let month = time.date_naive().with_day(1)?.checked_add_months(Months::new(1))?;
                Some(month.checked_add_days(HOURS_RETAINED)?.and_time(NaiveTime::MIN).and_utc())
            }
            Resolution::TenSeconds => time.checked_add_signed(TEN_SECONDS_RETAINED),
        }
    }
}

/// Over which time products are counted.
pub fn products_of_day(day: NaiveDate) -> String {
    day.format("products:%Y-%m-%d").to_string()
}

pub fn products_of_month(day: NaiveDate) -> String {
    day.format("products:%Y-%m").to_string()
}

/// An order in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderSummary {
    pub order_id: Uuid,
    pub client_id: i64,
    pub time: DateTime<Utc>,
    /// Minor units.
    pub total: i64,
    /// How many lines it has.
    pub lines: u32,
}

impl OrderSummary {
    /// As it is stored in a list.
    pub fn to_text(&self) -> String {
        let OrderSummary { order_id, client_id, time, total, lines } = self;
        format!("{} {client_id} {} {total} {lines}", order_id.simple(), time.timestamp_millis())
    }

    pub fn from_text(text: &str) -> Option<OrderSummary> {
        let mut parts = text.split(' ');
        let purchase = OrderSummary {
            order_id: parts.next()?.parse().ok()?,
            client_id: parts.next()?.parse().ok()?,
            time: DateTime::from_timestamp_millis(parts.next()?.parse().ok()?)?,
            total: parts.next()?.parse().ok()?,
            lines: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(purchase)
    }
}

/// An order, whole, as it is kept for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOrder {
    /// Ms since 1970.
    #[serde(with = "chrono::serde::ts_milliseconds")]
    pub time: DateTime<Utc>,
    #[serde(flatten)]
    pub order: OrderPlaced,
}

impl OrderSummary {
    pub fn of(order: &OrderPlaced, time: DateTime<Utc>) -> OrderSummary {
        let OrderPlaced { order_id, client_id, total, ref lines, .. } = *order;
        OrderSummary { order_id, client_id, time, total, lines: lines.len() as u32 }
    }
}

/// Until when an order of that time is kept whole; not at all when that is over.
pub fn kept_until(time: DateTime<Utc>, now: DateTime<Utc>, keep_orders: Duration) -> Option<DateTime<Utc>> {
    let keep = TimeDelta::from_std(keep_orders.min(FOREVER)).ok()?;
    time.checked_add_signed(keep).filter(|until| *until > now)
}

/// What some orders count for in sums.
#[derive(Default)]
pub struct Effects {
    /// By page and cell. Only what is kept now.
    pub counted: BTreeMap<(String, usize), Counted>,
    /// By period and product.
    pub sold: BTreeMap<(String, i64), Sum>,
}

/// What is added to a cell.
#[derive(Default)]
pub struct Counted {
    pub sum: Sum,
    /// When its page goes.
    pub until: Option<DateTime<Utc>>,
}

impl Effects {
    pub fn add(&mut self, order: &OrderPlaced, time: DateTime<Utc>, now: DateTime<Utc>) {
        for resolution in Resolution::ALL.into_iter().filter(|resolution| resolution.is_retained(time, now)) {
            let counted = self.counted.entry(resolution.at(time)).or_default();
            counted.sum.add(Sum { count: 1, revenue: order.total });
            counted.until = resolution.retained_until(time);
        }
        let day = time.date_naive();
        for line in &order.lines {
            let sold = Sum { count: line.quantity.into(), revenue: line.total().unwrap_or(i64::MAX) };
            for period in [products_of_day(day), products_of_month(day)] {
                self.sold.entry((period, line.product_id)).or_default().add(sold);
            }
        }
    }
}

/// How the points of a report lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    Hour,
    Day,
    Month,
}

/// What was sold in some time, for each step of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Each from its time on, without gaps.
    pub points: Vec<(DateTime<Utc>, Sum)>,
    pub total: Sum,
}

/// The times from which on the points lie, from the first day to the last, both included. More than `most` are not needed.
pub fn points(from: NaiveDate, to: NaiveDate, granularity: Granularity, most: usize) -> Vec<DateTime<Utc>> {
    let start = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc();
    let days = || from.iter_days().take_while(move |day| *day <= to);
    match granularity {
        Granularity::Day => days().map(start).take(most).collect(),
        Granularity::Hour => {
            let hours = |day| (0..24).map(move |hour| start(day) + TimeDelta::hours(hour));
            days().flat_map(hours).take(most).collect()
        }
        Granularity::Month => {
            let months = (0..).map_while(|month| from.with_day(1)?.checked_add_months(Months::new(month)));
            months.take_while(|month| *month <= to).map(start).take(most).collect()
        }
    }
}

/// What was sold from the first day to the last, both included.
pub async fn report(
    read_model: &dyn ReadModel,
    from: NaiveDate,
    to: NaiveDate,
    granularity: Granularity,
) -> Result<Report, Error> {
    let resolution = if granularity == Granularity::Hour { Resolution::Hour } else { Resolution::Day };
    let step = if granularity == Granularity::Hour { Granularity::Hour } else { Granularity::Day };
    let steps = points(from, to, step, usize::MAX);
    let mut pages: Vec<String> = steps.iter().map(|time| resolution.at(*time).0).collect();
    pages.dedup();
    let cells: HashMap<String, Vec<Sum>> = pages.iter().cloned().zip(read_model.buckets(&pages).await?).collect();
    let mut report = Report { points: Vec::new(), total: Sum::default() };
    for time in steps {
        let (page, cell) = resolution.at(time);
        let tally = cells.get(&page).and_then(|cells| cells.get(cell)).copied().unwrap_or_default();
        report.total.add(tally);
        let start = if granularity == Granularity::Month { first_of_month(time) } else { time };
        match report.points.last_mut() {
            Some((last, sum)) if *last == start => sum.add(tally),
            _ => report.points.push((start, tally)),
        }
    }
    Ok(report)
}

fn first_of_month(time: DateTime<Utc>) -> DateTime<Utc> {
    time.with_day(1).unwrap_or(time)
}

/// The days and whole months that products are counted in, from the first day to the last, both included.
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

/// The newest orders of all clients, newest first; `count` is at most [`RECENT_ORDERS`]. They are among the newest of the clients that
/// bought last: each of these has one that is as new.
pub async fn latest_orders(read_model: &dyn ReadModel, count: usize) -> Result<Vec<OrderSummary>, Error> {
    let buyers = read_model.ranked_clients(Ranking::LastPurchase, None, count).await?;
    let buyers: Vec<i64> = buyers.iter().map(|place| place.id).collect();
    let mut latest = read_model.recent_orders(&buyers, count).await?.concat();
    latest.sort_by_cached_key(|purchase| Reverse((purchase.time, purchase.order_id)));
    latest.truncate(count);
    Ok(latest)
}

/// What was sold today until now, and about how many orders there were in the last minute.
pub async fn today(read_model: &dyn ReadModel, now: DateTime<Utc>) -> Result<(Sum, i64), Error> {
    let (day, cell) = Resolution::Day.at(now);
    let moments: Vec<_> = (0..=6).map(|tens| Resolution::TenSeconds.at(now - TimeDelta::seconds(10 * tens))).collect();
    let mut pages = vec![day];
    pages.extend(moments.iter().map(|(page, _)| page.clone()));
    pages.dedup();
    let cells = read_model.buckets(&pages).await?;
    let tally = |page: &String, cell: usize| {
        let at = pages.iter().position(|other| other == page);
        at.and_then(|at| cells[at].get(cell)).copied().unwrap_or_default()
    };
    let counts: Vec<i64> = moments.iter().map(|(page, cell)| tally(page, *cell).count).collect();
    // As much of the seventh ten as the one that it is lacks.
    let lacks = 10_000 - now.timestamp_millis().rem_euclid(10_000);
    let rate = counts[..6].iter().sum::<i64>() + (counts[6] * lacks + 5_000) / 10_000;
    Ok((tally(&pages[0], cell), rate))
}
