//! What a migration waits for.

use std::cell::RefCell;
use std::time::Duration;

use sea_orm::sqlx::{ConnectOptions, Connection, Error, Row};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};
use tokio::time::sleep;

const INTERVAL: Duration = Duration::from_millis(500);

/// The session whose lock a process of the server waits for.
const BLOCKER: &str =
    "SELECT format('process %s of the server (%s, %s, since %s): %s', pid, usename, state, xact_start,
        left(query, 80))
    FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids($1)) LIMIT 1";

/// Runs a migration. If it fails after it has waited for a lock, the error names the session that had the lock.
pub async fn with_blocker<T>(
    db: &DatabaseConnection,
    migration: impl Future<Output = Result<T, DbErr>>,
) -> anyhow::Result<T> {
    let blocker = RefCell::new(None);
    let result = match db.get_database_backend() {
        DbBackend::Postgres => {
            let process = Statement::from_string(DbBackend::Postgres, "SELECT pg_backend_pid() AS process");
            let process = db.query_one_raw(process).await?.map(|row| row.try_get("", "process")).transpose()?;
            tokio::select! {
                biased;
                result = migration => result,
                () = watch(db, process.unwrap_or_default(), &blocker) => unreachable!("it never ends"),
            }
        }
        _ => migration.await,
    };
    match (result, blocker.into_inner()) {
        (Ok(result), _) => Ok(result),
        (Err(error), Some(blocker)) if error.to_string().contains("lock timeout") => {
            anyhow::bail!("it waited for a lock of {blocker}; run it again when that has ended ({error})")
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Remembers the last session that the process has waited for, and prints each once.
async fn watch(db: &DatabaseConnection, process: i32, blocker: &RefCell<Option<String>>) {
    loop {
        sleep(INTERVAL).await;
        if let Ok(Some(found)) = find_blocker(db, process).await
            && blocker.borrow().as_ref() != Some(&found)
        {
            eprintln!("waiting for a lock of {found}");
            blocker.replace(Some(found));
        }
    }
}

/// Uses a connection of its own, because the migration waits on that of the pool.
async fn find_blocker(db: &DatabaseConnection, process: i32) -> Result<Option<String>, Error> {
    let mut session = db.get_postgres_connection_pool().connect_options().connect().await?;
    let found = sea_orm::sqlx::query(BLOCKER).bind(process).fetch_optional(&mut session).await?;
    session.close().await?;
    found.map(|row| row.try_get(0)).transpose()
}
