//! PostgreSQL: connections with our limits.

use std::time::Duration;

use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sea_orm::sqlx::{ConnectOptions, Error};
use sea_orm::{DatabaseConnection, SqlxPostgresConnector};

use super::ACQUIRE_TIMEOUT;

/// Limit for waiting on a lock. Our own transactions hold locks for milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Longer than one pass of the outbox relay, which calls SQS inside its transaction.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(120);

pub async fn connect(
    url: &str,
    connections: u32,
    statement_timeout: Option<Duration>,
) -> Result<DatabaseConnection, Error> {
    let mut options: PgConnectOptions = url.parse()?;
    options = options.disable_statement_logging();
    if let Some(limit) = statement_timeout {
        options = options.options([
            // An acknowledged order must survive a crash, whatever the server's default is.
            ("synchronous_commit", "on".to_owned()),
            ("statement_timeout", format!("{}ms", limit.as_millis())),
            ("lock_timeout", format!("{}ms", LOCK_TIMEOUT.min(limit).as_millis())),
            // The owner of a transaction that idles this long is gone; its locks must not block others.
            ("idle_in_transaction_session_timeout", format!("{}ms", IDLE_IN_TRANSACTION.as_millis())),
        ]);
    }
    let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
    Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool.connect_with(options).await?))
}
