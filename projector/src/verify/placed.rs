//! Adds up the orders that the command database has in a span of time. Each statement reads a day at most, and only by indexes,
//! so that its time depends on the orders of the day and not on those of all years.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use entity::order_event::least_id_at;
use read_model::Sum;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, TryGetable, Value};

use super::{StoreFailed, UNPUBLISHED, Verifier, database};

/// The start and the end of a span of time.
pub(super) type Times = [DateTime<Utc>; 2];
/// By the start of the hour or of the ten seconds.
pub(super) type Orders = BTreeMap<String, Sum>;
pub(super) type Products = BTreeMap<i64, Sum>;

/// The id of an order has the time at which the api made it, which is close to the time of the order.
const CLOSE: TimeDelta = TimeDelta::minutes(10);

/// The orders that are added up.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scope {
    All,
    /// Orders whose events are published.
    Published,
    /// All orders whose ids have about their time. These are all that this service has placed, and they are found at once.
    NearIds,
}

pub(super) fn of_day(day: NaiveDate) -> Times {
    let start = day.and_time(NaiveTime::MIN).and_utc();
    [start, start + TimeDelta::days(1)]
}

impl Verifier {
    /// Orders by hour.
    pub(super) async fn placed_orders(&self, times: Times, scope: Scope) -> Result<Orders, StoreFailed> {
        let hour = match self.db.get_database_backend() {
            DbBackend::Postgres => "to_char(o.placed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24')",
            _ => "strftime('%Y-%m-%dT%H', o.placed_at)",
        };
        self.placed((hour, "COUNT(*)", "o.total"), "", times, scope).await
    }

    /// Orders by ten seconds.
    pub(super) async fn placed_seconds(&self, times: Times, scope: Scope) -> Result<Orders, StoreFailed> {
        let step = match self.db.get_database_backend() {
            DbBackend::Postgres => {
                "left(to_char(o.placed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS'), 18) || '0'"
            }
            _ => "substr(strftime('%Y-%m-%dT%H:%M:%S', o.placed_at), 1, 18) || '0'",
        };
        self.placed((step, "COUNT(*)", "o.total"), "", times, scope).await
    }

    /// Units and revenue of each product.
    pub(super) async fn placed_products(&self, times: Times, scope: Scope) -> Result<Products, StoreFailed> {
        let items = match self.db.get_database_backend() {
            // OFFSET keeps PostgreSQL from reading the whole table for a few days of a young store.
            DbBackend::Postgres => "CROSS JOIN LATERAL (SELECT * FROM order_items WHERE order_id = o.id OFFSET 0) i",
            _ => "JOIN order_items i ON i.order_id = o.id",
        };
        let sums = ("i.product_id", "CAST(SUM(i.quantity) AS bigint)", "i.unit_price * i.quantity");
        self.placed(sums, items, times, scope).await
    }

    async fn placed<K: Ord + TryGetable>(
        &self,
        (key, count, amount): (&str, &str, &str),
        items: &str,
        times: Times,
        scope: Scope,
    ) -> Result<BTreeMap<K, Sum>, StoreFailed> {
        let [from, end] = times;
        let mut values: Vec<Value> = times.map(Into::into).into();
        let (pending, condition) = match scope {
            Scope::All => (String::new(), ""),
            Scope::NearIds => {
                values.extend([least_id_at(from - CLOSE), least_id_at(end + CLOSE)].map(Value::from));
                (String::new(), "AND o.id >= $3 AND o.id < $4")
            }
            Scope::Published => {
                // The event of an order is not older than the order.
                values.push(least_id_at(from - CLOSE).into());
                (
                    pending(),
                    "AND NOT EXISTS (SELECT 1 FROM pending WHERE pending.client_id = o.client_id AND pending.version = o.version)",
                )
            }
        };
        let sql = format!(
            "{pending} SELECT {key} AS key, {count} AS count, CAST(SUM({amount}) AS bigint) AS revenue FROM orders o {items} \
             WHERE o.placed_at >= $1 AND o.placed_at < $2 {condition} GROUP BY 1"
        );
        let statement = Statement::from_sql_and_values(self.db.get_database_backend(), sql, values);
        let rows = self.db.query_all_raw(statement).await.map_err(database)?;
        rows.iter()
            .map(|row| Ok((row.try_get("", "key")?, sum_of(row)?)))
            .collect::<Result<_, DbErr>>()
            .map_err(database)
    }
}

/// The columns `count` and `revenue`.
pub(super) fn sum_of(row: &QueryResult) -> Result<Sum, DbErr> {
    Ok(Sum { count: row.try_get("", "count")?, revenue: row.try_get("", "revenue")? })
}

/// The client and version of each event that is not published. Each is looked up by its id, however many PostgreSQL expects.
fn pending() -> String {
    format!(
        "WITH pending AS (
            SELECT (SELECT client_id FROM order_events WHERE id = event_id) AS client_id,
                   (SELECT version FROM order_events WHERE id = event_id) AS version
            FROM ({UNPUBLISHED}) AS ids WHERE event_id >= $3)"
    )
}
