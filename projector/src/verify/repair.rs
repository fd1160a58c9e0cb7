//! Repairs clients and products from the event log.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use chrono::{DateTime, Utc};
use entity::order_event::{self, Column};
use entity::{Event, Subject};
use read_model::rules::recent_orders::RECENT_ORDERS;
use read_model::{Error, OrderSummary, ProjectedClient, Projection};
use runtime::{crash_point, crash_points, one_line};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tracing::warn;

use super::counted::Evidence;
use super::{Difference, Finding, Repair, StoreFailed, Verifier, database, read_model};
use crate::clock;

/// Events read and applied at once.
const EVENTS: u64 = 1_000;
/// How often a repair is tried again because the client has changed meanwhile.
const MAX_ATTEMPTS: u32 = 20;

/// What the log says about a client.
struct ClientLog {
    /// The client after the events that the read model has counted.
    counted: ProjectedClient,
    /// The newest orders among them, by version.
    recent: BTreeMap<i32, OrderSummary>,
    /// All events up to this version are counted, or older than `in_flight`.
    settled: i32,
    /// Events after this time may be in flight.
    until: DateTime<Utc>,
}

impl Verifier {
    /// Repairs what differs, if that is asked for.
    pub(super) async fn finding(
        &self,
        subject: Subject,
        (difference, may_be_lost): (Difference, bool),
        repair: impl Future<Output = anyhow::Result<bool>>,
    ) -> anyhow::Result<Finding> {
        let needed = match difference {
            Difference::Orphaned { .. } => Repair::RemoveOrphans,
            _ => Repair::FromLog,
        };
        let repaired = self.repair >= needed
            && match repair.await {
                Err(error) if !error.is::<StoreFailed>() => {
                    // The other subjects must still be repaired.
                    warn!(%subject, "cannot repair: {}", one_line(error.as_ref()));
                    false
                }
                repaired => repaired?,
            };
        Ok(Finding { subject, difference, may_be_lost, repaired })
    }

    /// Replaces a product by the data of its newest event. Returns whether the product is right afterwards.
    pub(super) async fn repair_product(&self, id: i64) -> anyhow::Result<bool> {
        let newest = async || {
            let newest = order_event::Entity::find().filter(Column::ProductId.eq(id)).order_by_desc(Column::Version);
            let newest = newest.one(&self.db).await.map_err(database)?;
            let event = newest.map(|row| Event::from_row(row, self.currency.code())).transpose();
            event.with_context(|| format!("the newest event of product {id} is invalid"))
        };
        newest().await?;
        self.read_model.remove_product(id).await.map_err(read_model)?;
        crash_point(crash_points::REPAIR_PRODUCT);
        // Read again, because everything that was applied before the removal is in the log by now.
        let event = newest().await?;
        if let Some(event) = &event {
            for result in self.read_model.apply(std::slice::from_ref(event)).await {
                result.map_err(read_model)?;
            }
        }
        let version = event.map_or(0, |event| event.version);
        let rows = self.product_rows(&[id]).await?;
        Ok(self.examine_products(&[id], rows).await?.iter().all(|(_, examined)| examined.is_right_up_to(version)))
    }

