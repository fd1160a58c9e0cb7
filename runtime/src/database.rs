//! Connecting to the command database.

use std::time::Duration;

use anyhow::{bail, ensure};
use sea_orm::sqlx::sqlite::SqliteJournalMode;
use sea_orm::{ConnectOptions, Database, DatabaseConnection};

/// Time after which a request without a connection fails as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// Limit for waiting on a lock. Our own transactions hold locks for milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Longer than one pass of the outbox relay, which calls SQS inside its transaction.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(120);

/// Connects a pool of at most `connections`. SQLite gets one connection, because it allows one writer at a time; its file is
/// created if it does not exist. On PostgreSQL `statement_timeout` limits each statement; without it a statement, such as one of a
/// migration, may run as long as it needs.
///
/// # Errors
/// Each is one line, without the URL, which may contain a password.
pub async fn connect(
    url: &str,
    connections: u32,
    statement_timeout: Option<Duration>,
) -> anyhow::Result<DatabaseConnection> {
    let mut options;
    if let Some(file) = url.strip_prefix("sqlite:") {
        let created = !file.contains('?') && file != ":memory:";
        options = ConnectOptions::new(if created { format!("{url}?mode=rwc") } else { url.to_owned() });
        // A database in memory is lost when its connection closes.
        options.min_connections(1).max_connections(1).idle_timeout(None).max_lifetime(None);
        // Cancelling a request while it tests the connection would close it, and a database in memory with it.
        options.test_before_acquire(false);
        options.map_sqlx_sqlite_opts(|sqlite| sqlite.journal_mode(SqliteJournalMode::Wal));
    } else {
        let postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        ensure!(postgres, "DATABASE_URL must begin with postgres:// or sqlite://");
        options = ConnectOptions::new(url);
        options.max_connections(connections);
        options.map_sqlx_postgres_opts(move |postgres| match statement_timeout {
            Some(limit) => postgres.options([
                // An acknowledged order must survive a crash, whatever the server's default is.
                ("synchronous_commit", "on".to_owned()),
                ("statement_timeout", format!("{}ms", limit.as_millis())),
                ("lock_timeout", format!("{}ms", LOCK_TIMEOUT.min(limit).as_millis())),
                // The owner of a transaction that idles this long is gone; its locks must not block others.
                ("idle_in_transaction_session_timeout", format!("{}ms", IDLE_IN_TRANSACTION.as_millis())),
            ]),
            None => postgres,
        });
    }
    options.sqlx_logging(false).acquire_timeout(ACQUIRE_TIMEOUT);
    match Database::connect(options).await {
        Ok(db) => Ok(db),
        Err(error) => {
            // Without its causes, which repeat it.
            let why = error.to_string().replace(url, "DATABASE_URL").replace('\n', " ");
            bail!("cannot reach the database of DATABASE_URL: {why}")
        }
    }
}
