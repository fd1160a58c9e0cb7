//! Decides which orders the sums have counted, although their client does not include them.
//!
//! A client and the sums change in one atomic step. So a client misses a counted order only if the client itself was lost. Then
//! the sums of the order's time are not short of it, compared with the orders in the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use entity::Event;
use quick_cache::sync::Cache;
use read_model::{Resolution, Sum};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement};

use super::sums::is_within;
use super::{StoreFailed, Verifier, database, read_model};

/// Orders that commit this long after their time do not change a cached sum.
const SETTLED_AFTER: TimeDelta = TimeDelta::minutes(1);
/// Cached spans. A span of a day has at most 48 sums for each partition.
const CACHED_SPANS: usize = 512;

/// The orders of a span of time in the database, added up by partition and step.
#[derive(Clone)]
pub(crate) struct PlacedOrders(Arc<Cache<Span, Arc<Placed>>>);

impl Default for PlacedOrders {
    fn default() -> PlacedOrders {
        PlacedOrders(Arc::new(Cache::new(CACHED_SPANS)))
    }
}

/// Seconds since 1970: the start of the span, its length, and the length of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Span {
    start: i64,
    length: i64,
    step: i64,
}

struct Placed {
    read_at: DateTime<Utc>,
    /// By partition, and seconds since 1970 divided by the step.
    sums: HashMap<(i64, i64), Sum>,
}

impl Verifier {
    /// The versions of these orders of a client that the sums have counted; other events are never counted.
    ///
    /// An order is not counted if each sum that would include it is short of it. The finest sum decides first: the others are
    /// also short of orders that are on their way. If no sum can be read, an order counts as counted, so that no sum becomes too
    /// large.
    pub(super) async fn counted(&self, client: i64, events: &[&Event]) -> Result<BTreeSet<i32>, StoreFailed> {
        let (now, mut counted, mut compared) = (Utc::now(), BTreeSet::new(), BTreeSet::new());
        let mut orders: Vec<(&Event, i64)> =
            events.iter().filter_map(|event| Some((*event, event.order()?.total))).collect();
        if orders.is_empty() || !self.read_model.has_reports().await.map_err(read_model)? {
            return Ok(counted);
        }
        for resolution in [Resolution::TenSeconds, Resolution::HalfHour, Resolution::Day] {
            let mut buckets: BTreeMap<(String, usize), Vec<(&Event, i64)>> = BTreeMap::new();
            for (event, total) in orders.iter().filter(|(event, _)| resolution.is_retained(event.time, now)) {
                buckets.entry(resolution.at(event.time)).or_default().push((event, *total));
            }
            let (keys, groups): (Vec<_>, Vec<_>) = buckets.into_iter().unzip();
            let stored = self.read_model.buckets_of_partition(client, &keys).await.map_err(read_model)?;
            for (group, stored) in groups.into_iter().zip(stored) {
                // Read after the stored sum, so that it has all orders that are counted there.
                let (Some(mut sum), placed) = (stored, self.placed_with(group[0].0.time, resolution, client).await?)
                else {
                    continue;
                };
                compared.extend(group.iter().map(|(event, _)| event.version));
                group.iter().for_each(|(_, total)| sum.add(Sum { count: 1, revenue: *total }));
                if !is_within(sum, placed) {
                    counted.extend(group.iter().map(|(event, _)| event.version));
                }
            }
            orders.retain(|(event, _)| !counted.contains(&event.version));
        }
        counted.extend(orders.iter().map(|(event, _)| event.version).filter(|version| !compared.contains(version)));
        Ok(counted)
    }

    /// The orders in the database that one bucket counts: those of the client's partition in the same step of time.
    async fn placed_with(&self, time: DateTime<Utc>, resolution: Resolution, client: i64) -> Result<Sum, StoreFailed> {
        const HALF_HOUR: i64 = 1_800;
        const DAY: i64 = 48 * HALF_HOUR;
        let (length, step, bucket) = match resolution {
            Resolution::TenSeconds => (2 * HALF_HOUR, 10, 10),
            Resolution::HalfHour => (DAY, HALF_HOUR, HALF_HOUR),
            Resolution::Day => (DAY, HALF_HOUR, DAY),
        };
        let seconds = time.timestamp();
        let (start, from) = (seconds - seconds.rem_euclid(length), seconds - seconds.rem_euclid(bucket));
        let span = Span { start, length, step };
        let is_settled = |placed: &Placed| placed.read_at.timestamp() >= from + bucket + SETTLED_AFTER.num_seconds();
        let placed = match self.placed.0.get(&span).filter(|placed| is_settled(placed)) {
            Some(placed) => placed,
            None => {
                let placed = Arc::new(self.read_placed(span).await?);
                self.placed.0.insert(span, placed.clone());
                placed
            }
        };
        let partition = client.rem_euclid(self.read_model.partition_count().into());
        let mut sum = Sum::default();
        for step in from / step..(from + bucket) / step {
            sum.add(placed.sums.get(&(partition, step)).copied().unwrap_or_default());
        }
        Ok(sum)
    }

    async fn read_placed(&self, Span { start, length, step }: Span) -> Result<Placed, StoreFailed> {
        let (read_at, backend, partitions) =
            (Utc::now(), self.db.get_database_backend(), self.read_model.partition_count());
        let seconds = match backend {
            DbBackend::Postgres => "floor(extract(epoch FROM placed_at))",
            _ => "strftime('%s', placed_at)",
        };
        let sql = format!(
            "SELECT client_id % {partitions} AS partition, CAST({seconds} AS bigint) / {step} AS step, COUNT(*) AS count, \
             CAST(SUM(total) AS bigint) AS revenue FROM orders WHERE placed_at >= $1 AND placed_at < $2 GROUP BY 1, 2"
        );
        let time = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default().into();
        let statement = Statement::from_sql_and_values(backend, sql, [time(start), time(start + length)]);
        let rows = self.db.query_all_raw(statement).await.map_err(database)?;
        let sum = |row: &QueryResult| {
            let sum = Sum { count: row.try_get("", "count")?, revenue: row.try_get("", "revenue")? };
            Ok(((row.try_get("", "partition")?, row.try_get("", "step")?), sum))
        };
        let sums = rows.iter().map(sum).collect::<Result<_, DbErr>>().map_err(database)?;
        Ok(Placed { read_at, sums })
    }
}
