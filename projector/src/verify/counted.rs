//! Decides which orders, cancellations and refunds the sums have counted, although their client does not include them.
//!
//! A client, its recent orders and the sums change in one atomic step. So a client misses a counted event only if the client itself
//! was lost. Its recent orders then show which of its newest orders were counted, and which were not. For all other events the
//! sums do: they are short of an event that they have not counted, compared with the database.

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

/// What decides about the next events of the log of a client. It is the same wherever a page of the log ends.
pub(super) struct Counting {
    recent: Recent,
    /// Whether only the client was lost: the partition still has ranks or recent orders that it does not include.
    is_lost: bool,
    /// The version from which on all orders were refused, because the client was lost. Refunds after it probably were, too.
    first_refused: Option<i32>,
    /// The earlier events that the sums have not counted.
    uncounted: HashMap<Bucket, Sum>,
}

impl Counting {
    pub(super) fn new(recent: Recent, stored: Option<&ProjectedClient>) -> Counting {
        let is_lost = match stored.filter(|stored| stored.newest > 0) {
            Some(stored) => recent.versions.iter().any(|version| !stored.has(*version)),
            None => recent.is_known,
        };
        Counting { recent, is_lost, first_refused: None, uncounted: HashMap::new() }
    }

    /// Whether the recent orders show that this order was not counted: they would have it.
    fn exclude(&self, event: &MissingEvent) -> bool {
        let versions = &self.recent.versions;
        let has_place = versions.first().is_some_and(|oldest| event.version >= *oldest);
        self.is_lost && event.side == Side::Gross && has_place && !versions.contains(&event.version)
    }

    /// Whether the recent orders cannot show if this event was counted. They show no cancellations and no refunds.
    fn leave_open(&self, event: &MissingEvent) -> bool {
        let versions = &self.recent.versions;
        let are_complete = !versions.is_empty() && versions.len() < RECENT_ORDERS;
        self.is_lost && !(event.side == Side::Gross && are_complete)
    }

    fn first_refused(&self, missing: &[MissingEvent]) -> Option<i32> {
        let newest = self.recent.versions.last()?;
        let excluded = missing.iter().filter(|event| event.version > *newest && self.exclude(event));
        excluded.map(|event| event.version).min()
    }

    fn add_uncounted(&mut self, events: &[MissingEvent], now: DateTime<Utc>) {
        for resolution in RESOLUTIONS {
            for (bucket, group) in by_bucket(events, resolution, now) {
                let sum = self.uncounted.entry(bucket).or_default();
                group.iter().for_each(|event| sum.add(event.sum));
            }
        }
    }
}

/// What a partition stores about a client besides the client itself.
pub(super) struct Recent {
    /// The versions in its recent orders.
    versions: BTreeSet<i32>,
    /// Whether it has ranks or recent orders.
    is_known: bool,
}

/// Stored sums, and when they had been read.
struct StoredSums {
    /// The client at the same moment, unless it is damaged.
    client: Option<ProjectedClient>,
    sums: HashMap<Bucket, Sum>,
    read_at: Instant,
    /// The time that decides which sums are retained.
    now: DateTime<Utc>,
    /// The versions of the events of which at least one sum can be read.
    compared: BTreeSet<i32>,
}

/// The missing events that a stored sum is short of.
enum Room {
    None,
    ForSome,
    ForAll,
}

impl Verifier {
    /// The versions of these events of a client that the sums have counted; changes of the client are never counted. Events after
    /// `until` may be on their way, so they count only if the recent orders show them.
    ///
    /// An event is not counted only if all stored sums agree that they are short of it. An event of a lost client that its
    /// recent orders do not show is never applied, because the sums may be short of other events; it is reported.
    pub(super) async fn counted(
        &self,
        client: i64,
        counting: &mut Counting,
        events: &[&Event],
        until: DateTime<Utc>,
    ) -> Result<BTreeSet<i32>, StoreFailed> {
        let missing = |event: &&Event| {
            let (side, sum) = contribution(event)?;
            Some(MissingEvent { version: event.version, time: event.time, side, sum })
        };
        let missing: Vec<MissingEvent> = events.iter().filter_map(missing).collect();
        if missing.is_empty() {
            return Ok(BTreeSet::new());
        }
        let recent = &counting.recent.versions;
        let (shown, missing): (Vec<_>, Vec<_>) = missing.into_iter().partition(|event| recent.contains(&event.version));
        counting.first_refused = counting.first_refused.or_else(|| counting.first_refused(&missing));
        let is_refused = |event: &MissingEvent| counting.first_refused.is_some_and(|first| event.version >= first);
        let (mut young, old): (Vec<_>, Vec<_>) = missing.into_iter().partition(|event| event.time > until);
        let (mut excluded, mut open): (Vec<_>, Vec<_>) =
            old.into_iter().partition(|event| counting.exclude(event) || is_refused(event));
        let stored = self.stored_sums(client, &[&excluded[..], &open].concat(), Utc::now()).await?;
        // Events that were applied since the client was read are in the sums and in the client.
        for events in [&mut young, &mut excluded, &mut open] {
            events.retain(|event| !stored.client.as_ref().is_some_and(|client| client.has(event.version)));
        }
        let mut counted = versions(&shown);
        // Recent orders that contradict the sums are not believed: a right sum must not become too large.
        counted.extend(self.without_room(client, &stored, (&excluded, &counting.uncounted), |_| false).await?);
        // The sums are short of these events, whatever they have of the open ones.
        let uncounted = excluded.into_iter().chain(young).filter(|event| !counted.contains(&event.version));
        counting.add_uncounted(&uncounted.collect::<Vec<_>>(), stored.now);
        let leave_open = |event: &MissingEvent| counting.leave_open(event);
        counted.extend(self.without_room(client, &stored, (&open, &counting.uncounted), leave_open).await?);
        counted.extend(versions(&open).difference(&stored.compared));
        let uncounted = open.into_iter().filter(|event| !counted.contains(&event.version));
        counting.add_uncounted(&uncounted.collect::<Vec<_>>(), stored.now);
        Ok(counted)
    }

