//! Compares stored sums with the database, to find of which events they are short.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use entity::Event;
use read_model::rules::sales::contribution;
use read_model::{ProjectedClient, Resolution, Side, Sum};
use tokio::time::Instant;

use super::wrong_sum::is_within;
use super::{StoreFailed, Verifier, read_model};

/// A bucket page, and the index of a bucket in it.
pub(super) type Bucket = (String, usize);

pub(super) const RESOLUTIONS: [Resolution; 3] = [Resolution::TenSeconds, Resolution::HalfHour, Resolution::Day];

/// An order, a cancellation or a refund that the client does not include.
#[derive(Clone, Copy)]
pub(super) struct MissingEvent {
    pub version: i32,
    pub time: DateTime<Utc>,
    /// The side of the sums to which it adds.
    pub side: Side,
    /// What it adds.
    pub sum: Sum,
}

impl MissingEvent {
    /// `None` for a change of the client, which adds to no sum.
    pub fn of(event: &Event) -> Option<MissingEvent> {
        let (side, sum) = contribution(event)?;
        Some(MissingEvent { version: event.version, time: event.time, side, sum })
    }
}

/// The stored sums of some events, and the client at the same moment.
pub(super) struct StoredSums {
    /// `None` also if it is damaged.
    pub client: Option<ProjectedClient>,
    /// Without those that cannot be read.
    pub buckets: HashMap<Bucket, Sum>,
    /// The versions of the events of which at least one sum can be read.
    pub readable: BTreeSet<i32>,
    /// They had been read by this moment.
    pub read_at: Instant,
    /// The time that decides which sums are retained.
    pub now: DateTime<Utc>,
}

/// Of how many of some events a stored sum is short.
pub(super) enum ShortOf {
    None,
    /// Of one or more of them, but not of all.
    Some,
    All,
}

impl Verifier {
    /// Reads the sums to which these events add, and the client, in one round trip.
    pub(super) async fn stored_sums(
        &self,
        client: i64,
        events: &[MissingEvent],
        now: DateTime<Utc>,
    ) -> Result<StoredSums, StoreFailed> {
        let groups = RESOLUTIONS.into_iter().flat_map(|resolution| by_bucket(events, resolution, now));
        let (buckets, groups): (Vec<Bucket>, Vec<_>) = groups.unzip();
        let (client, sums) = self.read_model.client_and_buckets(client, &buckets).await.map_err(read_model)?;
        let readable = groups.iter().zip(&sums).filter(|(_, sum)| sum.is_some());
        let readable = readable.flat_map(|(group, _)| versions(group)).collect();
        let buckets = buckets.into_iter().zip(sums).filter_map(|(bucket, sum)| Some((bucket, sum?))).collect();
        Ok(StoredSums { client: client.ok().flatten(), buckets, readable, read_at: Instant::now(), now })
    }

    /// Compares the sum of a bucket with the database. All these events add to it.
    pub(super) async fn short_of(
        &self,
        client: i64,
        (sum, read_at): (Sum, Instant),
        events: &[MissingEvent],
        resolution: Resolution,
    ) -> Result<ShortOf, StoreFailed> {
        let bucket = self.placed_in_bucket(client, events[0].side, events[0].time, resolution);
        let mut with_all = sum;
        events.iter().for_each(|event| with_all.add(event.sum));
        // Sums only grow, so a cached one of the database is enough to see that the stored one is short.
        if self.least_placed(&bucket).is_some_and(|least| is_within(with_all, least)) {
            return Ok(ShortOf::All);
        }
        // Read after the stored sum, so that it has all that is counted there.
        let placed = self.placed_since(&bucket, read_at).await?;
        let is_short_of = |event: &MissingEvent| {
            let mut with_one = sum;
            with_one.add(event.sum);
            is_within(with_one, placed)
        };
        Ok(match events {
            _ if is_within(with_all, placed) => ShortOf::All,
            events if events.iter().any(is_short_of) => ShortOf::Some,
            _ => ShortOf::None,
        })
    }
}

pub(super) fn versions<'a>(events: impl IntoIterator<Item = &'a MissingEvent>) -> BTreeSet<i32> {
    events.into_iter().map(|event| event.version).collect()
}

/// Groups events by the buckets to which they add, without those of expired pages.
pub(super) fn by_bucket(
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
