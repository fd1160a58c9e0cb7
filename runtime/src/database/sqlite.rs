//! SQLite: one connection, which is replaced after a failed transaction.

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sea_orm::sqlx::{ConnectOptions, Connection, Error};
use sea_orm::{DatabaseConnection, SqlxSqliteConnector};
use tokio::signal::unix::{SignalKind, signal};

use super::ACQUIRE_TIMEOUT;
use super::usage::note_use;

/// The signal of a write beyond the limit of the size of files (`ulimit -f`), on Linux (x86-64, ARM) and macOS.
const SIGXFSZ: i32 = 25;

/// Whether this is the URL of a database that ends with the process.
pub fn is_in_memory(url: &str) -> bool {
    url.contains(":memory:") || url.contains("mode=memory")
}

pub async fn connect(url: &str) -> Result<DatabaseConnection, Error> {
    // With a handler, such a write fails (EFBIG) as on a full disk. Without one, the signal ends the process.
    let _handler = signal(SignalKind::from_raw(SIGXFSZ))?;
    let mut options: SqliteConnectOptions = url.parse()?;
    if !url.contains('?') {
        options = options.create_if_missing(true);
    }
    // An acknowledged order must survive a crash of the machine.
    options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    // The bytes of deleted and changed rows are overwritten: they may be personal data of a forgotten client.
    options = options.pragma("secure_delete", "ON").disable_statement_logging();
    let mut pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    // A call in this process; the connection was tested when it was returned.
    pool = pool.acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false);
    // A database in memory ends with its last connection. This one outlives those that the pool closes.
    let keeper = match is_in_memory(url) {
        true => Some(options.connect().await?),
        false => None,
    };
    pool = pool.after_release(move |connection, _| {
        let _ = &keeper;
        // After a failure, such as a full disk, SQLite may have rolled back by itself. The driver does not notice: its own
        // rollback fails, and it makes every later transaction a savepoint of one that is never committed. So a connection
        // that still counts as in a transaction is closed. Rollbacks run in the background; the ping waits for them.
        Box::pin(async move {
            connection.ping().await?;
            note_use();
            Ok(!connection.is_in_transaction())
        })
    });
    Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.connect_with(options).await?))
}
