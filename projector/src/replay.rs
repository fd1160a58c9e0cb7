//! The event log, applied once more: fills an empty read model, and changes nothing in a complete one. Safe at any time,
//! also while projectors run.

use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, Duration, Utc};
use entity::Event;
use entity::order_event::{self, Column};
use futures::{Stream, TryStreamExt, stream};
use iso_currency::Currency;
use process::{crash_point, one_line};
use read_model::ReadModel;
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

/// Events read and applied together.
const PAGE: u64 = 1_000;
/// Pages that are applied or read at once, so that no store waits for the other, or for us.
const AT_ONCE: usize = 3;

/// Which events to replay: all, unless it says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub client: Option<i64>,
    /// Those that happened at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Those that follow this one in the log.
    pub after: Option<Uuid>,
}

impl Selection {
    /// The id after which the first event can be.
    fn start(&self) -> Uuid {
        // Clocks of api processes may differ a little.
        let since = self.since.map_or(Uuid::nil(), |since| order_event::least_id_at(since - Duration::minutes(1)));
        self.after.map_or(since, |after| after.max(since))
    }
}

/// How far a replay has got.
#[derive(Clone, Copy, Debug)]
pub struct Replayed {
    pub events: u64,
    /// The last of them, from where a later replay can go on.
    pub last: Uuid,
}

/// Applies the events that are in the log, and tells how far it has got after every page.
///
/// # Errors
/// When a store fails, or an event in the log cannot be read or applied; all up to what was told last have been applied.
pub fn replay(
    db: &DatabaseConnection,
    read_model: &dyn ReadModel,
    currency: Currency,
    selection: &Selection,
) -> impl Stream<Item = anyhow::Result<Replayed>> {
    let pages = stream::try_unfold(selection.start(), move |after| async move {
        let page = read(db, selection, after).await?;
        Ok(page.last().map(|row| row.id).map(|last| ((page, last), last)))
    });
    let applied = pages.map_ok(move |(page, last)| async move {
        let events = apply(read_model, currency, selection, page).await?;
        crash_point("replay-mid-log");
        Ok((events, last))
    });
    let mut events = 0;
    applied.try_buffered(AT_ONCE).map_ok(move |(more, last)| {
        events += more;
        Replayed { events, last }
    })
}

async fn read(db: &DatabaseConnection, selection: &Selection, after: Uuid) -> anyhow::Result<Vec<order_event::Model>> {
    let mut rows = order_event::Entity::find().filter(Column::Id.gt(after));
    if let Some(client) = selection.client {
        rows = rows.filter(Column::ClientId.eq(client));
    }
    rows.order_by_asc(Column::Id).limit(PAGE).all(db).await.map_err(|error| {
        anyhow!("cannot read the event log (a new database needs `migration up`): {}", one_line(&error))
    })
}

async fn apply(
    read_model: &dyn ReadModel,
    currency: Currency,
    selection: &Selection,
    rows: Vec<order_event::Model>,
) -> anyhow::Result<u64> {
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let id = row.id;
        if selection.since.is_some_and(|since| row.occurred_at < since) {
            continue;
        }
        let event = Event::from_row(row, currency.code());
        events.push(event.with_context(|| format!("event {id} of the log is not understood"))?);
    }
    for (event, result) in events.iter().zip(read_model.apply(&events).await) {
        if let Err(error) = result {
            bail!("event {} was not applied: {error}", event.id);
        }
    }
    Ok(events.len() as u64)
}
