//! The lock of a PostgreSQL database during a migration. It belongs to the connection.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};

/// Pause between attempts to get the lock.
const PAUSE: Duration = Duration::from_millis(100);

const LOCK: &str = "hashtext('order service migrations')";

/// Polls for the lock: a statement that waited for it would be waited for by a concurrent build of an index.
pub async fn lock(db: &DatabaseConnection) -> Result<(), DbErr> {
    if db.get_database_backend() == DbBackend::Postgres {
        let lock =
            Statement::from_string(DbBackend::Postgres, format!("SELECT pg_try_advisory_lock({LOCK}) AS locked"));
        let mut attempts = 0;
        while !db.query_one_raw(lock.clone()).await?.is_some_and(|row| row.try_get("", "locked").unwrap_or(false)) {
            attempts += 1;
            if attempts == 20 {
                eprintln!("waiting until another migration of this database has ended");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

pub async fn unlock(db: &DatabaseConnection) -> Result<(), DbErr> {
    if db.get_database_backend() == DbBackend::Postgres {
        db.execute_unprepared(&format!("SELECT pg_advisory_unlock({LOCK})")).await?;
    }
    Ok(())
}
