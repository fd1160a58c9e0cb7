//! The orders in the database, or their cancellations and refunds, added up by partition and step of time, and cached for all clients
//! that are repaired.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use read_model::{Resolution, Side, Sum};
use runtime::single_flight::SingleFlight;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, QueryResult, Statement, Value};
use tokio::time::Instant;

use super::placed::{NEAR_IDS, Tables, near_ids, sum_of};
use super::{StoreFailed, Verifier, database};

/// How long after the end of a step its sum may be cached: by then every order with a time in the step has committed. (Assumes
/// clocks that agree within this time.)
const STEP_SETTLED_AFTER: TimeDelta = TimeDelta::minutes(1);
/// Cached spans. A client may have orders on each day of some years.
const CACHED_SPANS: usize = 4_096;
/// Cached sums of all spans, about 50 MB. For each partition a span has at most 48 sums of half hours, or 360 of ten seconds.
const CACHED_SUMS: u64 = 1 << 20;

/// The orders of spans of time. Concurrent repairs share a statement.
#[derive(Clone)]
pub(crate) struct PlacedOrders(Arc<SingleFlight<Span, Arc<Placed>, StoreFailed>>);

impl Default for PlacedOrders {
    fn default() -> PlacedOrders {
        let sums = |placed: &Arc<Placed>| 1 + placed.sums.len() as u64;
        PlacedOrders(Arc::new(SingleFlight::with_weight(CACHED_SPANS, CACHED_SUMS, sums)))
    }
}

/// A side, and seconds since 1970: the start of the span, its length, and the length of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Span {
    side: Side,
    start: i64,
    length: i64,
    step: i64,
}

struct Placed {
    read_at: DateTime<Utc>,
    /// By partition, and seconds since 1970 divided by the step.
    sums: HashMap<(i64, i64), Sum>,
}

/// The orders of one partition in one step of time: those that one bucket counts.
pub(super) struct PlacedInBucket {
    partition: i64,
    /// Seconds since 1970.
    from: i64,
    length: i64,
    span: Span,
}

impl PlacedInBucket {
    fn sum(&self, placed: &Placed) -> Sum {
        let mut sum = Sum::default();
        for step in self.from / self.span.step..(self.from + self.length) / self.span.step {
            sum.add(placed.sums.get(&(self.partition, step)).copied().unwrap_or_default());
        }
        sum
    }

    fn is_settled(&self, placed: &Placed) -> bool {
        placed.read_at.timestamp() >= self.from + self.length + STEP_SETTLED_AFTER.num_seconds()
    }
}

impl Verifier {
    /// The orders of a client's partition in the step of this time.
    pub(super) fn placed_in_bucket(
        &self,
        client: i64,
        side: Side,
        time: DateTime<Utc>,
        resolution: Resolution,
    ) -> PlacedInBucket {
        let (span, steps_of) = match resolution {
            Resolution::TenSeconds => (TimeDelta::hours(1), resolution),
            // The same span as that of the half hours if they are stored.
            Resolution::Day if Resolution::HalfHour.is_retained(time, Utc::now()) => {
                (TimeDelta::days(1), Resolution::HalfHour)
            }
            Resolution::HalfHour | Resolution::Day => (TimeDelta::days(1), resolution),
        };
        let [span, step, length] = [span, steps_of.step(), resolution.step()].map(|length| length.num_seconds());
        let start_of = |length| time.timestamp() - time.timestamp().rem_euclid(length);
        PlacedInBucket {
            partition: client.rem_euclid(self.read_model.partition_count().into()),
            from: start_of(length),
            length,
            span: Span { side, start: start_of(span), length: span, step },
        }
    }

    /// The cached sum. The database has at least these orders.
    pub(super) fn least_placed(&self, bucket: &PlacedInBucket) -> Option<Sum> {
        self.placed.0.peek(&bucket.span).map(|placed| bucket.sum(&placed))
    }

    /// The sum that the database had at this time or later.
    pub(super) async fn placed_since(&self, bucket: &PlacedInBucket, time: Instant) -> Result<Sum, StoreFailed> {
        if let Some(settled) = self.placed.0.peek(&bucket.span).filter(|placed| bucket.is_settled(placed)) {
            return Ok(bucket.sum(&settled));
        }
        let read = read_placed(self.db.clone(), self.read_model.partition_count(), bucket.span);
        let placed = self.placed.0.get(bucket.span, time.elapsed(), read).await?;
        Ok(bucket.sum(&placed))
    }
}

async fn read_placed(
    db: DatabaseConnection,
    partitions: u16,
    Span { side, start, length, step }: Span,
) -> Result<Arc<Placed>, StoreFailed> {
    let (read_at, backend) = (Utc::now(), db.get_database_backend());
    let Tables { rows, time, count, amount, .. } = Tables::of(side);
    let seconds = match backend {
        DbBackend::Postgres => format!("floor(extract(epoch FROM o.{time}))"),
        _ => format!("strftime('%s', o.{time})"),
    };
    let times = [start, start + length].map(|seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default());
    let mut values: Vec<Value> = times.map(Into::into).into();
    let mut condition = "";
    if side == Side::Cancelled {
        values.extend(near_ids(times).map(Value::from));
        condition = NEAR_IDS;
    }
    let sql = format!(
        "SELECT o.client_id % {partitions} AS partition, CAST({seconds} AS bigint) / {step} AS step, \
         CAST({count} AS bigint) AS count, CAST(SUM({amount}) AS bigint) AS revenue \
         FROM {rows} o WHERE o.{time} >= $1 AND o.{time} < $2 {condition} GROUP BY 1, 2"
    );
    let statement = Statement::from_sql_and_values(backend, sql, values);
    let rows = db.query_all_raw(statement).await.map_err(database)?;
    let sum = |row: &QueryResult| Ok(((row.try_get("", "partition")?, row.try_get("", "step")?), sum_of(row)?));
    let sums = rows.iter().map(sum).collect::<Result<_, DbErr>>().map_err(database)?;
    Ok(Arc::new(Placed { read_at, sums }))
}
