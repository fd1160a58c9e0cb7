//! Compares sales sums with the orders in the command database while both are in use: the orders of each hour, day and month,
//! and of each product.
//!
//! Sums only grow. So a sum is right when it is at least that of the orders whose events had left the outbox before it was read
//! (`in_flight` before, unless it is right earlier), and at most that of the orders in the database afterwards.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::ControlFlow;

use anyhow::Context;
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, Utc};
use entity::order;
use read_model::reports::{Granularity, report};
use read_model::rules::sales::{products_of_day, products_of_month};
use read_model::{Queries, Resolution, Sum};
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryOrder, QueryResult, QuerySelect, Statement, TryGetable,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{LOOK_AGAIN, Verifier, database, read_model as failed};

/// A sum that differs. Only a rebuild of the read model repairs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrongSum {
    /// A month such as "2026-01", a day such as "2026-01-31", or an hour such as "2026-01-31T23".
    pub period: String,
    /// The product whose units are counted, or absent for all orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<i64>,
    pub sum: Sum,
    /// The bounds of the right sum.
    pub least: Sum,
    pub most: Sum,
}

impl fmt::Display for WrongSum {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (subject, unit) = match self.product {
            Some(product) => (format!("{} product {product}", self.period), "units"),
            None => (self.period.clone(), "orders"),
        };
        let expected = if self.is_short() { self.least } else { self.most };
        let Sum { count, revenue } = self.sum;
        let Sum { count: expected_count, revenue: expected_revenue } = expected;
        write!(
            f,
            "{subject:<20} wrong sum: {revenue} for {count} {unit}, expected {expected_revenue} for {expected_count}"
        )
    }
}

impl WrongSum {
    fn is_short(&self) -> bool {
        !is_within(self.least, self.sum)
    }
}

pub(super) fn is_within(one: Sum, other: Sum) -> bool {
    one.count <= other.count && one.revenue <= other.revenue
}

/// The sums that are not between `least` and `most`. An absent sum is zero.
fn wrong<K: Ord + Clone>(
    sums: &BTreeMap<K, Sum>,
    least: &BTreeMap<K, Sum>,
    most: &BTreeMap<K, Sum>,
    name: impl Fn(&K) -> (String, Option<i64>),
) -> Vec<WrongSum> {
    let keys: BTreeSet<&K> = sums.keys().chain(most.keys()).collect();
    let of = |all: &BTreeMap<K, Sum>, key| all.get(key).copied().unwrap_or_default();
    let compared = keys.into_iter().map(|key| {
        let (period, product) = name(key);
        WrongSum { period, product, sum: of(sums, key), least: of(least, key), most: of(most, key) }
    });
    compared.filter(|one| one.is_short() || !is_within(one.sum, one.most)).collect()
}

/// Few events are in the outbox, so this is a small table.
const JOIN_PENDING: &str =
    "LEFT JOIN (SELECT e.client_id, e.version FROM outbox JOIN order_events e ON e.id = outbox.event_id) pending
    ON pending.client_id = o.client_id AND pending.version = o.version";

type Times = [DateTime<Utc>; 2];

fn times(from: NaiveDate, end: NaiveDate) -> Times {
    [from, end].map(|day| day.and_time(NaiveTime::MIN).and_utc())
}

impl Verifier {
    /// Compares all sums, month by month, then those again that were too small. Calls `each` after every step with wrong sums.
    pub async fn sums(&self, mut each: impl FnMut(Vec<WrongSum>) -> ControlFlow<()>) -> anyhow::Result<()> {
        let first = order::Entity::find().order_by_asc(order::Column::Id).select_only().column(order::Column::PlacedAt);
        let first = first.into_tuple::<DateTime<Utc>>().one(&self.db).await.map_err(database)?;
        let today = Utc::now().date_naive();
        let mut month = first.map_or(today, |first| first.date_naive()).with_day(1).context("a month")?;
        let mut short = Vec::new();
        while month <= today {
            let (too_small, too_large) = self.month(month).await?.into_iter().partition(WrongSum::is_short);
            if each(too_large).is_break() {
                return Ok(());
            }
            short.push((month, too_small));
            month = next_month(month)?;
        }
        let compared = Instant::now();
        short.retain(|(_, sums)| !sums.is_empty());
        while !short.is_empty() {
            sleep(LOOK_AGAIN.min(self.in_flight)).await;
            let is_overdue = compared.elapsed() >= self.in_flight;
            for (month, sums) in &mut short {
                let mut again = self.month(*month).await?;
                let is_same = |one: &WrongSum, other: &WrongSum| {
                    (&one.period, one.product) == (&other.period, other.product) && !is_within(one.least, other.sum)
                };
                again.retain(|sum| sums.iter().any(|first| is_same(first, sum)));
                sums.retain(|first| again.iter().any(|sum| is_same(first, sum)));
                if each(if is_overdue { again } else { Vec::new() }).is_break() {
                    return Ok(());
                }
            }
            short.retain(|(_, sums)| !sums.is_empty() && !is_overdue);
        }
        Ok(())
    }

