//! Repairs clients and products from the event log.

use anyhow::Context;
use entity::order_event::{self, Column};
use entity::{Event, Subject};
use read_model::{Error, ProjectedClient, Projection};
use runtime::{crash_point, crash_points, one_line};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tracing::warn;

use super::{Difference, Finding, Repair, StoreFailed, Verifier, database, read_model};

/// Events read and applied at once.
const EVENTS: u64 = 1_000;
/// How often a repair is tried again because the client has changed meanwhile.
const MAX_ATTEMPTS: u32 = 5;

impl Verifier {
    /// Repairs what differs, if that is asked for.
    pub(super) async fn finding(
        &self,
        subject: Subject,
        difference: Difference,
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
        Ok(Finding { subject, difference, repaired })
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
        Ok(self.examine_products(&[id]).await?.iter().all(|(_, examined)| examined.is_right_up_to(version)))
    }

    /// Applies the events of a client, and replaces the client if it still differs from the log. Returns whether it is right
    /// afterwards.
    pub(super) async fn repair_client(&self, id: i64) -> anyhow::Result<bool> {
        for _ in 0..MAX_ATTEMPTS {
            // Read before the log: everything applied later is newer, or in the log.
            let newest = self.read_model.newest_version(id).await.map_err(read_model)?;
            let mut projected = ProjectedClient::new(id);
            while let Some(events) = self.next_events(id, projected.newest).await? {
                for event in &events {
                    projected.apply(event).with_context(|| format!("event {} cannot be applied", event.id))?;
                }
                // Applied in the ordinary way, so that a missing order also counts in the sums.
                for result in self.read_model.apply(&events).await {
                    match result {
                        Err(error @ Error::Unavailable(_)) => return Err(read_model(error).into()),
                        Ok(_) | Err(Error::Damaged(_)) => {}
                    }
                }
                crash_point(crash_points::REPAIR_MID_LOG);
            }
            if self.examine(id).await?.is_right_up_to(projected.newest) {
                return Ok(true);
            }
            crash_point(crash_points::REPAIR_BEFORE_REPLACE);
            if self.read_model.replace_client(&projected, &newest).await.map_err(read_model)? {
                return Ok(self.examine(id).await?.is_right_up_to(projected.newest));
            }
        }
        Ok(false)
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
