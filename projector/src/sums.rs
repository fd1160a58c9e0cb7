//! Compares what the read model says was sold, in each hour and on each day, in all and of each product, with the orders in
//! the command database, while both are in use.
//!
//! What is sold only grows. So a sum is right when it is not below what the database had before it was read, and not above
//! what the database has afterwards; what is on its way gets some time to arrive. Where nothing is placed the two are one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Context;
use chrono::{Months, NaiveDate, NaiveTime, Utc};
use read_model::sales::{Granularity, Scale, Sold, products, products_of_month, report};
use read_model::{ReadModel, Redis};
use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::verify::{Verifier, database, read_model as failed};

/// Pause before sums are read again that were not right.
const PAUSE: Duration = Duration::from_millis(200);

/// What is summed: a day such as "2026-01-31", an hour such as "2026-01-31T23", or, of a product, a month such as "2026-01".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Sum {
    pub period: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<i64>,
}

/// How much of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Orders, or pieces of a product.
    pub count: i64,
    /// Minor units.
    pub revenue: i64,
}

impl Amount {
    fn is_within(self, other: Amount) -> bool {
        self.count <= other.count && self.revenue <= other.revenue
    }
}

/// A sum that is not right. It is not repaired by itself: the rebuild of the read model does that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrongSum {
    #[serde(flatten)]
    pub sum: Sum,
    pub amount: Amount,
    pub expected: Amount,
}

impl WrongSum {
    /// Whether it may only lack what is on its way.
    pub fn is_late(&self) -> bool {
        self.amount.is_within(self.expected)
    }
}

impl fmt::Display for WrongSum {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Sum { period, product } = &self.sum;
        let (of, what) = match product {
            Some(product) => (format!("{period} product {product}"), "pieces"),
            None => (period.clone(), "orders"),
        };
        let (amount, expected) = (self.amount, self.expected);
        write!(
            f,
            "{of:<19} differs: {} {what} for {} in all, where {} for {} were sold",
            amount.count, amount.revenue, expected.count, expected.revenue
        )
    }
}

type Sums = BTreeMap<Sum, Amount>;

#[derive(FromQueryResult)]
struct Row {
    period: String,
    product: Option<i64>,
    count: i64,
    revenue: i64,
}

