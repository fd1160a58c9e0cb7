//! Publishing without the relay: a program such as Debezium reads the events from the write-ahead log of PostgreSQL.
//! docs/log-tailing.md describes it.

use anyhow::{anyhow, ensure};
use entity::{order_event, outbox_message};
use runtime::database::is_one_of;
use runtime::one_line;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, QueryFilter, Statement};

/// Who publishes the events of committed transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// The relay sends each event that has a row in `outbox`.
    Relay,
    /// A reader of the write-ahead log sends the rows of `outbox_messages`.
    LogReader,
}

impl Publication {
    /// Checks that nothing is missing that a reader of the log needs. Events that are written before a slot exists reach no reader.
    ///
    /// # Errors
    /// Each error says how to fix it.
    pub async fn check(self, db: &DatabaseConnection) -> anyhow::Result<()> {
        if self == Publication::Relay {
            return Ok(());
        }
        ensure!(
            db.get_database_backend() == DbBackend::Postgres,
            "RELAY=off needs PostgreSQL: no program can read the events from the log of SQLite"
        );
        let failed = |error| anyhow!("cannot read the replication slots of the database: {}", one_line(&error));
        let wal_level = wal_level(db).await.map_err(failed)?;
        ensure!(
            wal_level == "logical",
            "RELAY=off needs wal_level=logical in PostgreSQL (rds.logical_replication=1 on AWS), but it is {wal_level}"
        );
        ensure!(
            unread(db).await.map_err(failed)?.is_some(),
            "RELAY=off needs a logical replication slot in the database, or events are lost for the reader of the log: \
             create it first, as docs/log-tailing.md shows"
        );
        Ok(())
    }
}

async fn wal_level(db: &DatabaseConnection) -> Result<String, DbErr> {
    let sql = "SELECT current_setting('wal_level') AS wal_level";
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?.expect("a row");
    row.try_get("", "wal_level")
}

/// Bytes of the log that the slowest reader has not confirmed. `None` if the database has no logical slot, or none with its whole log.
pub(super) async fn unread(db: &DatabaseConnection) -> Result<Option<u64>, DbErr> {
    let sql = "SELECT max(pg_current_wal_lsn() - confirmed_flush_lsn)::bigint AS unread FROM pg_replication_slots
        WHERE slot_type = 'logical' AND database = current_database() AND wal_status IS DISTINCT FROM 'lost'";
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?.expect("a row");
    let unread: Option<i64> = row.try_get("", "unread")?;
    Ok(unread.map(|bytes| bytes.try_into().unwrap_or(0)))
}

/// One statement with the same text for any number of events.
const INSERT: &str = "INSERT INTO outbox_messages (id, aggregatetype, aggregateid, type, payload)
    SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])";

/// Writes events to the log, as part of a transaction: inserts their messages and deletes them again. The log has both, and a reader
/// gets the insertions when the transaction is committed.
pub async fn write(db: &impl ConnectionTrait, events: &[order_event::Model]) -> Result<(), DbErr> {
    if events.is_empty() {
        return Ok(());
    }
    let messages: Vec<outbox_message::Model> = events.iter().map(Into::into).collect();
    let texts = |column: fn(&outbox_message::Model) -> &String| messages.iter().map(column).cloned().collect::<Vec<_>>();
    let ids = || messages.iter().map(|message| message.id);
    let values = [
        ids().collect::<Vec<_>>().into(),
        texts(|message| &message.aggregatetype).into(),
        texts(|message| &message.aggregateid).into(),
        texts(|message| &message.r#type).into(),
        texts(|message| &message.payload).into(),
    ];
    db.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, INSERT, values)).await?;
    let written = is_one_of(db, outbox_message::Column::Id, ids());
    outbox_message::Entity::delete_many().filter(written).exec(db).await?;
    Ok(())
}
