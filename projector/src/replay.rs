//! The event log, applied once more: fills an empty read model, and changes nothing in a complete one. Safe at any time,
//! also while projectors run.

use std::pin::pin;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Duration, Utc};
use entity::Event;
use entity::order_event::{self, Column};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use iso_currency::Currency;
use process::{crash_point, one_line};
use read_model::ReadModel;
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

/// Events that are read together: those of a client among them are applied together.
const PAGE: u64 = 50_000;
/// Lines of orders with which a page ends all the same, for memory's sake.
const LINES: usize = 100_000;
/// Events that are applied in one go.
const TOGETHER: usize = 500;
/// How often that is done at once, so that neither the store waits for us nor we for the store.
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
        let page = read(db, currency, selection, after).await?;
        Ok(page.map(|(events, last)| ((events, last), last)))
    });
    let applied = pages.map_ok(move |(events, last)| async move {
        let count = events.len() as u64;
        apply(read_model, events).await?;
        crash_point("replay-mid-log");
        Ok((count, last))
    });
    let mut events = 0;
    // The next page is read meanwhile.
    applied.try_buffered(2).map_ok(move |(more, last)| {
        events += more;
        Replayed { events, last }
    })
}

/// The events of a page that are selected, and the id of its last one, if there is any.
async fn read(
    db: &DatabaseConnection,
    currency: Currency,
    selection: &Selection,
    after: Uuid,
) -> anyhow::Result<Option<(Vec<Event>, Uuid)>> {
    let mut rows = order_event::Entity::find().filter(Column::Id.gt(after));
    if let Some(client) = selection.client {
        rows = rows.filter(Column::ClientId.eq(client));
    }
    let failed =
        |error| anyhow!("cannot read the event log (a new database needs `migration up`): {}", one_line(&error));
    let mut rows = pin!(rows.order_by_asc(Column::Id).limit(PAGE).stream(db).await.map_err(failed)?);
    let (mut events, mut lines, mut last) = (Vec::new(), 0, None);
    while let Some(row) = rows.try_next().await.map_err(failed)?.filter(|_| lines < LINES) {
        let id = row.id;
        last = Some(id);
        if selection.since.is_none_or(|since| row.occurred_at >= since) {
            let event = Event::from_row(row, currency.code());
            let event = event.with_context(|| format!("event {id} of the log is not understood"))?;
            lines += event.order().map_or(0, |order| order.lines.len());
            events.push(event);
        }
    }
    Ok(last.map(|last| (events, last)))
}

async fn apply(read_model: &dyn ReadModel, mut events: Vec<Event>) -> anyhow::Result<()> {
    // Those of a client together: they change much that is the same.
    events.sort_by_key(Event::subject);
    let apply = async |events: &[Event]| {
        for (event, result) in events.iter().zip(read_model.apply(events).await) {
            result.map_err(|error| anyhow!("event {} was not applied: {error}", event.id))?;
        }
        Ok(())
    };
    stream::iter(events.chunks(TOGETHER)).map(Ok).try_for_each_concurrent(AT_ONCE, apply).await
}
