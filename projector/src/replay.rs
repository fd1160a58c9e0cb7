//! The event log, applied once more: fills an empty read model, and changes nothing in a complete one. Safe at any time,
//! also while projectors run.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use entity::Event;
use entity::order_event::{self, Column};
use iso_currency::Currency;
use process::one_line;
use read_model::ReadModel;
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tokio::time::Instant;
use tracing::info;
use uuid::Uuid;

const PAGE: u64 = 1_000;
const PROGRESS: Duration = Duration::from_secs(2);

/// Applies every event that was in the log when it began, and returns how many there were.
///
/// # Errors
/// When a store fails, or an event in the log cannot be read or applied; all before it have been applied.
pub async fn replay(db: &DatabaseConnection, read_model: &dyn ReadModel, currency: Currency) -> anyhow::Result<u64> {
    let (mut replayed, mut after) = (0, Uuid::nil());
    let mut reported = Instant::now();
    loop {
        let page = order_event::Entity::find().filter(Column::Id.gt(after)).order_by_asc(Column::Id).limit(PAGE);
        let rows = page.all(db).await.map_err(|error| {
            anyhow!("cannot read the event log (a new database needs `migration up`): {}", one_line(&error))
        })?;
        let Some(last) = rows.last() else { return Ok(replayed) };
        after = last.id;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let id = row.id;
            events.push(
                Event::from_row(row, currency.code())
                    .with_context(|| format!("event {id} of the log is not understood"))?,
            );
        }
        for (event, result) in events.iter().zip(read_model.apply(&events).await) {
            if let Err(error) = result {
                bail!("event {} was not applied: {error}", event.id);
            }
        }
        replayed += events.len() as u64;
        if reported.elapsed() > PROGRESS {
            info!(events = replayed, "replaying");
            reported = Instant::now();
        }
    }
}
