//! The command database: connecting, and telling an outage from a fault.

use std::time::Duration;

use anyhow::anyhow;
use entity::{client, order, order_event, order_item, product};
use sea_orm::sqlx::{Error as SqlxError, sqlite::SqliteJournalMode};
use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbBackend, DbErr, EntityTrait, QuerySelect, RuntimeErr};

/// How long a request waits for a connection before the database counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects, and checks that the schema is there.
///
/// # Errors
/// Each says what to do.
pub async fn open(url: &str, connections: u32) -> anyhow::Result<DatabaseConnection> {
    let db = connect(url, connections).await.map_err(|e| anyhow!("cannot reach the database of DATABASE_URL: {e}"))?;
    check_schema(&db)
        .await
        .map_err(|e| anyhow!("the database lacks what this release needs: run `migration up` ({e})"))?;
    Ok(db)
}

/// Connects a pool of at most `connections`; for SQLite of one, whose writers exclude each other anyway.
pub async fn connect(url: &str, connections: u32) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false).acquire_timeout(ACQUIRE_TIMEOUT);
    if DbBackend::Sqlite.is_prefix_of(url) {
        // A database in memory lives as long as its connection.
        options.min_connections(1).max_connections(1).idle_timeout(None).max_lifetime(None);
        options.map_sqlx_sqlite_opts(|sqlite| sqlite.journal_mode(SqliteJournalMode::Wal));
    } else {
        options.max_connections(connections);
    }
    Database::connect(options).await
}

/// Whether every table and column that this release uses is there.
async fn check_schema(db: &DatabaseConnection) -> Result<(), DbErr> {
    client::Entity::find().limit(0).all(db).await?;
    product::Entity::find().limit(0).all(db).await?;
    order::Entity::find().limit(0).all(db).await?;
    order_item::Entity::find().limit(0).all(db).await?;
    order_event::Entity::find().limit(0).all(db).await?;
    Ok(())
}

/// Whether the database could not be reached or could not cope just now, so that the same request may succeed later.
pub fn is_outage(error: &DbErr) -> bool {
    match error {
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => true,
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => match &**error {
            SqlxError::Io(_) | SqlxError::Tls(_) | SqlxError::PoolTimedOut | SqlxError::PoolClosed => true,
            SqlxError::WorkerCrashed => true,
            // https://www.postgresql.org/docs/current/errcodes-appendix.html: connection exception, transaction
            // rollback, insufficient resources, operator intervention; "5" is SQLite's SQLITE_BUSY.
            SqlxError::Database(error) => error.code().is_some_and(|code| {
                ["08", "40", "53", "57"].iter().any(|class| code.len() == 5 && code.starts_with(class)) || code == "5"
            }),
            _ => false,
        },
        _ => false,
    }
}
