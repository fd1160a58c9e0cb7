//! Adds up the orders that the command database has in a span of time, and the cancellations and refunds in it.
//! Each statement reads a day at most, and only by indexes, so that its time depends on the orders of the day and not on those of
//! all years.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use entity::order_event::least_id_at;
use read_model::{Side, Sum};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, TryGetable, Value};
use uuid::Uuid;

use super::{StoreFailed, UNPUBLISHED, Verifier, database};

/// The start and the end of a span of time.
pub(super) type Times = [DateTime<Utc>; 2];
/// By side, and by the start of the hour or of the ten seconds.
pub(super) type Orders = BTreeMap<(Side, String), Sum>;
/// By side and product.
pub(super) type Products = BTreeMap<(Side, i64), Sum>;

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

/// The tables of one side of the sums. `o` is the row of an order, a cancellation or a refund, and `i` one of its items.
pub(super) struct Tables {
    pub rows: &'static str,
    pub time: &'static str,
    pub count: &'static str,
    pub amount: &'static str,
    items: &'static str,
    /// The column of an item that names its row.
    row_id: &'static str,
    item_amount: &'static str,
}

const PLACED: Tables = Tables {
    rows: "orders",
    time: "placed_at",
    count: "COUNT(*)",
    amount: "o.total",
    items: "order_items",
    row_id: "order_id",
    item_amount: "i.unit_price * i.quantity",
};

const REFUNDS: Tables = Tables {
    rows: "order_refunds",
    time: "refunded_at",
    count: "SUM(CASE WHEN o.cancels THEN 1 ELSE 0 END)",
    amount: "o.amount",
    items: "order_refund_items",
    row_id: "refund_id",
    item_amount: "i.amount",
};

impl Tables {
    pub(super) fn of(side: Side) -> &'static Tables {
        match side {
            Side::Gross => &PLACED,
            Side::Cancelled => &REFUNDS,
        }
    }
}

/// The id of a cancellation or a refund is that of its event, so it always has about its time.
pub(super) const NEAR_IDS: &str = "AND o.id >= $3 AND o.id < $4";

/// The least and the end of the ids with about these times.
pub(super) fn near_ids([from, end]: Times) -> [Uuid; 2] {
    [from - CLOSE, end + CLOSE].map(least_id_at)
}

impl Verifier {
    /// Orders by hour.
    pub(super) async fn placed_orders(&self, times: Times, scope: Scope) -> Result<Orders, StoreFailed> {
        let hour = |time: &str| match self.db.get_database_backend() {
            DbBackend::Postgres => format!("to_char(o.{time} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24')"),
            _ => format!("strftime('%Y-%m-%dT%H', o.{time})"),
        };
        self.orders_by(hour, times, scope).await
    }

    /// Orders by ten seconds.
    pub(super) async fn placed_seconds(&self, times: Times, scope: Scope) -> Result<Orders, StoreFailed> {
        let step = |time: &str| match self.db.get_database_backend() {
            DbBackend::Postgres => {
                format!("left(to_char(o.{time} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS'), 18) || '0'")
            }
            _ => format!("substr(strftime('%Y-%m-%dT%H:%M:%S', o.{time}), 1, 18) || '0'"),
        };
        self.orders_by(step, times, scope).await
    }

    async fn orders_by(
        &self,
        step: impl Fn(&str) -> String,
        times: Times,
        scope: Scope,
    ) -> Result<Orders, StoreFailed> {
        let mut orders = Orders::new();
        for side in Side::ALL {
            let Tables { time, count, amount, .. } = Tables::of(side);
            let sums = self.placed((&step(time), count, amount), "", side, times, scope).await?;
            orders.extend(sums.into_iter().map(|(step, sum)| ((side, step), sum)));
        }
        Ok(orders)
    }

    /// Units and revenue of each product.
    pub(super) async fn placed_products(&self, times: Times, scope: Scope) -> Result<Products, StoreFailed> {
        let mut products = Products::new();
        for side in Side::ALL {
            let Tables { items, row_id, item_amount, .. } = Tables::of(side);
            let items = match self.db.get_database_backend() {
                // OFFSET keeps PostgreSQL from reading the whole table for a few days of a young store.
                DbBackend::Postgres => {
                    format!("CROSS JOIN LATERAL (SELECT * FROM {items} WHERE {row_id} = o.id OFFSET 0) i")
                }
                _ => format!("JOIN {items} i ON i.{row_id} = o.id"),
            };
            let sums =
                self.placed(("i.product_id", "SUM(i.quantity)", item_amount), &items, side, times, scope).await?;
            products.extend(sums.into_iter().map(|(product, sum)| ((side, product), sum)));
        }
        Ok(products)
    }

    async fn placed<K: Ord + TryGetable>(
        &self,
        (key, count, amount): (&str, &str, &str),
        items: &str,
        side: Side,
        times: Times,
        scope: Scope,
    ) -> Result<BTreeMap<K, Sum>, StoreFailed> {
        let ([from, _], Tables { rows, time, .. }) = (times, Tables::of(side));
        let mut values: Vec<Value> = times.map(Into::into).into();
        let (mut pending, mut condition) = (String::new(), String::new());
        if scope == Scope::NearIds || side == Side::Cancelled {
            values.extend(near_ids(times).map(Value::from));
            condition += NEAR_IDS;
        } else if scope == Scope::Published {
            // The event of an order is not older than the order.
            values.push(least_id_at(from - CLOSE).into());
        }
        if scope == Scope::Published {
            pending = pending_events();
            condition += " AND NOT EXISTS (SELECT 1 FROM pending \
                          WHERE pending.client_id = o.client_id AND pending.version = o.version)";
        }
        let sql = format!(
            "{pending} SELECT {key} AS key, CAST({count} AS bigint) AS count, CAST(SUM({amount}) AS bigint) AS revenue \
             FROM {rows} o {items} WHERE o.{time} >= $1 AND o.{time} < $2 {condition} GROUP BY 1"
        );
        let statement = Statement::from_sql_and_values(self.db.get_database_backend(), sql, values);
        let rows = self.db.query_all_raw(statement).await.map_err(database)?;
        let sums = rows.iter().map(|row| Ok((row.try_get("", "key")?, sum_of(row)?)));
        // An item of which nothing was refunded has no sum.
        let sums = sums.filter(|sum| sum.as_ref().map_or(true, |(_, sum)| *sum != Sum::default()));
        sums.collect::<Result<_, DbErr>>().map_err(database)
    }
}

/// The columns `count` and `revenue`.
pub(super) fn sum_of(row: &QueryResult) -> Result<Sum, DbErr> {
    Ok(Sum { count: row.try_get("", "count")?, revenue: row.try_get("", "revenue")? })
}

/// The client and version of each event that is not published. Each is looked up by its id, however many PostgreSQL expects.
fn pending_events() -> String {
    format!(
        "WITH pending AS (
            SELECT (SELECT client_id FROM order_events WHERE id = event_id) AS client_id,
                   (SELECT version FROM order_events WHERE id = event_id) AS version
            FROM ({UNPUBLISHED}) AS ids WHERE event_id >= $3)"
    )
}
