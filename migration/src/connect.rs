//! Connecting to the database, with the cause when that fails. A pool reports only that it timed out.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sea_orm::sqlx::{ConnectOptions, Connection, Error, Executor, Row};
use sea_orm::{DatabaseConnection, SqlxPostgresConnector, SqlxSqliteConnector};
use tokio::time::{Instant, sleep, timeout};

use crate::certificates::{check_authorities, choose_cryptography, with_remedy};

/// How long a server may take to start or to respond.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What follows in the file of a password is not read.
const MAX_PASSWORD_BYTES: u64 = 64 * 1024;
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Limit for waiting on a lock. Orders wait behind a statement that waits for the lock of a whole table.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '3s'";

const TRANSACTION_POOLER: &str =
    "it is behind a pooler in transaction mode, in which locks of a session are lost; use session mode";

/// A pool of one connection: the lock that makes concurrent runs wait for each other belongs to it.
pub async fn connect(url: &str, password_file: Option<&Path>) -> anyhow::Result<DatabaseConnection> {
    let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
    ensure!(is_postgres || url.starts_with("sqlite:"), "DATABASE_URL must begin with postgres:// or sqlite://");
    let password = password_file.map(|path| {
        let mut password = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_PASSWORD_BYTES).read_to_string(&mut password));
        read.with_context(|| format!("cannot read DATABASE_PASSWORD_FILE ({})", path.display())).map(|_| password)
    });
    let password = password.transpose()?;
    let connected = if is_postgres { postgres(url, password.as_deref()).await } else { sqlite(url).await };
    match connected {
        Ok(db) => Ok(db),
        Err(error) => {
            let reason = match error {
                Error::Configuration(reason) => reason.to_string(),
                error => error.to_string(),
            };
            // The URL may hold a password.
            let reason = with_remedy(reason).replace(url, "DATABASE_URL");
            bail!("cannot reach the database of DATABASE_URL: {reason}")
        }
    }
}

async fn sqlite(url: &str) -> Result<DatabaseConnection, Error> {
    let mut options: SqliteConnectOptions = url.parse()?;
    if !url.contains('?') {
        options = options.create_if_missing(true);
    }
    options = options.disable_statement_logging();
    let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.connect_with(options).await?))
}

async fn postgres(url: &str, password: Option<&str>) -> Result<DatabaseConnection, Error> {
    let options: PgConnectOptions = url.parse()?;
    choose_cryptography();
    check_authorities(url, options.get_ssl_mode()).map_err(|reason| Error::Configuration(reason.into()))?;
    // PgBouncer refuses this setting at the start.
    let mut options = options.extra_float_digits(None).disable_statement_logging();
    if let Some(password) = password {
        options = options.password(password.trim());
    }
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match timeout(CONNECT_TIMEOUT, test(&options)).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) if is_starting(&error) && Instant::now() < deadline => sleep(RETRY_PAUSE).await,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(Error::Configuration(format!("no response within {CONNECT_TIMEOUT:?}").into())),
        }
    }
    let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = pool.after_connect(|session, _| Box::pin(async { session.execute(LOCK_TIMEOUT).await.map(drop) }));
    Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool.connect_with(options).await?))
}

/// Fails if the database cannot be used, or if a session does not stay on its connection to the server while another uses one.
async fn test(options: &PgConnectOptions) -> Result<(), Error> {
    let mut session = options.connect().await?;
    let before = server_process(&mut session).await?;
    let mut other = options.connect().await?;
    other.execute("BEGIN").await?;
    let after = server_process(&mut session).await?;
    other.execute("ROLLBACK").await?;
    if before != after {
        return Err(Error::Configuration(TRANSACTION_POOLER.into()));
    }
    other.close().await?;
    session.close().await
}

async fn server_process(session: &mut PgConnection) -> Result<String, Error> {
    session.fetch_one("SELECT pg_backend_pid()").await?.try_get_unchecked(0)
}

fn is_starting(error: &Error) -> bool {
    match error {
        Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        // 57P03: it cannot accept connections yet. 53300: it has too many.
        Error::Database(error) => matches!(error.code().as_deref(), Some("57P03" | "53300")),
        _ => false,
    }
}
