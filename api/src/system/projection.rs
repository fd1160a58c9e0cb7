//! How far the read model is behind the log.

use std::time::Duration;

use chrono::{DateTime, Utc};
use entity::Subject;
use entity::order_event::{Column, Entity, least_id_at};
use read_model::Queries;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::{Error, in_time, silent_read_model};
use crate::commands::clock;

/// The ages at which the log is probed, after its newest event: an event of about this age is looked up in the read model.
const AGES: [Duration; 12] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(20 * 60),
    Duration::from_secs(60 * 60),
    Duration::from_secs(6 * 60 * 60),
    Duration::from_secs(24 * 60 * 60),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    /// When the newest event of the log was written, by the clock of the database. `None` if the log is empty.
    pub newest: Option<DateTime<Utc>>,
    /// How long ago the oldest event was written that was found missing in the read model; zero if the newest one is applied.
    pub lag: Duration,
}

/// An event of the log without its content.
struct Probe {
    subject: Subject,
    version: i32,
    time: DateTime<Utc>,
}

impl Projection {
    /// Probes the log: its newest event, and older ones until one is applied. So a single event that is missing among others is not
    /// found, and the lag is a lower bound, off by a factor of two to five.
    ///
    /// # Errors
    /// When the database or the read model fails.
    pub async fn read(db: &DatabaseConnection, read_model: &dyn Queries) -> Result<Projection, Error> {
        let Some(newest) = newest_before(db, None).await? else {
            return Ok(Projection { newest: None, lag: Duration::ZERO });
        };
        let now = from_database(clock::now(db)).await?;
        let (newest_at, mut oldest_missing, mut probe) = (newest.time, None, newest);
        let mut ages = AGES.into_iter();
        while !is_applied(read_model, &probe).await? {
            oldest_missing = Some(probe.time);
            // The next age that finds another event.
            let Some(until) = ages.by_ref().map(|age| now - age).find(|until| *until <= probe.time) else { break };
            match newest_before(db, Some(least_id_at(until))).await? {
                Some(older) => probe = older,
                None => break,
            }
        }
        let lag = oldest_missing.and_then(|time| (now - time).to_std().ok()).unwrap_or_default();
        Ok(Projection { newest: Some(newest_at), lag })
    }
}

/// Whether the read model has an event. A damaged client has none.
async fn is_applied(read_model: &dyn Queries, probe: &Probe) -> Result<bool, Error> {
    let applied = async { Ok(read_model.applied_versions(probe.subject).await) };
    match in_time(silent_read_model, applied).await? {
        Ok(applied) => Ok(applied.has(probe.version)),
        Err(read_model::Error::Damaged(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn from_database<T>(read: impl Future<Output = Result<T, DbErr>>) -> Result<T, Error> {
    in_time(|| Error::SilentDatabase, async { Ok(read.await?) }).await
}

/// The newest event of the log, or the newest one before an id.
async fn newest_before(db: &DatabaseConnection, id: Option<Uuid>) -> Result<Option<Probe>, Error> {
    let mut events = Entity::find().select_only();
    for column in [Column::ClientId, Column::ProductId, Column::Version, Column::OccurredAt] {
        events = events.column(column);
    }
    if let Some(id) = id {
        events = events.filter(Column::Id.lt(id));
    }
    let row = events.order_by_desc(Column::Id).into_tuple::<(Option<i64>, Option<i64>, i32, DateTime<Utc>)>();
    Ok(from_database(row.one(db)).await?.map(|(client, product, version, time)| {
        let subject = client.map_or(Subject::Product(product.unwrap_or_default()), Subject::Client);
        Probe { subject, version, time }
    }))
}

/// The part of the log up to this event, in percent of the time that the log covers. `None` if the log is empty.
pub async fn percent_until(db: &DatabaseConnection, event: Uuid) -> Result<Option<u8>, Error> {
    let ids = || Entity::find().select_only().column(Column::Id);
    let first: Option<Uuid> = ids().order_by_asc(Column::Id).into_tuple().one(db).await?;
    let last: Option<Uuid> = ids().order_by_desc(Column::Id).into_tuple().one(db).await?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(None) };
    // Ids begin with the time (RFC 9562, version 7).
    let ms = |id: Uuid| (id.as_u128() >> 80) as f64;
    let part = (ms(event) - ms(first)) / (ms(last) - ms(first)).max(1.0);
    Ok(Some(if event >= last { 100 } else { (part.clamp(0.0, 1.0) * 99.0) as u8 }))
}

/// When the event with this id was written.
pub fn time_of(id: Uuid) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis((id.as_u128() >> 80) as i64)
}
