//! The rows of the outbox: pending events, and events that the queue refused. All times are those of the database.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use entity::{order_event, outbox, refused_event};
use sea_orm::sea_query::{Expr, LockBehavior, LockType, OnConflict, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, ExprTrait, Order, QueryFilter, QueryOrder,
    QuerySelect, Select, Statement,
};
use uuid::Uuid;

use super::log_tailing;
use super::publisher::{Backlog, Outgoing};
use runtime::database::is_one_of;

pub const MAX_CLAIMED_ROWS: u64 = 200;
/// Refused events that are sent again at a poll, each in its own call.
const MAX_RETRIES: u64 = 20;
const MAX_COUNTED: u32 = 1_000;
const MAX_COUNTED_PENDING: u32 = 10_000;
/// Suspects that a statement of SQLite skips: it takes at most 32,766 parameters.
const MAX_EXCLUDED: usize = 30_000;

/// Rows that were inserted this short ago are recent. The others are rarely pending.
const RECENT: Duration = Duration::from_secs(60);

/// Which pending events a statement reads.
///
/// Events are published soon, but PostgreSQL cannot clean up the index entries of deleted rows while any transaction is open
/// that may still see them, such as a backup: a statement that begins at the oldest entry reads them all again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    All,
    /// Those with recent rows.
    Recent,
}

/// Rows that a relay claims.
pub enum Claim {
    /// The oldest pending events that are at least this old, without those that are suspects.
    Pending(Duration, Scan, BTreeSet<Uuid>),
    /// Refused events that are due.
    Refused,
    /// Also those that are not due, because the queue accepts refused events again.
    RefusedEarly,
}

/// Claims rows that no other relay has claimed, and reads their events. Only rows of the outbox are locked: a lock on a row of
/// `order_events` would write to that table.
pub async fn claim(db: &impl ConnectionTrait, claim: Claim) -> Result<Vec<order_event::Model>, DbErr> {
    let ids = match claim {
        Claim::Pending(min_age, scan, suspects) => claim_pending(db, min_age, scan, suspects).await?,
        Claim::Refused => claim_refused(db, MAX_RETRIES, true).await?,
        Claim::RefusedEarly => claim_refused(db, MAX_CLAIMED_ROWS, false).await?,
    };
    read(db, ids).await
}

/// Reads events, in a separate statement: PostgreSQL could plan a join with the outbox as a scan of the whole table `order_events`.
async fn read(db: &impl ConnectionTrait, ids: Vec<Uuid>) -> Result<Vec<order_event::Model>, DbErr> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let events = order_event::Entity::find().filter(is_one_of(db, order_event::Column::Id, ids));
    events.order_by_asc(order_event::Column::Id).all(db).await
}

/// Reads those of the events that are still pending.
pub async fn pending(db: &impl ConnectionTrait, ids: Vec<Uuid>) -> Result<Vec<Outgoing>, DbErr> {
    let rows = outbox::Entity::find().filter(is_one_of(db, outbox::Column::EventId, ids)).all(db).await?;
    let events = read(db, rows.into_iter().map(|row| row.event_id).collect()).await?;
    Ok(events.iter().map(Outgoing::of).collect())
}

/// The newest pending event that is not a suspect.
pub async fn newest(db: &impl ConnectionTrait, suspects: BTreeSet<Uuid>) -> Result<Option<Uuid>, DbErr> {
    let pending = without(db, outbox::Entity::find(), suspects);
    Ok(pending.order_by(Expr::cust("inserted_at"), Order::Desc).one(db).await?.map(|row| row.event_id))
}

async fn claim_pending(
    db: &impl ConnectionTrait,
    min_age: Duration,
    scan: Scan,
    suspects: BTreeSet<Uuid>,
) -> Result<Vec<Uuid>, DbErr> {
    let mut pending = without(db, outbox::Entity::find(), suspects);
    if scan == Scan::Recent {
        pending = pending.filter(Expr::cust(is_recent(db.get_database_backend())));
    }
    if !min_age.is_zero() {
        let seconds = min_age.as_secs_f64();
        pending = pending.filter(Expr::cust(match db.get_database_backend() {
            DbBackend::Postgres => format!("inserted_at <= now() - interval '{seconds} s'"),
            _ => format!("inserted_at <= datetime('now', '-{seconds} seconds')"),
        }));
    }
    let pending = pending.order_by(Expr::cust("inserted_at"), Order::Asc).limit(MAX_CLAIMED_ROWS);
    let claimed = pending.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).all(db).await?;
    Ok(claimed.into_iter().map(|row| row.event_id).collect())
}

fn without(
    db: &impl ConnectionTrait,
    pending: Select<outbox::Entity>,
    suspects: BTreeSet<Uuid>,
) -> Select<outbox::Entity> {
    if suspects.is_empty() {
        return pending;
    }
    match db.get_database_backend() {
        DbBackend::Postgres => pending.filter(is_one_of(db, outbox::Column::EventId, suspects).not()),
        _ => pending.filter(outbox::Column::EventId.is_not_in(suspects.into_iter().take(MAX_EXCLUDED))),
    }
}

/// The condition of a recent row. On SQLite there is no difference: it has one connection, so no other transaction is open.
fn is_recent(backend: DbBackend) -> String {
    match backend {
        DbBackend::Postgres => format!("inserted_at >= now() - interval '{} s'", RECENT.as_secs()),
        _ => "TRUE".to_owned(),
    }
}

async fn claim_refused(db: &impl ConnectionTrait, limit: u64, only_due: bool) -> Result<Vec<Uuid>, DbErr> {
    let mut refused = refused_event::Entity::find();
    if only_due {
        refused = refused.filter(Expr::cust("retry_at <= CURRENT_TIMESTAMP"));
    }
    let refused = refused.order_by_asc(refused_event::Column::RetryAt).limit(limit);
    let claimed = refused.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
    claimed.select_only().column(refused_event::Column::EventId).into_tuple().all(db).await
}

