//! Decides which orders, cancellations and refunds the sums have counted, although their client does not include them.
//!
//! A client, its recent orders and the sums change in one atomic step. So a client misses a counted event only if the client itself
//! was lost. Its recent orders then show which of its newest orders were counted. For all other events the sums do: they are short
//! of an event that they have not counted, compared with the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use entity::{Event, order};
use read_model::rules::sales::{RECENT_ORDERS, contribution};
use read_model::{Error, ProjectedClient, Queries, RankedAndRecent, Resolution, Side, Sum};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use tokio::time::Instant;
use tracing::error;

use super::wrong_sum::is_within;
use super::{StoreFailed, Verifier, database, read_model};

/// A page and a bucket in it.
type Bucket = (String, usize);

const RESOLUTIONS: [Resolution; 3] = [Resolution::TenSeconds, Resolution::HalfHour, Resolution::Day];

/// An order, a cancellation or a refund that the client does not include.
#[derive(Clone, Copy)]
struct MissingEvent {
    version: i32,
    time: DateTime<Utc>,
    /// What it adds to the sums.
    side: Side,
    sum: Sum,
}

/// The versions in the recent orders of a client.
struct Recent {
    versions: BTreeSet<i32>,
    /// Whether only the client was lost: the partition still has ranks or recent orders that it does not include.
    is_lost: bool,
}

impl Recent {
    /// Whether the recent orders cannot show if this event was counted. They show no cancellations and no refunds.
    fn leaves_open(&self, event: &MissingEvent) -> bool {
        let are_complete = !self.versions.is_empty() && self.versions.len() < RECENT_ORDERS;
        let is_recent = self.versions.first().is_some_and(|oldest| event.version >= *oldest);
        self.is_lost && !(event.side == Side::Gross && (are_complete || is_recent))
    }
}

/// Stored sums, and when they had been read.
struct StoredSums {
    sums: HashMap<Bucket, Sum>,
    read_at: Instant,
}

impl Verifier {
    /// The versions of these events of a client that the sums have counted; changes of the client are never counted.
    ///
    /// An event is not counted only if all stored sums agree that they are short of it. An event of a lost client that its
    /// recent orders do not show is never applied, because the sums may be short of other events; it is reported.
    pub(super) async fn counted(
        &self,
        client: i64,
        stored: Option<&ProjectedClient>,
        events: &[&Event],
    ) -> Result<BTreeSet<i32>, StoreFailed> {
        let missing = |event: &&Event| {
            let (side, sum) = contribution(event)?;
            Some(MissingEvent { version: event.version, time: event.time, side, sum })
        };
        let missing: Vec<MissingEvent> = events.iter().filter_map(missing).collect();
        if missing.is_empty() || !self.read_model.has_reports().await.map_err(read_model)? {
            return Ok(BTreeSet::new());
        }
        let recent = self.recent(client, stored).await?;
        let (shown, mut missing): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|event| recent.versions.contains(&event.version));
        let (mut counted, mut compared) = (versions(&shown), BTreeSet::new());
        let now = Utc::now();
        let stored = self.stored_sums(client, &missing, now).await?;
        for resolution in RESOLUTIONS {
            for (bucket, mut group) in by_bucket(&missing, resolution, now) {
                let Some(sum) = stored.sums.get(&bucket) else { continue };
                compared.extend(versions(&group));
                if !self.is_short(client, (*sum, stored.read_at), &group, resolution).await? {
                    counted.extend(versions(&group));
                } else if group.iter().any(|event| recent.leaves_open(event)) {
                    // Perhaps it is short of other events.
                    group.retain(|event| recent.leaves_open(event));
                    report_ambiguous(client, &group);
                    counted.extend(versions(&group));
                }
            }
            missing.retain(|event| !counted.contains(&event.version));
        }
        counted.extend(versions(&missing).difference(&compared));
        Ok(counted)
    }

    /// Whether a stored sum is short of these events, compared with the database.
    async fn is_short(
        &self,
        client: i64,
        (mut sum, read_at): (Sum, Instant),
        missing: &[MissingEvent],
        resolution: Resolution,
    ) -> Result<bool, StoreFailed> {
        let bucket = self.placed_in_bucket(client, missing[0].side, missing[0].time, resolution);
        missing.iter().for_each(|event| sum.add(event.sum));
        // A cached sum is enough to see that the stored one is short, because sums only grow.
        if self.least_placed(&bucket).is_some_and(|least| is_within(sum, least)) {
            return Ok(true);
        }
        // Read after the stored sum, so that it has all that is counted there.
        Ok(is_within(sum, self.placed_since(&bucket, read_at).await?))
    }

    /// Reads the sums that would include these events, in one round trip. Sums that cannot be read are left out.
    async fn stored_sums(
        &self,
        client: i64,
        missing: &[MissingEvent],
        now: DateTime<Utc>,
    ) -> Result<StoredSums, StoreFailed> {
        let buckets = RESOLUTIONS.into_iter().flat_map(|resolution| by_bucket(missing, resolution, now).into_keys());
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

fn versions<'a>(events: impl IntoIterator<Item = &'a MissingEvent>) -> BTreeSet<i32> {
    events.into_iter().map(|event| event.version).collect()
}

fn by_bucket(
    events: &[MissingEvent],
    resolution: Resolution,
    now: DateTime<Utc>,
) -> BTreeMap<Bucket, Vec<MissingEvent>> {
    let mut buckets: BTreeMap<Bucket, Vec<MissingEvent>> = BTreeMap::new();
    for event in events.iter().filter(|event| resolution.is_retained(event.time, now)) {
        let (page, bucket) = resolution.at(event.time);
        buckets.entry((event.side.name(page), bucket)).or_default().push(*event);
    }
    buckets
}

fn report_ambiguous(client: i64, events: &[MissingEvent]) {
    let times = events.iter().map(|event| event.time);
    let (from, until) = (times.clone().min().unwrap_or_default(), times.max().unwrap_or_default());
    error!(
        client,
        events = events.len(),
        %from,
        %until,
        "the sums may not include these events of a repaired client: run `projector rebuild start`"
    );
}
