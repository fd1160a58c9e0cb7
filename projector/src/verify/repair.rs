//! Repairs clients and products from the event log.

use anyhow::Context;
use entity::order_event::{self, Column};
use entity::{Event, Subject};
use read_model::{Error, ProjectedClient, Projection};
use runtime::{crash_point, crash_points, one_line};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tracing::warn;

use super::{Difference, Finding, Repair, State, StoreFailed, Verifier, database, read_model};

/// Events applied in one round trip.
const EVENTS: u64 = 1_000;
/// How often a repair is tried anew because the client went on meanwhile.
const ATTEMPTS: u32 = 5;

impl Verifier {
    /// What differs, after it was mended where that is asked for.
    pub(super) async fn finding(
        &self,
        subject: Subject,
        difference: Difference,
        mend: impl Future<Output = anyhow::Result<bool>>,
    ) -> anyhow::Result<Finding> {
        let needed = match difference {
            Difference::Unknown { .. } => Repair::AndTakeBack,
            _ => Repair::FromLog,
        };
        let repaired = self.repair >= needed
            && match mend.await {
                Err(error) if !error.is::<StoreFailed>() => {
                    // It must not keep the others from being repaired.
                    warn!(%subject, "cannot be repaired: {}", one_line(error.as_ref()));
                    false
                }
                repaired => repaired?,
            };
        Ok(Finding { subject, difference, repaired })
    }

    /// Makes a product what its newest event says; returns whether it is that now.
    pub(super) async fn mend_product(&self, id: i64) -> anyhow::Result<bool> {
        let newest = async || {
            let newest = order_event::Entity::find().filter(Column::ProductId.eq(id)).order_by_desc(Column::Version);
            let newest = newest.one(&self.db).await.map_err(database)?;
            let event = newest.map(|row| Event::from_row(row, self.currency.code())).transpose();
            event.with_context(|| format!("the newest event of product {id} is not understood"))
        };
        newest().await?;
        self.read_model.remove_product(id).await.map_err(read_model)?;
        crash_point(crash_points::REPAIR_PRODUCT);
        // Read once more: what was applied before it was forgotten is in the log by now.
        if let Some(event) = newest().await? {
            for result in self.read_model.apply(std::slice::from_ref(&event)).await {
                result.map_err(read_model)?;
            }
        }
        Ok(self.wrong_products(&[id]).await?.is_empty())
    }

    /// Makes a client what the event log says; returns whether it is that now.
    pub(super) async fn mend(&self, id: i64) -> anyhow::Result<bool> {
        for _ in 0..ATTEMPTS {
            // Before the log is read: what is applied later is newer, or in the log.
            let newest = self.read_model.newest_version(id).await.map_err(read_model)?;
            let mut projected = ProjectedClient::new(id);
            while let Some(events) = self.log(id, projected.newest).await? {
                for event in &events {
                    projected.apply(event).with_context(|| format!("event {} cannot be applied", event.id))?;
                }
                // What lacks is applied as it would have been, so that it counts for more than its client.
                for result in self.read_model.apply(&events).await {
                    match result {
                        Err(error @ Error::Unavailable(_)) => return Err(read_model(error).into()),
                        Ok(_) | Err(Error::Damaged(_)) => {}
                    }
                }
                crash_point(crash_points::REPAIR_MID_LOG);
            }
            if !matches!(self.examine(id).await?, State::Wrong(_)) {
                return Ok(true);
            }
            crash_point(crash_points::REPAIR_BEFORE_REPLACE);
            let replaced = self.read_model.replace_client(&projected, &newest).await.map_err(read_model)?;
            if replaced && !matches!(self.examine(id).await?, State::Wrong(_)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next events of a client after a version; `None` when there are no more.
    async fn log(&self, id: i64, after: i32) -> anyhow::Result<Option<Vec<Event>>> {
        let rows = order_event::Entity::find().filter(Column::ClientId.eq(id)).filter(Column::Version.gt(after));
        let rows = rows.order_by_asc(Column::Version).limit(EVENTS).all(&self.db).await.map_err(database)?;
        let events = rows.into_iter().map(|row| {
            let id = row.id;
            Event::from_row(row, self.currency.code())
                .with_context(|| format!("event {id} of the log is not understood"))
        });
        let events = events.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Some(events).filter(|events| !events.is_empty()))
    }
}