    async fn month(&self, month: NaiveDate) -> anyhow::Result<Vec<WrongSum>> {
        let next = next_month(month)?;
        let (mut found, days) = self.orders(month, next).await?;
        // A day at a time: there may be many products.
        for day in days {
            let tomorrow = day.checked_add_days(Days::new(1)).context("the end of time")?;
            found.extend(self.sold(products_of_day(day), times(day, tomorrow)).await?);
        }
        found.extend(self.sold(products_of_month(month), times(month, next)).await?);
        Ok(found)
    }

    /// Compares the orders of each day, and of each hour if hours are retained. Also returns the days with orders.
    async fn orders(&self, month: NaiveDate, next: NaiveDate) -> anyhow::Result<(Vec<WrongSum>, Vec<NaiveDate>)> {
        let (times, last) = (times(month, next), next.pred_opt().context("the beginning of time")?);
        let hour = match self.db.get_database_backend() {
            DbBackend::Postgres => "to_char(o.placed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24')",
            _ => "strftime('%Y-%m-%dT%H', o.placed_at)",
        };
        let sums = (hour, "COUNT(*)", "o.total");
        let least = self.placed::<String>(sums, times, true).await?;
        let (mut stored, mut granularities) = (BTreeMap::new(), vec![(Granularity::Day, "%Y-%m-%d")]);
        if Resolution::Hour.is_retained(times[0], Utc::now()) {
            granularities.push((Granularity::Hour, "%Y-%m-%dT%H"));
        }
        let hours_kept = granularities.len() > 1;
        for (granularity, format) in granularities {
            let report = report(&self.read_model, month, last, granularity).await.map_err(failed)?;
            stored.extend(report.points.into_iter().map(|(start, sum)| (start.format(format).to_string(), sum)));
        }
        let most = self.placed::<String>(sums, times, false).await?;
        let with_days = |hours: BTreeMap<String, Sum>| {
            let mut all = BTreeMap::new();
            for (hour, sum) in hours {
                all.entry(hour[..10].to_owned()).or_insert_with(Sum::default).add(sum);
                if hours_kept {
                    all.insert(hour, sum);
                }
            }
            all
        };
        let most = with_days(most);
        let found = wrong(&stored, &with_days(least), &most, |period| (period.clone(), None));
        let had_any = |day: &NaiveDate| {
            let sum = stored.get(&day.to_string()).copied().unwrap_or_default();
            sum != Sum::default() || most.contains_key(&day.to_string())
        };
        Ok((found, month.iter_days().take_while(|day| *day < next).filter(had_any).collect()))
    }

    async fn sold(&self, name: String, times: Times) -> anyhow::Result<Vec<WrongSum>> {
        let sums = ("i.product_id", "CAST(SUM(i.quantity) AS bigint)", "i.unit_price * i.quantity");
        let least = self.placed::<i64>(sums, times, true).await?;
        let stored: HashMap<i64, Sum> =
            self.read_model.product_sales(std::slice::from_ref(&name)).await.map_err(failed)?;
        let most = self.placed::<i64>(sums, times, false).await?;
        let period = name.trim_start_matches("products:");
        Ok(wrong(&stored.into_iter().collect(), &least, &most, |product| (period.to_owned(), Some(*product))))
    }

    /// The sums of orders that were placed between two times: of all, or of those whose events are not in the outbox.
    async fn placed<K: Ord + TryGetable>(
        &self,
        (key, count, amount): (&str, &str, &str),
        times: Times,
        only_published: bool,
    ) -> anyhow::Result<BTreeMap<K, Sum>> {
        let items = if key.starts_with("i.") { "JOIN order_items i ON i.order_id = o.id" } else { "" };
        let (pending, published) =
            if only_published { (JOIN_PENDING, "AND pending.version IS NULL") } else { ("", "") };
        let sql = format!(
            "SELECT {key} AS key, {count} AS count, CAST(SUM({amount}) AS bigint) AS revenue FROM orders o {items} {pending} \
             WHERE o.placed_at >= $1 AND o.placed_at < $2 {published} GROUP BY 1"
        );
        let values = times.into_iter().map(Into::into);
        let statement = Statement::from_sql_and_values(self.db.get_database_backend(), sql, values);
        let rows = self.db.query_all_raw(statement).await.map_err(database)?;
        let sum = |row: &QueryResult| {
            let sum = Sum { count: row.try_get("", "count")?, revenue: row.try_get("", "revenue")? };
            Ok((row.try_get("", "key")?, sum))
        };
        Ok(rows.iter().map(sum).collect::<Result<_, DbErr>>().map_err(database)?)
    }
}

fn next_month(month: NaiveDate) -> anyhow::Result<NaiveDate> {
    month.checked_add_months(Months::new(1)).context("the end of time")
}
