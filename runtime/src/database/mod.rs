//! Connecting to the command database, on [SQLite](sqlite) or [PostgreSQL](postgres). A pool returns only connections in a
//! known state.

mod certificates;
mod credentials;
mod currency;
mod errors;
mod postgres;
mod sqlite;
mod usage;
mod values;

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use sea_orm::DatabaseConnection;
use sea_orm::sqlx::Error;

use self::certificates::with_remedy;

pub use credentials::watch_credentials;
pub use currency::{OtherCurrency, check_currency, store_currency};
pub use errors::{WrongSetting, cannot_use_schema, is_permanent};
pub use sqlite::is_in_memory;
pub use usage::is_in_use;
pub use values::is_one_of;

/// Time after which a request without a connection fails as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// Where the database is, and where its password is.
pub struct Login<'a> {
    pub url: &'a str,
    /// Replaces the password of the URL. A pool uses a new password a second after it was written.
    pub password_file: Option<&'a Path>,
}

impl<'a, Url: AsRef<str> + ?Sized> From<&'a Url> for Login<'a> {
    fn from(url: &'a Url) -> Login<'a> {
        Login { url: url.as_ref(), password_file: None }
    }
}

/// Connects a pool of at most `connections`. SQLite gets one connection, because it allows one writer at a time; its file is
/// created if it does not exist. On PostgreSQL `statement_timeout` limits each statement; without it a statement, such as one of a
/// migration, may run as long as it needs.
///
/// # Errors
/// Each is one line, without the URL, which may contain a password.
pub async fn connect(
    login: impl Into<Login<'_>>,
    connections: u32,
    statement_timeout: Option<Duration>,
) -> anyhow::Result<DatabaseConnection> {
    let Login { url, password_file } = login.into();
    let connected = if url.starts_with("sqlite:") {
        sqlite::connect(url).await
    } else {
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        if !is_postgres {
            bail!(WrongSetting("DATABASE_URL must begin with postgres:// or sqlite://".into()));
        }
        postgres::connect(url, password_file, connections, statement_timeout).await
    };
    match connected {
        Ok(db) => Ok(db),
        Err(error) => {
            let error = match error {
                Error::Configuration(reason) => match reason.downcast::<WrongSetting>() {
                    Ok(setting) => bail!(*setting),
                    Err(reason) => Error::Configuration(reason),
                },
                error => error,
            };
            let why = with_remedy(reason(&error)).replace(url, "DATABASE_URL").replace('\n', " ");
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