    /// Repairs a client from its log. Returns whether it is right afterwards.
    ///
    /// The events that the read model has counted make up the client that replaces the stored one. The others are applied in the
    /// ordinary way, so that they also count in the sums. Those of the last `in_flight` are left to arrive. A client that was lost is
    /// repaired `in_flight` after its loss at the earliest, see [`FirstMissed`](super::FirstMissed). So of the events of the last
    /// `in_flight` only those are counted that its recent orders show.
    pub(super) async fn repair_client(&self, id: i64) -> anyhow::Result<bool> {
        for attempt in 0..MAX_ATTEMPTS {
            // Read first: it changes when an event is applied meanwhile.
            let state = self.read_model.state_of_client(id).await.map_err(read_model)?;
            let others = self.other_keys(id).await?;
            let stored = self.projected_client(id).await?.ok().map(|stored| stored.unwrap_or(ProjectedClient::new(id)));
            let evidence = others.map(|others| Evidence::new(others, stored.as_ref()));
            let log = self.read_log(id, stored.as_ref(), evidence).await?;
            // At the second attempt the client itself is right, but not its ranks or its recent orders.
            if attempt > 0 || stored.as_ref() != Some(&log.counted) {
                crash_point(crash_points::REPAIR_BEFORE_REPLACE);
                if !self.read_model.replace_client(&log.counted, &log.recent, &state).await.map_err(read_model)? {
                    continue;
                }
            }
            self.apply_uncounted(id, &log).await?;
            if self.examine(id).await?.is_right_up_to(log.settled) {
                return Ok(true);
            }
        }
        warn!(client = id, "cannot repair: the client still differs after {MAX_ATTEMPTS} attempts");
        Ok(false)
    }

    /// Reads the log of a client, and decides which of its events the read model has counted: those that the stored client includes,
    /// and those that only the sums have counted. Without `evidence` there are no sums.
    async fn read_log(
        &self,
        id: i64,
        stored: Option<&ProjectedClient>,
        mut evidence: Option<Evidence>,
    ) -> anyhow::Result<ClientLog> {
        let until = clock::now() - self.in_flight;
        let mut log = ClientLog { counted: ProjectedClient::new(id), recent: BTreeMap::new(), settled: 0, until };
        let mut last = 0;
        while let Some(events) = self.next_events(id, last).await? {
            let is_included = |event: &Event| stored.is_some_and(|stored| stored.has(event.version));
            let missing: Vec<&Event> = events.iter().filter(|event| !is_included(event)).collect();
            let counted = match &mut evidence {
                Some(evidence) => self.counted(id, evidence, &missing, until).await?,
                None => BTreeSet::new(),
            };
            for event in &events {
                let is_counted = is_included(event) || counted.contains(&event.version);
                if last == log.settled && (event.time <= until || is_counted) {
                    log.settled = event.version;
                }
                last = event.version;
                if is_counted {
                    log.counted.apply(event).with_context(|| format!("event {} cannot be applied", event.id))?;
                    log.recent.extend(event.order().map(|order| (event.version, OrderSummary::of(order, event.time))));
                }
            }
            while log.recent.len() > RECENT_ORDERS {
                log.recent.pop_first();
            }
        }
        Ok(log)
    }

    async fn apply_uncounted(&self, id: i64, log: &ClientLog) -> anyhow::Result<()> {
        let mut last = 0;
        while let Some(events) = self.next_events(id, last).await? {
            last = events.last().map_or(last, |event| event.version);
            let is_uncounted = |event: &Event| !log.counted.has(event.version) && event.time <= log.until;
            let events: Vec<Event> = events.into_iter().filter(is_uncounted).collect();
            for result in self.read_model.apply(&events).await {
                match result {
                    Err(error @ Error::Unavailable(_)) => return Err(read_model(error).into()),
                    Ok(_) | Err(Error::Damaged(_) | Error::Refused(_)) => {}
                }
            }
            crash_point(crash_points::REPAIR_MID_LOG);
        }
        Ok(())
    }

    /// The next events of a client after a version; `None` when there are no more.
    async fn next_events(&self, id: i64, after: i32) -> anyhow::Result<Option<Vec<Event>>> {
        let rows = order_event::Entity::find().filter(Column::ClientId.eq(id)).filter(Column::Version.gt(after));
        let rows = rows.order_by_asc(Column::Version).limit(EVENTS).all(&self.db).await.map_err(database)?;
        let events = rows.into_iter().map(|row| {
            let id = row.id;
            Event::from_row(row, self.currency.code()).with_context(|| format!("event {id} of the log is invalid"))
        });
        let events = events.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Some(events).filter(|events| !events.is_empty()))
    }
}
