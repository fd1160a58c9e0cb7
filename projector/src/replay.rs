//! Applies the event log to the read model. That fills an empty read model and changes nothing in a complete one. Safe at any
//! time, also while projectors run.

use std::mem;
use std::time::Duration;

use anyhow::{Context, anyhow};
use entity::Event;
use entity::order_event::{self, Column};
use futures::channel::mpsc;
use futures::{SinkExt, Stream, StreamExt, TryStreamExt, stream};
use iso_currency::Currency;
use read_model::rules::sales::line_count;
use read_model::{Applied, Error, Projection};
use runtime::telemetry::traces::Trace;
use runtime::{crash_point, crash_points, one_line};
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tokio::time::sleep;
use tracing::field::Empty;
use tracing::{Instrument, info_span};
use uuid::Uuid;

/// Events in a section, which is sorted by subject. A larger section has more events of each client, which are applied in one
/// call.
const SECTION_EVENTS: usize = 50_000;
/// Order lines after which a section ends early, to bound memory.
const SECTION_LINES: usize = 100_000;
/// Rows read by one statement.
const ROWS: usize = 1_000;
/// Events applied by one call, approximately. Few for crash tests, so that a crash hits the middle of a small log.
const APPLY: usize = if cfg!(feature = "failpoints") { 5 } else { 500 };
/// Pauses before a call is repeated.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];
/// Concurrent calls, so that neither the read model nor this process waits for the other.
const CONCURRENT_CALLS: usize = 3;

/// Progress of a replay.
#[derive(Clone, Copy, Debug)]
pub struct Replayed {
    pub events: u64,
    /// All events of the log up to this one are applied, so a later replay can continue after it.
    pub last: Uuid,
}

/// Consecutive events of the log, and the id of the last one.
type Section = (Vec<Event>, Uuid);

/// Applies the events of the log after one event, or all, and reports progress after each call.
///
/// # Errors
/// When a store fails, or an event in the log cannot be read or applied. All events up to the last reported one are applied.
pub fn replay(
    db: &DatabaseConnection,
    read_model: &dyn Projection,
    currency: Currency,
    after: Option<Uuid>,
) -> impl Stream<Item = anyhow::Result<Replayed>> {
    let after = after.unwrap_or_default();
    // Reads the next section while one is being applied.
    let (sections, read_sections) = mpsc::channel(0);
    let reading = stream::once(read(db, currency, after, sections)).filter_map(async |()| None);
    let calls = read_sections.map_ok(|section| stream::iter(split(section)).map(anyhow::Ok)).try_flatten();
    // Results keep their order: all events before an error are applied and reported.
    let applied = calls.map(move |call| async move {
        let (events, last) = call?;
        apply(read_model, &events).await?;
        crash_point(crash_points::REPLAY_MID_LOG);
        anyhow::Ok((events.len() as u64, last))
    });
    let mut replayed = Replayed { events: 0, last: after };
    let progress = applied.buffered(CONCURRENT_CALLS).map_ok(move |(events, last)| {
        replayed.events += events;
        replayed.last = last.unwrap_or(replayed.last);
        replayed
    });
    stream::select(progress, reading)
}

/// Reads the log section by section.
async fn read(
    db: &DatabaseConnection,
    currency: Currency,
    mut after: Uuid,
    mut sections: mpsc::Sender<anyhow::Result<Section>>,
) {
    let mut more = Ok(true);
    while let Ok(true) = more {
        let (mut events, before) = (Vec::new(), after);
        more = read_section(db, currency, &mut after, &mut events).await;
        if after > before && sections.send(Ok((events, after))).await.is_err() {
            return; // the replay was dropped
        }
    }
    if let Err(error) = more {
        let _ = sections.send(Err(error)).await;
    }
}

/// Adds the events that follow `after`, and moves `after` to the last of them. Returns whether there may be more.
async fn read_section(
    db: &DatabaseConnection,
    currency: Currency,
    after: &mut Uuid,
    events: &mut Vec<Event>,
) -> anyhow::Result<bool> {
    let mut lines = 0;
    while events.len() < SECTION_EVENTS && lines < SECTION_LINES {
        let rows = rows_after(db, *after).await?;
        let is_end = rows.len() < ROWS;
        for row in rows {
            let id = row.id;
            let event = Event::from_row(row, currency.code());
            let event = event.with_context(|| format!("event {id} of the log is invalid"))?;
            lines += line_count(&event);
            events.push(event);
            *after = id;
        }
        if is_end {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The next rows of the event log after an event. Empty at its end.
pub(crate) async fn rows_after(db: &DatabaseConnection, after: Uuid) -> anyhow::Result<Vec<order_event::Model>> {
    let rows = order_event::Entity::find().filter(Column::Id.gt(after)).order_by_asc(Column::Id).limit(ROWS as u64);
    rows.all(db).await.map_err(|error| {
        anyhow!("cannot read the event log (a new database needs `migration up`): {}", one_line(&error))
    })
}

/// Splits a section into calls. All events of one client are in one call. The last call has the id of the section's last
/// event.
fn split((mut events, last): Section) -> Vec<(Vec<Event>, Option<Uuid>)> {
    events.sort_by_key(Event::subject);
    let (mut calls, mut call) = (Vec::new(), Vec::<Event>::new());
    for event in events {
        if call.len() >= APPLY && call.last().is_some_and(|before| before.subject() != event.subject()) {
            calls.push((mem::take(&mut call), None));
        }
        call.push(event);
    }
    calls.push((call, Some(last)));
    calls
}

/// Applies events, again if the read model is unavailable for a moment: repeated events change nothing.
async fn apply(read_model: &dyn Projection, events: &[Event]) -> anyhow::Result<()> {
    let mut pauses = PAUSES.into_iter();
    let span =
        Trace::of(None).span(|| info_span!("replay", events = events.len(), result = Empty, otel.status_code = Empty));
    loop {
        let results = read_model.apply(events).instrument(span.clone()).await;
        let failed = events.iter().zip(&results).find_map(|(event, result)| Some((event, result.as_ref().err()?)));
        let Some((event, error)) = failed else {
            span.record("result", if results.contains(&Ok(Applied::Now)) { "now" } else { "before" });
            return Ok(());
        };
        match (error, pauses.next()) {
            (Error::Unavailable(_), Some(pause)) => sleep(pause).await,
            _ => {
                span.record("otel.status_code", "ERROR");
                return Err(anyhow!("event {} was not applied: {error}", event.id));
            }
        }
    }
}
