//! Passwords that are rotated, and tokens that expire.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use sea_orm::sqlx::{ConnectOptions, Connection, Error, PgPool};
use sea_orm::{DatabaseConnection, DbBackend};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{ACQUIRE_TIMEOUT, reason};
use crate::settings::read_file;

/// Size limit of the file of the password.
const MAX_BYTES: usize = 64 * 1024;
/// Interval at which the file of the password is read.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which the credentials are tried.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Time for which the server may refuse the credentials.
const REFUSED_TIME: Duration = Duration::from_secs(20);

/// The password in a file.
pub struct Password {
    file: PathBuf,
    text: String,
}

impl Password {
    pub fn read(file: &Path) -> Result<Password, Error> {
        let text = read_file(file, MAX_BYTES).and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other));
        let text = text.map_err(|error| {
            Error::Configuration(format!("DATABASE_PASSWORD_FILE ({}): {error}", file.display()).into())
        })?;
        Ok(Password { file: file.into(), text: text.trim().to_owned() })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Gives new connections of the pool the password that is in the file now, until the pool is closed.
    pub async fn keep_current(mut self, pool: PgPool) {
        while !pool.is_closed() {
            sleep(READ_INTERVAL).await;
            // The file may be missing or empty for a moment while it is replaced.
            if let Ok(now) = Password::read(&self.file)
                && !now.text.is_empty()
                && now.text != self.text
            {
                self = now;
                pool.set_connect_options(pool.connect_options().as_ref().clone().password(&self.text));
                info!("the password of the database was read again");
            }
        }
    }
}

/// Cancels `shutdown` when the server has refused the credentials for a while: without a database the process cannot do its
/// work, and only a restart reads other credentials. Returns at the shutdown.
///
/// # Errors
/// When it has cancelled `shutdown`.
pub async fn watch_credentials(db: DatabaseConnection, shutdown: CancellationToken) -> anyhow::Result<()> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let pool = db.get_postgres_connection_pool();
    let mut refused_since = None;
    while shutdown.run_until_cancelled(sleep(CHECK_INTERVAL)).await.is_some() {
        match log_in(pool).await {
            Ok(()) => refused_since = None,
            Err(error) if is_refusal(&error) => {
                let since: &mut Instant = refused_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= REFUSED_TIME {
                    shutdown.cancel();
                    bail!("the server of DATABASE_URL refuses the credentials: {}", reason(&error));
                }
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// Opens a connection besides those of the pool. They stay usable with an old password, so they would hide that no other can be
/// opened.
async fn log_in(pool: &PgPool) -> Result<(), Error> {
    let connection = timeout(ACQUIRE_TIMEOUT, pool.connect_options().connect()).await;
    connection.map_err(|_| Error::PoolTimedOut)??.close().await
}

/// Class 28 is "invalid authorization specification":
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Database(error) if error.code().is_some_and(|code| code.starts_with("28")))
}