/// Deletes the rows of published events.
pub async fn delete(db: &impl ConnectionTrait, ids: Vec<Uuid>) -> Result<(), DbErr> {
    if !ids.is_empty() {
        outbox::Entity::delete_many().filter(is_one_of(db, outbox::Column::EventId, ids)).exec(db).await?;
    }
    Ok(())
}

/// Moves events that the queue has refused out of the outbox. Each comes with the reason.
pub async fn refuse(db: &impl ConnectionTrait, refused: &[(Uuid, String)]) -> Result<(), DbErr> {
    use refused_event::Column::{EventId, InsertedAt, Reason, RefusedAt, RetryAt};
    let mut by_reason: BTreeMap<&str, Vec<Uuid>> = BTreeMap::new();
    for (id, reason) in refused {
        by_reason.entry(reason).or_default().push(*id);
    }
    for (reason, ids) in by_reason {
        let rows = Query::select()
            .column(outbox::Column::EventId)
            .expr(Expr::cust("inserted_at"))
            .expr(Expr::cust("CURRENT_TIMESTAMP"))
            .expr(after_pause(db, "CURRENT_TIMESTAMP"))
            .expr(Expr::val(reason))
            .from(outbox::Entity)
            .and_where(is_one_of(db, outbox::Column::EventId, ids.clone()))
            .to_owned();
        let insert = Query::insert()
            .into_table(refused_event::Entity)
            .columns([EventId, InsertedAt, RefusedAt, RetryAt, Reason])
            .select_from(rows)
            .expect("as many values as columns")
            // Another relay may have refused it at the same time.
            .on_conflict(OnConflict::new().do_nothing().to_owned())
            .to_owned();
        db.execute(&insert).await?;
        delete(db, ids).await?;
    }
    Ok(())
}

/// Deletes those refused events that are accepted now, and lets the others wait longer.
pub async fn retried(db: &impl ConnectionTrait, ids: Vec<Uuid>, accepted: Vec<Uuid>) -> Result<(), DbErr> {
    let accepted = is_one_of(db, refused_event::Column::EventId, accepted);
    refused_event::Entity::delete_many().filter(accepted).exec(db).await?;
    let wait = refused_event::Entity::update_many()
        .col_expr(refused_event::Column::RetryAt, after_pause(db, "refused_at"))
        .filter(is_one_of(db, refused_event::Column::EventId, ids));
    wait.exec(db).await?;
    Ok(())
}

/// When an event is sent again: after as long as the queue has refused it, so that the pauses double, but from a second to five
/// minutes.
fn after_pause(db: &impl ConnectionTrait, refused_at: &str) -> Expr {
    Expr::cust(match db.get_database_backend() {
        DbBackend::Postgres => {
            format!("now() + least(greatest(now() - {refused_at}, interval '1 s'), interval '5 min')")
        }
        _ => format!("datetime('now', '+' || min(max(unixepoch() - unixepoch({refused_at}), 1), 300) || ' seconds')"),
    })
}

/// Writes events to the log instead, for its reader, and deletes their rows.
pub async fn hand_over(db: &impl ConnectionTrait, events: &[order_event::Model]) -> Result<(), DbErr> {
    log_tailing::write(db, events).await?;
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    delete(db, ids.clone()).await?;
    let refused = is_one_of(db, refused_event::Column::EventId, ids);
    refused_event::Entity::delete_many().filter(refused).exec(db).await?;
    Ok(())
}

/// The events that are not published, and whether pending events are about to be older than [`Scan::Recent`] finds. Few rows are read,
/// however many there are.
pub async fn backlog(db: &impl ConnectionTrait, scan: Scan) -> Result<(Backlog, bool), DbErr> {
    let backend = db.get_database_backend();
    let age = match backend {
        DbBackend::Postgres => "CAST(extract(epoch FROM now() - inserted_at) AS bigint)",
        _ => "unixepoch() - unixepoch(inserted_at)",
    };
    let scanned = if scan == Scan::Recent { is_recent(backend) } else { "TRUE".to_owned() };
    let sql = format!(
        "SELECT (SELECT {age} FROM outbox WHERE {scanned} ORDER BY inserted_at LIMIT 1) AS pending_s,
             (SELECT count(*) FROM (SELECT 1 FROM outbox WHERE {scanned} LIMIT {MAX_COUNTED_PENDING}) AS counted) AS pending,
             (SELECT {age} FROM refused_events ORDER BY event_id LIMIT 1) AS refused_s,
             (SELECT count(*) FROM (SELECT 1 FROM refused_events LIMIT {MAX_COUNTED}) AS counted) AS refused"
    );
    let row = db.query_one_raw(Statement::from_string(backend, sql)).await?.expect("a row of three values");
    let age = |column| -> Result<Option<Duration>, DbErr> {
        let seconds: Option<i64> = row.try_get("", column)?;
        Ok(seconds.map(|seconds| Duration::from_secs(seconds.try_into().unwrap_or(0))))
    };
    let count = |column| -> Result<u64, DbErr> {
        let count: i64 = row.try_get("", column)?;
        Ok(count.try_into().unwrap_or(0))
    };
    let (pending, refused) = (age("pending_s")?, age("refused_s")?);
    let backlog = Backlog {
        oldest: pending.max(refused),
        pending: count("pending")?,
        refused: count("refused")?,
        unread_log: None,
        measured_at: None,
    };
    Ok((backlog, pending >= Some(RECENT / 2)))
}
