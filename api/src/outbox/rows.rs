//! The rows of the outbox: pending events, and events that the queue refused. All times are those of the database.

use std::collections::BTreeMap;
use std::time::Duration;

use entity::{order_event, outbox, refused_event};
use sea_orm::sea_query::{Expr, LockBehavior, LockType, OnConflict, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect, Statement,
};
use uuid::Uuid;

use super::publisher::{Backlog, MAX_BATCH_ENTRIES, Outgoing};
use crate::commands::database::is_one_of;

pub const MAX_CLAIMED_ROWS: u64 = 200;
/// Refused events that are sent again at a poll, each in its own call.
const MAX_RETRIES: u64 = 20;
const MAX_COUNTED: u32 = 1_000;

/// Events whose ids are this young are recent. The others are rarely pending.
const RECENT: Duration = Duration::from_secs(60);

/// Which pending events a statement reads.
///
/// Events are published soon, but PostgreSQL cannot clean up the index entries of deleted rows while any transaction is open
/// that may still see them, such as a backup: a statement that begins at the oldest entry reads them all again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    All,
    /// Those with recent ids.
    Recent,
    /// Those after an event.
    After(Uuid),
}

/// Rows that a relay claims.
#[derive(Clone, Copy)]
pub enum Claim {
    /// The oldest pending events that are at least this old.
    Pending(Duration, Scan),
    /// The oldest and the newest pending event, to find out whether the queue works.
    Probe,
    /// Refused events that are due.
    Refused,
    /// Also those that are not due, because the queue accepts refused events again.
    RefusedEarly,
}

impl Claim {
    pub fn of_refused(self) -> bool {
        matches!(self, Claim::Refused | Claim::RefusedEarly)
    }

    /// How many of the events share a call. An event that makes its call fail must not stop others.
    pub fn batch_entries(self) -> usize {
        match self {
            Claim::Pending(..) | Claim::RefusedEarly => MAX_BATCH_ENTRIES,
            Claim::Probe | Claim::Refused => 1,
        }
    }
}

/// Claims rows that no other relay has claimed, and reads their events. Only rows of the outbox are locked: a lock on a row of
/// `order_events` would write to that table.
pub async fn claim(db: &impl ConnectionTrait, claim: Claim) -> Result<Vec<Outgoing>, DbErr> {
    let ids = match claim {
        Claim::Pending(min_age, scan) => claim_pending(db, Order::Asc, MAX_CLAIMED_ROWS, min_age, scan).await?,
        Claim::Probe => {
            let mut ids = claim_pending(db, Order::Asc, 1, Duration::ZERO, Scan::All).await?;
            ids.extend(claim_pending(db, Order::Desc, 1, Duration::ZERO, Scan::All).await?);
            ids
        }
        Claim::Refused => claim_refused(db, MAX_RETRIES, true).await?,
        Claim::RefusedEarly => claim_refused(db, MAX_CLAIMED_ROWS, false).await?,
    };
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // A separate statement, because PostgreSQL could plan a join as a scan of the whole table `order_events`.
    let events = order_event::Entity::find().filter(is_one_of(db, order_event::Column::Id, ids));
    Ok(events.order_by_asc(order_event::Column::Id).all(db).await?.iter().map(Outgoing::of).collect())
}

async fn claim_pending(
    db: &impl ConnectionTrait,
    order: Order,
    limit: u64,
    min_age: Duration,
    scan: Scan,
) -> Result<Vec<Uuid>, DbErr> {
    let mut pending = outbox::Entity::find();
    match scan {
        Scan::After(id) => pending = pending.filter(outbox::Column::EventId.gt(id)),
        Scan::Recent => pending = pending.filter(Expr::cust(is_recent(db.get_database_backend()))),
        Scan::All => {}
    }
    if !min_age.is_zero() {
        let seconds = min_age.as_secs_f64();
        pending = pending.filter(Expr::cust(match db.get_database_backend() {
            DbBackend::Postgres => format!("inserted_at <= now() - interval '{seconds} s'"),
            _ => format!("inserted_at <= datetime('now', '-{seconds} seconds')"),
        }));
    }
    let pending = pending.order_by(outbox::Column::EventId, order).limit(limit);
    let claimed = pending.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).all(db).await?;
    Ok(claimed.into_iter().map(|row| row.event_id).collect())
}

/// The condition of a recent event. An UUID of version 7 begins with its time in milliseconds (RFC 9562, section 5.7). On SQLite
/// there is no difference: it has one connection, so no other transaction is open.
fn is_recent(backend: DbBackend) -> String {
    match backend {
        DbBackend::Postgres => format!(
            "event_id >= CAST(lpad(to_hex(CAST(extract(epoch FROM now()) * 1000 AS bigint) - {}), 12, '0') || \
             repeat('0', 20) AS uuid)",
            RECENT.as_millis()
        ),
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
        "SELECT (SELECT {age} FROM outbox WHERE {scanned} ORDER BY event_id LIMIT 1) AS pending_s,
             (SELECT {age} FROM refused_events ORDER BY event_id LIMIT 1) AS refused_s,
             (SELECT count(*) FROM (SELECT 1 FROM refused_events LIMIT {MAX_COUNTED}) AS counted) AS refused"
    );
    let row = db.query_one_raw(Statement::from_string(backend, sql)).await?.expect("a row of three values");
    let age = |column| -> Result<Option<Duration>, DbErr> {
        let seconds: Option<i64> = row.try_get("", column)?;
        Ok(seconds.map(|seconds| Duration::from_secs(seconds.try_into().unwrap_or(0))))
    };
    let (pending, refused) = (age("pending_s")?, age("refused_s")?);
    let count: i64 = row.try_get("", "refused")?;
    let backlog = Backlog { oldest: pending.max(refused), refused: count.try_into().unwrap_or(0) };
    Ok((backlog, pending >= Some(RECENT / 2)))
}
