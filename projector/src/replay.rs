//! The event log, applied once more: fills an empty read model, and changes nothing in a complete one. Safe at any time,
//! also while projectors run.

use std::mem;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Duration, Utc};
use entity::Event;
use entity::order_event::{self, Column};
use futures::channel::mpsc;
use futures::{SinkExt, Stream, StreamExt, TryStreamExt, stream};
use iso_currency::Currency;
use read_model::ReadModel;
use runtime::{crash_point, crash_points, one_line};
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

/// Events that are sorted by whose they are: what several of a client change is written once.
const PAGE: usize = 50_000;
/// Lines of orders with which a page ends all the same, for memory's sake.
const LINES: usize = 100_000;
/// Rows that are read at once.
const ROWS: usize = 1_000;
/// Events that are applied together, about. Few where a crash is to come in the middle of a small log.
const TOGETHER: usize = if cfg!(feature = "failpoints") { 5 } else { 500 };
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
    /// Up to this one all of the log have been applied: from here a later replay can go on.
    pub last: Uuid,
}

/// A part of the log, and the id of its last event.
type Page = (Vec<Event>, Uuid);

/// Applies the events that are in the log, and tells again and again how far it has got.
///
/// # Errors
/// When a store fails, or an event in the log cannot be read or applied; all up to what was told last have been applied.
pub fn replay(
    db: &DatabaseConnection,
    read_model: &dyn ReadModel,
    currency: Currency,
    selection: &Selection,
) -> impl Stream<Item = anyhow::Result<Replayed>> {
    // One page waits while another is applied.
    let (pages, read_pages) = mpsc::channel(0);
    let reading = stream::once(read(db, currency, selection, pages)).filter_map(async |()| None);
    let steps = read_pages.map_ok(|page| stream::iter(steps(page)).map(anyhow::Ok)).try_flatten();
    // In their order: what came before an error is applied, and told.
    let applied = steps.map(move |step| async move {
        let (events, last) = step?;
        apply(read_model, &events).await?;
        crash_point(crash_points::REPLAY_MID_LOG);
        anyhow::Ok((events.len() as u64, last))
    });
    let mut replayed = Replayed { events: 0, last: selection.start() };
    let told = applied.buffered(AT_ONCE).map_ok(move |(events, last)| {
        replayed.events += events;
        replayed.last = last.unwrap_or(replayed.last);
        replayed
    });
    stream::select(told, reading)
}

/// Reads the log a page at a time.
async fn read(
    db: &DatabaseConnection,
    currency: Currency,
    selection: &Selection,
    mut pages: mpsc::Sender<anyhow::Result<Page>>,
) {
    let (mut after, mut more) = (selection.start(), Ok(true));
    while let Ok(true) = more {
        let (mut events, before) = (Vec::new(), after);
        more = read_page(db, currency, selection, &mut after, &mut events).await;
        if after > before && pages.send(Ok((events, after))).await.is_err() {
            return; // nobody wants them any more
        }
    }
    if let Err(error) = more {
        let _ = pages.send(Err(error)).await;
    }
}

/// Adds the selected events that follow one, which becomes the last that was looked at. Returns whether there may be more.
async fn read_page(
    db: &DatabaseConnection,
    currency: Currency,
    selection: &Selection,
    after: &mut Uuid,
    events: &mut Vec<Event>,
) -> anyhow::Result<bool> {
    let mut lines = 0;
    while events.len() < PAGE && lines < LINES {
        let mut rows = order_event::Entity::find().filter(Column::Id.gt(*after));
        if let Some(client) = selection.client {
            rows = rows.filter(Column::ClientId.eq(client));
        }
        let rows = rows.order_by_asc(Column::Id).limit(ROWS as u64).all(db).await.map_err(|error| {
            anyhow!("cannot read the event log (a new database needs `migration up`): {}", one_line(&error))
        })?;
        let is_end = rows.len() < ROWS;
        for row in rows {
            let id = row.id;
            if selection.since.is_none_or(|since| row.occurred_at >= since) {
                let event = Event::from_row(row, currency.code());
                let event = event.with_context(|| format!("event {id} of the log is not understood"))?;
                lines += event.order().map_or(0, |order| order.lines.len());
                events.push(event);
            }
            *after = id;
        }
        if is_end {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is applied together: all events of a client in one step. The last step of a page has the id of its last event.
fn steps((mut events, last): Page) -> Vec<(Vec<Event>, Option<Uuid>)> {
    events.sort_by_key(Event::subject);
    let (mut steps, mut step) = (Vec::new(), Vec::<Event>::new());
    for event in events {
        if step.len() >= TOGETHER && step.last().is_some_and(|before| before.subject() != event.subject()) {
            steps.push((mem::take(&mut step), None));
        }
        step.push(event);
    }
    steps.push((step, Some(last)));
    steps
}

async fn apply(read_model: &dyn ReadModel, events: &[Event]) -> anyhow::Result<()> {
    for (event, result) in events.iter().zip(read_model.apply(events).await) {
        result.map_err(|error| anyhow!("event {} was not applied: {error}", event.id))?;
    }
    Ok(())
}
