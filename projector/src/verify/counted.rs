//! Decides which orders the sums have counted, although their client does not include them.
//!
//! A client, its recent orders and the sums change in one atomic step. So a client misses a counted order only if the client itself
//! was lost. Its recent orders then show which of its newest orders were counted. For the others the sums do: they are short of an
//! order that they have not counted, compared with the orders in the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use entity::{Event, order};
use read_model::rules::sales::RECENT_ORDERS;
use read_model::{Error, ProjectedClient, Queries, RankedAndRecent, Resolution, Sum};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use tokio::time::Instant;
use tracing::error;

use super::sums::is_within;
use super::{StoreFailed, Verifier, database, read_model};

/// A page and a bucket in it.
type Bucket = (String, usize);

const RESOLUTIONS: [Resolution; 3] = [Resolution::TenSeconds, Resolution::HalfHour, Resolution::Day];

#[derive(Clone, Copy)]
struct MissingOrder {
    version: i32,
    time: DateTime<Utc>,
    total: i64,
}

/// The versions in the recent orders of a client.
struct Recent {
    versions: BTreeSet<i32>,
    /// Whether only the client was lost: the partition still has ranks or recent orders that it does not include.
    is_lost: bool,
}

impl Recent {
    /// Whether the recent orders cannot show if this order was counted.
    fn leaves_open(&self, version: i32) -> bool {
        let are_complete = !self.versions.is_empty() && self.versions.len() < RECENT_ORDERS;
        self.is_lost && !are_complete && self.versions.first().is_none_or(|oldest| version < *oldest)
    }
}

/// Stored sums, and when they had been read.
struct StoredSums {
    sums: HashMap<Bucket, Sum>,
    read_at: Instant,
}

impl Verifier {
    /// The versions of these orders of a client that the sums have counted; other events are never counted.
    ///
    /// An order is not counted only if all stored sums agree that they are short of it. An order of a lost client that its
    /// recent orders do not show is never applied, because the sums may be short of other orders; it is reported.
    pub(super) async fn counted(
        &self,
        client: i64,
        stored: Option<&ProjectedClient>,
        events: &[&Event],
    ) -> Result<BTreeSet<i32>, StoreFailed> {
        let order = |event: &&Event| {
            let total = event.order()?.total;
            Some(MissingOrder { version: event.version, time: event.time, total })
        };
        let orders: Vec<MissingOrder> = events.iter().filter_map(order).collect();
        if orders.is_empty() || !self.read_model.has_reports().await.map_err(read_model)? {
            return Ok(BTreeSet::new());
        }
        let recent = self.recent(client, stored).await?;
        let (shown, mut orders): (Vec<_>, Vec<_>) =
            orders.into_iter().partition(|order| recent.versions.contains(&order.version));
        let (mut counted, mut compared) = (versions(&shown), BTreeSet::new());
        let now = Utc::now();
        let stored = self.stored_sums(client, &orders, now).await?;
        for resolution in RESOLUTIONS {
            for (bucket, mut group) in by_bucket(&orders, resolution, now) {
                let Some(sum) = stored.sums.get(&bucket) else { continue };
                compared.extend(versions(&group));
                if !self.is_short(client, (*sum, stored.read_at), &group, resolution).await? {
                    counted.extend(versions(&group));
                } else if group.iter().any(|order| recent.leaves_open(order.version)) {
                    // Perhaps it is short of other orders.
                    group.retain(|order| recent.leaves_open(order.version));
                    report_ambiguous(client, &group);
                    counted.extend(versions(&group));
                }
            }
            orders.retain(|order| !counted.contains(&order.version));
        }
        counted.extend(versions(&orders).difference(&compared));
        Ok(counted)
    }

    /// Whether a stored sum is short of these orders, compared with the orders in the database.
    async fn is_short(
        &self,
        client: i64,
        (mut sum, read_at): (Sum, Instant),
        missing: &[MissingOrder],
        resolution: Resolution,
    ) -> Result<bool, StoreFailed> {
        let bucket = self.placed_in_bucket(client, missing[0].time, resolution);
        missing.iter().for_each(|order| sum.add(Sum { count: 1, revenue: order.total }));
        // A cached sum is enough to see that the stored one is short, because orders are only added.
        if self.least_placed(&bucket).is_some_and(|least| is_within(sum, least)) {
            return Ok(true);
        }
        // Read after the stored sum, so that it has all orders that are counted there.
        Ok(is_within(sum, self.placed_since(&bucket, read_at).await?))
    }

    /// Reads the sums that would include these orders, in one round trip. Sums that cannot be read are left out.
    async fn stored_sums(
        &self,
        client: i64,
        orders: &[MissingOrder],
        now: DateTime<Utc>,
    ) -> Result<StoredSums, StoreFailed> {
        let buckets = RESOLUTIONS.into_iter().flat_map(|resolution| by_bucket(orders, resolution, now).into_keys());
        let buckets: Vec<Bucket> = buckets.collect();
        let sums = self.read_model.buckets_of_partition(client, &buckets).await.map_err(read_model)?;
        let sums = buckets.into_iter().zip(sums).filter_map(|(bucket, sum)| Some((bucket, sum?))).collect();
        Ok(StoredSums { sums, read_at: Instant::now() })
    }

    async fn recent(&self, client: i64, stored: Option<&ProjectedClient>) -> Result<Recent, StoreFailed> {
        let others = self.read_model.ranked_and_recent(&[client]).await.map_err(read_model)?;
        let has_others = others.iter().any(|others| *others != RankedAndRecent::default());
        let recent = match self.read_model.recent_orders(&[client], RECENT_ORDERS).await {
            Err(Error::Damaged(_)) => Vec::new(),
            recent => recent.map_err(read_model)?.concat(),
        };
        let versions = order::Entity::find().select_only().column(order::Column::Version);
        let versions = versions.filter(order::Column::Id.is_in(recent.into_iter().map(|order| order.order_id)));
        let versions = versions.filter(order::Column::ClientId.eq(client)).into_tuple::<i32>().all(&self.db).await;
        let versions: BTreeSet<i32> = versions.map_err(database)?.into_iter().collect();
        let is_lost = match stored.filter(|stored| stored.newest > 0) {
            // Newer ones may have been applied since the client was read.
            Some(stored) => versions.range(..stored.newest).any(|version| !stored.has(*version)),
            None => has_others,
        };
        Ok(Recent { versions, is_lost })
    }
}

fn versions<'a>(orders: impl IntoIterator<Item = &'a MissingOrder>) -> BTreeSet<i32> {
    orders.into_iter().map(|order| order.version).collect()
}

fn by_bucket(
    orders: &[MissingOrder],
    resolution: Resolution,
    now: DateTime<Utc>,
) -> BTreeMap<Bucket, Vec<MissingOrder>> {
    let mut buckets: BTreeMap<Bucket, Vec<MissingOrder>> = BTreeMap::new();
    for order in orders.iter().filter(|order| resolution.is_retained(order.time, now)) {
        buckets.entry(resolution.at(order.time)).or_default().push(*order);
    }
    buckets
}

fn report_ambiguous(client: i64, orders: &[MissingOrder]) {
    let times = orders.iter().map(|order| order.time);
    let (from, until) = (times.clone().min().unwrap_or_default(), times.max().unwrap_or_default());
    error!(
        client,
        orders = orders.len(),
        %from,
        %until,
        "the sums may not include these orders of a repaired client: run `projector rebuild start`"
    );
}
