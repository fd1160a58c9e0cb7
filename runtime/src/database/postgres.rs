//! PostgreSQL: each connection is to a writer, and has our limits. A replica could not be written to, and a comparison with it
//! would report events that it lacks.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sea_orm::sqlx::{AssertSqlSafe, ConnectOptions, Connection, Error, Executor, Row};
use sea_orm::{DatabaseConnection, SqlxPostgresConnector};
use tokio::time::timeout;
use tracing::{info, warn};

use super::certificates::{check_authorities, choose_cryptography};
use super::credentials::Password;
use super::usage::note_use;
use super::{ACQUIRE_TIMEOUT, WrongSetting, reason};

/// Limit for waiting on a lock. Our own transactions hold locks for milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Longer than one pass of the outbox relay, which calls SQS inside its transaction.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(120);

/// Limit for testing a connection before its use. The rest of [`ACQUIRE_TIMEOUT`] is for a new connection.
const TEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between attempts to connect to a server that is starting.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

const TRANSACTION_POOLER: &str = "the database of DATABASE_URL is behind a pooler in transaction mode, in which settings of a \
                                  session and prepared statements are lost; use session mode";

pub async fn connect(
    url: &str,
    password_file: Option<&Path>,
    connections: u32,
    statement_timeout: Option<Duration>,
) -> Result<DatabaseConnection, Error> {
    let mut options: PgConnectOptions = url.parse()?;
    choose_cryptography();
    check_authorities(url, options.get_ssl_mode())
        .map_err(|reason| Error::Configuration(WrongSetting(format!("cannot use DATABASE_URL: {reason}")).into()))?;
    // Nothing here reads floating-point numbers. PgBouncer refuses this parameter and `options` at the start of a session.
    options = options.extra_float_digits(None).disable_statement_logging();
    let password = password_file.map(Password::read).transpose()?;
    if let Some(password) = &password {
        options = options.password(password.text());
    }
    let session: Arc<str> = statement_timeout.map(session_settings).unwrap_or_default().into();

    // The pool reports only that it timed out. This attempt reports why.
    let test = async || {
        let mut connection = options.connect().await?;
        set_up(&mut connection, &session).await?;
        if !session.is_empty() && !keeps_session(&options, &mut connection).await? {
            return Err(Error::Configuration(WrongSetting(TRANSACTION_POOLER.into()).into()));
        }
        connection.close().await
    };
    let starting = ConstantBuilder::new().with_delay(RETRY_PAUSE).with_max_times(30);
    let tested = test.retry(starting).when(is_starting);
    let no_response = |_| Error::Configuration(format!("no response within {:?}", 2 * ACQUIRE_TIMEOUT).into());
    timeout(2 * ACQUIRE_TIMEOUT, tested).await.map_err(no_response)??;

    let was_failing = Arc::new(AtomicBool::new(false));
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // Replaced by a test that also notices a server that became read-only.
        .test_before_acquire(false)
        .before_acquire(|connection, _| {
            Box::pin(async move {
                let tested = timeout(TEST_TIMEOUT, is_writer(connection)).await;
                let is_writer = tested.map_err(|_| io::Error::from(ErrorKind::TimedOut))??;
                if is_writer {
                    note_use();
                }
                Ok(is_writer)
            })
        })
        .after_connect(move |connection, _| {
            let (session, was_failing) = (session.clone(), was_failing.clone());
            Box::pin(async move {
                let result = set_up(connection, &session).await;
                if result.is_ok() {
                    note_use();
                }
                log_change(&was_failing, &result);
                result
            })
        });
    let pool = pool.connect_lazy_with(options);
    if let Some(password) = password {
        tokio::spawn(password.keep_current(pool.clone()));
    }
    Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool))
}

/// The settings of a session, as statements.
fn session_settings(statement_timeout: Duration) -> String {
    let settings = [
        // An acknowledged order must survive a crash, whatever the server's default is.
        ("synchronous_commit", "on".to_owned()),
        ("statement_timeout", format!("{}ms", statement_timeout.as_millis())),
        ("lock_timeout", format!("{}ms", LOCK_TIMEOUT.min(statement_timeout).as_millis())),
        // The owner of a transaction that idles this long is gone; its locks must not block others.
        ("idle_in_transaction_session_timeout", format!("{}ms", IDLE_IN_TRANSACTION.as_millis())),
    ];
    settings.map(|(name, value)| format!("SET {name} = '{value}'")).join("; ")
}

/// # Errors
/// When the server does not accept writes.
async fn set_up(connection: &mut PgConnection, session: &str) -> Result<(), Error> {
    connection.execute(AssertSqlSafe(session)).await?;
    match is_writer(connection).await? {
        true => Ok(()),
        false => Err(Error::Configuration("it is a replica or read-only; use the endpoint of the writer".into())),
    }
}

/// Whether a transaction can write. A writer that is demoted to a replica may keep its connections.
async fn is_writer(connection: &mut PgConnection) -> Result<bool, Error> {
    let row = connection.fetch_one("SHOW transaction_read_only").await?;
    Ok(row.try_get::<String, _>(0)? == "off")
}

/// Whether the session stays on its connection to the server while another session uses one, too.
async fn keeps_session(options: &PgConnectOptions, session: &mut PgConnection) -> Result<bool, Error> {
    let mut other = options.connect().await?;
    let before = server_process(session).await?;
    other.execute("BEGIN").await?;
    let after = server_process(session).await?;
    other.execute("ROLLBACK").await?;
    other.close().await?;
    Ok(before == after)
}

/// Reads the response to its end: before that, a pooler has not taken the process away from the session.
async fn server_process(session: &mut PgConnection) -> Result<String, Error> {
    let rows = session.fetch_all("SELECT pg_backend_pid()").await?;
    rows.first().ok_or(Error::RowNotFound)?.try_get_unchecked(0)
}

fn is_starting(error: &Error) -> bool {
    match error {
        Error::Io(error) => error.kind() == ErrorKind::ConnectionRefused,
        // 57P03: it cannot accept connections yet. 53300: it has too many.
        Error::Database(error) => matches!(error.code().as_deref(), Some("57P03" | "53300")),
        _ => false,
    }
}

/// Logs once when new connections cannot be used, and once when they can again.
fn log_change(was_failing: &AtomicBool, result: &Result<(), Error>) {
    match (was_failing.swap(result.is_err(), Ordering::Relaxed), result) {
        (false, Err(error)) => warn!("cannot use the database of DATABASE_URL: {}", reason(error)),
        (true, Ok(())) => info!("the database of DATABASE_URL can be used again"),
        _ => {}
    }
}
