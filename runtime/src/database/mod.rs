//! Connecting to the command database, on [SQLite](sqlite) or [PostgreSQL](postgres). A pool returns only connections in a
//! known state.

mod postgres;
mod sqlite;

use std::time::Duration;

use anyhow::{bail, ensure};
use sea_orm::DatabaseConnection;
use sea_orm::sqlx::Error;

pub use sqlite::is_in_memory;

/// Time after which a request without a connection fails as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

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
    let connected = if url.starts_with("sqlite:") {
        sqlite::connect(url).await
    } else {
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        ensure!(is_postgres, "DATABASE_URL must begin with postgres:// or sqlite://");
        postgres::connect(url, connections, statement_timeout).await
    };
    match connected {
        Ok(db) => Ok(db),
        Err(error) => {
            let why = reason(&error).replace(url, "DATABASE_URL").replace('\n', " ");
            bail!("cannot reach the database of DATABASE_URL: {why}")
        }
    }
}

/// The text of an error, without its causes, which repeat it.
fn reason(error: &Error) -> String {
    match error {
        Error::Configuration(reason) => reason.to_string(),
        other => other.to_string(),
    }
}