impl Verifier {
    /// Compares all sums, a month at a time; calls `each` after every one with what is wrong.
    pub async fn sums(&self, mut each: impl FnMut(Vec<WrongSum>) -> ControlFlow<()>) -> anyhow::Result<()> {
        for month in self.months().await? {
            if each(self.sums_of(month).await?).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The months in which something was sold, as either store says.
    async fn months(&self) -> anyhow::Result<BTreeSet<NaiveDate>> {
        let sql = format!("SELECT DISTINCT substr({}, 1, 7) AS month FROM orders", self.hour());
        let rows = self.db.query_all_raw(self.statement(sql)).await.map_err(database)?;
        let month = |row: &sea_orm::QueryResult| row.try_get::<String>("", "month");
        let months = rows.iter().map(month).collect::<Result<Vec<_>, _>>().map_err(database)?;
        let day = |month: &String| NaiveDate::parse_from_str(&format!("{month}-01"), "%Y-%m-%d").context("a month");
        let mut months = months.iter().map(day).collect::<Result<BTreeSet<_>, _>>()?;
        // Between the first and the last there may be some in the read model alone.
        if let (Some(first), Some(last)) = (months.first().copied(), months.last().copied()) {
            let stored = report(&self.read_model, first, last, Granularity::Month).await.map_err(failed)?;
            let sold = stored.points.iter().filter(|(_, tally)| tally.orders != 0 || tally.revenue != 0);
            months.extend(sold.map(|(start, _)| start.date_naive()));
        }
        Ok(months)
    }

    async fn sums_of(&self, month: NaiveDate) -> anyhow::Result<Vec<WrongSum>> {
        let deadline = Instant::now() + self.in_flight;
        let before = self.placed(month).await?;
        loop {
            let stored = stored(&self.read_model, month).await?;
            let after = self.placed(month).await?;
            let of = |sums: &Sums, sum: &Sum| sums.get(sum).copied().unwrap_or_default();
            // Hours are compared where they are kept.
            let hours_kept = stored.keys().any(|sum| sum.period.len() == "2026-01-31T23".len());
            let mut wrong = Vec::new();
            for sum in stored.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
                let (amount, expected) = (of(&stored, sum), of(&after, sum));
                let is_hour = sum.period.contains('T');
                let is_right = of(&before, sum).is_within(amount) && amount.is_within(expected);
                if !is_right && (!is_hour || hours_kept) {
                    wrong.push(WrongSum { sum: sum.clone(), amount, expected });
                }
            }
            // What is too much does not become right.
            if wrong.iter().any(|wrong| !wrong.is_late()) || wrong.is_empty() || Instant::now() >= deadline {
                return Ok(wrong);
            }
            sleep(PAUSE).await;
        }
    }

    /// What was sold in a month, by the orders.
    async fn placed(&self, month: NaiveDate) -> anyhow::Result<Sums> {
        let start = month.and_time(NaiveTime::MIN).and_utc();
        let end = start.checked_add_months(Months::new(1)).context("the end of time")?;
        let (hour, range) = (self.hour(), "WHERE o.placed_at >= $1 AND o.placed_at < $2");
        let orders = format!(
            "SELECT {hour} AS period, CAST(NULL AS bigint) AS product, COUNT(*) AS count, \
             CAST(SUM(o.total) AS bigint) AS revenue FROM orders o {range} GROUP BY 1"
        );
        let items = format!(
            "SELECT substr({hour}, 1, 10) AS period, i.product_id AS product, \
             CAST(SUM(i.quantity) AS bigint) AS count, CAST(SUM(i.unit_price * i.quantity) AS bigint) AS revenue \
             FROM orders o JOIN order_items i ON i.order_id = o.id {range} GROUP BY 1, 2"
        );
        let mut sums = Sums::new();
        for sql in [orders, items] {
            let values = [start.into(), end.into()];
            let statement = Statement::from_sql_and_values(self.db.get_database_backend(), sql, values);
            for Row { period, product, count, revenue } in
                Row::find_by_statement(statement).all(&self.db).await.map_err(database)?
            {
                // Also in what it is a part of.
                let part_of = if product.is_none() { &period[..10] } else { &period[..7] };
                for period in [part_of.to_owned(), period] {
                    let sum = sums.entry(Sum { period, product }).or_default();
                    *sum = Amount { count: sum.count + count, revenue: sum.revenue.saturating_add(revenue) };
                }
            }
        }
        Ok(sums)
    }

    /// The hour of an order, as text.
    fn hour(&self) -> &'static str {
        match self.db.get_database_backend() {
            DbBackend::Postgres => "to_char(placed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24')",
            _ => "strftime('%Y-%m-%dT%H', placed_at)",
        }
    }

    fn statement(&self, sql: String) -> Statement {
        Statement::from_string(self.db.get_database_backend(), sql)
    }
}

/// What was sold in a month, by the read model.
async fn stored(read_model: &Redis, month: NaiveDate) -> anyhow::Result<Sums> {
    let last = month.checked_add_months(Months::new(1)).and_then(|next| next.pred_opt()).context("the end of time")?;
    let mut sums = Sums::new();
    let hours_kept = Scale::Hour.is_kept(month.and_time(NaiveTime::MIN).and_utc(), Utc::now());
    for (granularity, format) in [(Granularity::Day, "%Y-%m-%d"), (Granularity::Hour, "%Y-%m-%dT%H")] {
        if granularity == Granularity::Hour && !hours_kept {
            continue;
        }
        for (start, tally) in report(read_model, month, last, granularity).await.map_err(failed)?.points {
            let sum = Sum { period: start.format(format).to_string(), product: None };
            sums.insert(sum, Amount { count: tally.orders, revenue: tally.revenue });
        }
    }
    let mut add = |period: String, sold: HashMap<i64, Sold>| {
        sums.extend(sold.into_iter().map(|(product, sold)| {
            let amount = Amount { count: sold.units, revenue: sold.revenue };
            (Sum { period: period.clone(), product: Some(product) }, amount)
        }));
    };
    let whole = read_model.sold(&[products_of_month(month)]).await.map_err(failed)?;
    add(month.format("%Y-%m").to_string(), whole);
    for day in month.iter_days().take_while(|day| *day <= last) {
        add(day.to_string(), products(read_model, day, day).await.map_err(failed)?);
    }
    Ok(sums)
}
