//! Decides which events the sums have counted although their client does not include them.
//!
//! One atomic step applies an event to its client, to the client's recent orders and to the sums. So an event that the client does
//! not include (a *missing* event) is one of two kinds:
//!
//! - *Uncounted*: it was never applied. The repair applies it.
//! - *Counted*: it was applied, and Redis lost the client afterwards. To apply it again would count it twice, so the repair only adds
//!   it to the client.
//!
//! The following decides, in this sequence:
//!
//! 1. An order that the client's recent orders *show* is counted. They have a key of their own, which Redis may still have.
//! 2. An event that may be *in flight* is uncounted.
//! 3. An event that was *not applied* is uncounted: an order that the recent orders lack, although it is newer than the oldest of
//!    them. If it is newer than all of them, it was refused because the client was lost, and so were all later events.
//! 4. All other events are *undecided*. The sums decide: compared with the database, they are short of each uncounted event. An event
//!    is *ambiguous* if the sums are short, but perhaps of another event. It is taken as counted, so that no sum becomes too large, and
//!    it is reported. An event of which no sum can be read is taken as counted, too.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use entity::{Event, order};
use read_model::rules::recent_orders::RECENT_ORDERS;
use read_model::{Error, ProjectedClient, Queries, RankedAndRecent, Side, Sum};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use tracing::error;

use super::shortfall::{Bucket, MissingEvent, RESOLUTIONS, ShortOf, StoredSums, by_bucket, versions};
use super::{StoreFailed, Verifier, database, read_model};

/// The keys of a client other than the client itself: its ranks and its recent orders.
pub(super) struct OtherKeys {
    /// The versions of the recent orders.
    recent: BTreeSet<i32>,
    /// Whether there are ranks or recent orders.
    exist: bool,
}

/// The evidence about the events of one client. It is collected along the log, so that it does not matter where a page ends.
pub(super) struct Evidence {
    others: OtherKeys,
    /// Whether Redis lost the client and still has other keys of it.
    is_lost: bool,
    /// The version of the first order that was refused because the client was lost. So were all later events.
    first_refused: Option<i32>,
    /// The sums of the uncounted events so far.
    uncounted: HashMap<Bucket, Sum>,
}

impl Evidence {
    /// `stored` is the client, read after its other keys.
    pub(super) fn new(others: OtherKeys, stored: Option<&ProjectedClient>) -> Evidence {
        let is_lost = match stored.filter(|stored| stored.newest > 0) {
            Some(stored) => others.recent.iter().any(|version| !stored.has(*version)),
            None => others.exist,
        };
        Evidence { others, is_lost, first_refused: None, uncounted: HashMap::new() }
    }

    fn shows(&self, event: &MissingEvent) -> bool {
        self.others.recent.contains(&event.version)
    }

    /// Whether the recent orders lack an order that they would have if it had been applied: one that is newer than the oldest of
    /// them.
    fn lacks(&self, event: &MissingEvent) -> bool {
        let has_place = self.others.recent.first().is_some_and(|oldest| event.version >= *oldest);
        self.is_lost && event.side == Side::Gross && has_place && !self.shows(event)
    }

    /// Whether the recent orders show that it was not applied.
    fn was_not_applied(&self, event: &MissingEvent) -> bool {
        self.lacks(event) || self.first_refused.is_some_and(|first| event.version >= first)
    }

    /// Finds the first refused order, if it is among these events: the first one that is newer than all recent orders.
    fn find_first_refused(&mut self, missing: &[MissingEvent]) {
        let Some(newest) = self.others.recent.last().filter(|_| self.first_refused.is_none()) else { return };
        let refused = missing.iter().filter(|event| event.version > *newest && self.lacks(event));
        self.first_refused = refused.map(|event| event.version).min();
    }

    /// Whether an undecided event may be counted even if all sums are short enough for it: the client was lost, and its recent orders
    /// cannot show the event. They have no cancellations and refunds, and only a limited number of orders.
    fn is_ambiguous(&self, event: &MissingEvent) -> bool {
        let recent = &self.others.recent;
        let has_all_orders = !recent.is_empty() && recent.len() < RECENT_ORDERS;
        self.is_lost && !(event.side == Side::Gross && has_all_orders)
    }

    /// Adds those of these events that are not counted.
    fn add_uncounted(&mut self, mut events: Vec<MissingEvent>, counted: &BTreeSet<i32>, now: DateTime<Utc>) {
        events.retain(|event| !counted.contains(&event.version));
        for resolution in RESOLUTIONS {
            for (bucket, group) in by_bucket(&events, resolution, now) {
                let sum = self.uncounted.entry(bucket).or_default();
                group.iter().for_each(|event| sum.add(event.sum));
            }
        }
    }
}

