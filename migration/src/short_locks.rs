//! Statements of PostgreSQL that need a lock on a table which is in use.

use std::time::Duration;

use sea_orm_migration::prelude::*;

/// Attempts to get a lock, and the pause between them: five minutes in all.
const ATTEMPTS: u32 = 250;
const PAUSE: Duration = Duration::from_secs(1);

/// Waits for the lock in short attempts, because other transactions queue behind a waiting one.
pub async fn alter(manager: &SchemaManager<'_>, statement: &str) -> Result<(), DbErr> {
    for attempt in 1.. {
        let transaction = manager.begin().await?;
        transaction.get_connection().execute_unprepared("SET LOCAL lock_timeout = '300ms'").await?;
        match transaction.get_connection().execute_unprepared(statement).await {
            Ok(_) => return transaction.commit().await,
            Err(error) if attempt == ATTEMPTS || !error.to_string().contains("lock timeout") => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok(())
}