    /// The versions of those events that a stored sum has no room for, or may have counted. Other events that are not counted may
    /// be missing beside them.
    async fn without_room(
        &self,
        client: i64,
        stored: &StoredSums,
        (events, beside): (&[MissingEvent], &HashMap<Bucket, Sum>),
        is_open: impl Fn(&MissingEvent) -> bool,
    ) -> Result<BTreeSet<i32>, StoreFailed> {
        let (mut found, mut events) = (BTreeSet::new(), events.to_vec());
        for resolution in RESOLUTIONS {
            for (bucket, group) in by_bucket(&events, resolution, stored.now) {
                let Some(mut sum) = stored.sums.get(&bucket).copied() else { continue };
                beside.get(&bucket).into_iter().for_each(|beside| sum.add(*beside));
                let ambiguous = match self.room(client, (sum, stored.read_at), &group, resolution).await? {
                    Room::None => Vec::new(),
                    Room::ForSome => group.clone(),
                    // Perhaps it is short of other events.
                    Room::ForAll => match group.iter().filter(|event| is_open(event)).copied().collect::<Vec<_>>() {
                        open if open.is_empty() => continue,
                        open => open,
                    },
                };
                report_ambiguous(client, &ambiguous);
                found.extend(versions(if ambiguous.is_empty() { &group } else { &ambiguous }));
            }
            events.retain(|event| !found.contains(&event.version));
        }
        Ok(found)
    }

    /// How many of these events a stored sum is short of, compared with the database.
    async fn room(
        &self,
        client: i64,
        (sum, read_at): (Sum, Instant),
        missing: &[MissingEvent],
        resolution: Resolution,
    ) -> Result<Room, StoreFailed> {
        let bucket = self.placed_in_bucket(client, missing[0].side, missing[0].time, resolution);
        let mut with_all = sum;
        missing.iter().for_each(|event| with_all.add(event.sum));
        // A cached sum is enough to see that the stored one is short, because sums only grow.
        if self.least_placed(&bucket).is_some_and(|least| is_within(with_all, least)) {
            return Ok(Room::ForAll);
        }
        // Read after the stored sum, so that it has all that is counted there.
        let placed = self.placed_since(&bucket, read_at).await?;
        let has_room_for = |event: &MissingEvent| {
            let mut with_one = sum;
            with_one.add(event.sum);
            is_within(with_one, placed)
        };
        Ok(match missing {
            _ if is_within(with_all, placed) => Room::ForAll,
            missing if missing.iter().any(has_room_for) => Room::ForSome,
            _ => Room::None,
        })
    }

    /// Reads the sums that would include these events, and what the client includes at that moment. Sums that cannot be read are left
    /// out. One round trip.
    async fn stored_sums(
        &self,
        client: i64,
        missing: &[MissingEvent],
        now: DateTime<Utc>,
    ) -> Result<StoredSums, StoreFailed> {
        let groups = RESOLUTIONS.into_iter().flat_map(|resolution| by_bucket(missing, resolution, now));
        let (buckets, groups): (Vec<Bucket>, Vec<_>) = groups.unzip();
        let (client, sums) = self.read_model.client_and_buckets(client, &buckets).await.map_err(read_model)?;
        let readable = groups.iter().zip(&sums).filter(|(_, sum)| sum.is_some());
        let compared = readable.flat_map(|(group, _)| versions(group)).collect();
        let sums = buckets.into_iter().zip(sums).filter_map(|(bucket, sum)| Some((bucket, sum?))).collect();
        Ok(StoredSums { client: client.ok().flatten(), sums, read_at: Instant::now(), now, compared })
    }

    /// Reads what a partition stores about a client besides the client itself, before the client: what that lacks of it was lost.
    /// `None` for a generation of an older release, which has no sums.
    pub(super) async fn recent(&self, client: i64) -> Result<Option<Recent>, StoreFailed> {
        if !self.read_model.has_reports().await.map_err(read_model)? {
            return Ok(None);
        }
        let others = self.read_model.ranked_and_recent(&[client]).await.map_err(read_model)?;
        let is_known = others.iter().any(|others| *others != RankedAndRecent::default());
        let recent = match self.read_model.recent_orders(&[client], RECENT_ORDERS).await {
            Err(Error::Damaged(_)) => Vec::new(),
            recent => recent.map_err(read_model)?.concat(),
        };
        let versions = order::Entity::find().select_only().column(order::Column::Version);
        let versions = versions.filter(order::Column::Id.is_in(recent.into_iter().map(|order| order.order_id)));
        let versions = versions.filter(order::Column::ClientId.eq(client)).into_tuple::<i32>().all(&self.db).await;
        Ok(Some(Recent { versions: versions.map_err(database)?.into_iter().collect(), is_known }))
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
    if events.is_empty() {
        return;
    }
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