impl Verifier {
    /// The versions of those events that the sums have counted, among events of the log that the client does not include. Changes of
    /// the client are never counted. Events after `until` may be in flight.
    pub(super) async fn counted(
        &self,
        client: i64,
        evidence: &mut Evidence,
        missing: &[&Event],
        until: DateTime<Utc>,
    ) -> Result<BTreeSet<i32>, StoreFailed> {
        let missing: Vec<_> = missing.iter().filter_map(|event| MissingEvent::of(event)).collect();
        if missing.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (shown, missing): (Vec<_>, Vec<_>) = missing.into_iter().partition(|event| evidence.shows(event));
        evidence.find_first_refused(&missing);
        let (mut in_flight, missing): (Vec<_>, Vec<_>) = missing.into_iter().partition(|event| event.time > until);
        let (mut not_applied, mut undecided): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|event| evidence.was_not_applied(event));
        let sums = self.stored_sums(client, &[&not_applied[..], &undecided].concat(), Utc::now()).await?;
        // These were applied after the client was read: by now the client includes them.
        for events in [&mut in_flight, &mut not_applied, &mut undecided] {
            events.retain(|event| !sums.client.as_ref().is_some_and(|client| client.has(event.version)));
        }
        let mut counted = versions(&shown);
        // A sum that is not short of them contradicts the recent orders. Then the sum is right and must not become too large.
        counted.extend(self.counted_by(&sums, client, &not_applied, &evidence.uncounted, |_| false).await?);
        // Before the undecided events, because the sums are certainly short of these.
        evidence.add_uncounted([in_flight, not_applied].concat(), &counted, sums.now);
        let is_ambiguous = |event: &MissingEvent| evidence.is_ambiguous(event);
        counted.extend(self.counted_by(&sums, client, &undecided, &evidence.uncounted, is_ambiguous).await?);
        counted.extend(versions(&undecided).difference(&sums.readable));
        evidence.add_uncounted(undecided, &counted, sums.now);
        Ok(counted)
    }

    /// The versions of those events that these sums have counted, or may have counted: those of which at least one sum is not short,
    /// and ambiguous ones. The sums are short of the uncounted events, too.
    async fn counted_by(
        &self,
        sums: &StoredSums,
        client: i64,
        events: &[MissingEvent],
        uncounted: &HashMap<Bucket, Sum>,
        is_ambiguous: impl Fn(&MissingEvent) -> bool,
    ) -> Result<BTreeSet<i32>, StoreFailed> {
        let (mut counted, mut events) = (BTreeSet::new(), events.to_vec());
        for resolution in RESOLUTIONS {
            for (bucket, mut group) in by_bucket(&events, resolution, sums.now) {
                let Some(mut sum) = sums.buckets.get(&bucket).copied() else { continue };
                uncounted.get(&bucket).into_iter().for_each(|uncounted| sum.add(*uncounted));
                match self.short_of(client, (sum, sums.read_at), &group, resolution).await? {
                    ShortOf::None => {}
                    ShortOf::Some => report_ambiguous(client, &group),
                    ShortOf::All => {
                        group.retain(&is_ambiguous);
                        report_ambiguous(client, &group);
                    }
                }
                counted.extend(versions(&group));
            }
            events.retain(|event| !counted.contains(&event.version));
        }
        Ok(counted)
    }

    /// Reads the other keys of a client. The client must be read after them: then it lacks a recent order only if it was lost. `None`
    /// for a generation of an older release, which has no sums.
    pub(super) async fn other_keys(&self, client: i64) -> Result<Option<OtherKeys>, StoreFailed> {
        if !self.read_model.has_reports().await.map_err(read_model)? {
            return Ok(None);
        }
        let others = self.read_model.ranked_and_recent(&[client]).await.map_err(read_model)?;
        let exist = others.iter().any(|others| *others != RankedAndRecent::default());
        let recent = match self.read_model.recent_orders(&[client], RECENT_ORDERS).await {
            Err(Error::Damaged(_)) => Vec::new(),
            recent => recent.map_err(read_model)?.concat(),
        };
        let versions = order::Entity::find().select_only().column(order::Column::Version);
        let versions = versions.filter(order::Column::Id.is_in(recent.into_iter().map(|order| order.order_id)));
        let versions = versions.filter(order::Column::ClientId.eq(client)).into_tuple::<i32>().all(&self.db).await;
        Ok(Some(OtherKeys { recent: versions.map_err(database)?.into_iter().collect(), exist }))
    }
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
