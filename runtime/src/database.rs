//! Connecting to the command database.

use std::time::Duration;

use anyhow::{bail, ensure};
use sea_orm::sqlx::sqlite::SqliteJournalMode;
use sea_orm::{ConnectOptions, Database, DatabaseConnection};

/// How long a request waits for a connection before the database counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a statement waits for what somebody else has locked. Our own transactions take milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Longer than a pass of the outbox relay, which waits for SQS inside its transaction.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(120);

/// Connects a pool of at most `connections`; for SQLite of one, whose writers exclude each other anyway. A file of SQLite
/// is created where it does not exist.
///
/// # Errors
/// Each is one line, without the URL: it may hold a password.
///
/// `statement_timeout` bounds each statement on PostgreSQL; without one a statement may
/// take as long as it needs, as in a migration.
pub async fn connect(
    url: &str,
    connections: u32,
    statement_timeout: Option<Duration>,
) -> anyhow::Result<DatabaseConnection> {
    let mut options;
    if let Some(file) = url.strip_prefix("sqlite:") {
        let created = !file.contains('?') && file != ":memory:";
        options = ConnectOptions::new(if created { format!("{url}?mode=rwc") } else { url.to_owned() });
        // A database in memory lives as long as its connection.
        options.min_connections(1).max_connections(1).idle_timeout(None).max_lifetime(None);
        // A request that is cancelled while its connection is tested would take the connection along.
        options.test_before_acquire(false);
        options.map_sqlx_sqlite_opts(|sqlite| sqlite.journal_mode(SqliteJournalMode::Wal));
    } else {
        let postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        ensure!(postgres, "DATABASE_URL must begin with postgres:// or sqlite://");
        options = ConnectOptions::new(url);
        options.max_connections(connections);
        options.map_sqlx_postgres_opts(move |postgres| match statement_timeout {
            // A transaction that idles so long has lost its owner, who must not keep others from its rows.
            Some(limit) => postgres.options([
                // What was acknowledged must survive a crash, whatever the server's default is.
                ("synchronous_commit", "on".to_owned()),
                ("statement_timeout", format!("{}ms", limit.as_millis())),
                ("lock_timeout", format!("{}ms", LOCK_TIMEOUT.min(limit).as_millis())),
                ("idle_in_transaction_session_timeout", format!("{}ms", IDLE_IN_TRANSACTION.as_millis())),
            ]),
            None => postgres,
        });
    }
    options.sqlx_logging(false).acquire_timeout(ACQUIRE_TIMEOUT);
    match Database::connect(options).await {
        Ok(db) => Ok(db),
        Err(error) => {
            // Not its causes: they repeat it.
            let why = error.to_string().replace(url, "DATABASE_URL").replace('\n', " ");
            bail!("cannot reach the database of DATABASE_URL: {why}")
        }
    }
}
