//! Errors at the start, with what to do.

use sea_orm::RuntimeErr::SqlxError;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};

use super::OtherCurrency;
use crate::one_line;

/// A setting that cannot work, whatever the state of the database is.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongSetting(pub String);

/// Whether connecting again cannot help.
pub fn is_permanent(error: &anyhow::Error) -> bool {
    error.is::<WrongSetting>() || error.is::<OtherCurrency>()
}

/// The schema of tables that a session does not find: its user may not use the schema, or `search_path` does not name it.
const HIDDEN_TABLES: &str = "
    SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = 'order_events' AND relkind = 'r' AND to_regclass('order_events') IS NULL LIMIT 1";

/// Why a statement on our tables failed.
pub async fn cannot_use_schema(db: &DatabaseConnection, error: &DbErr) -> anyhow::Error {
    let code = match error {
        DbErr::Exec(SqlxError(error)) | DbErr::Query(SqlxError(error)) => error.as_database_error(),
        _ => None,
    };
    let code = code.and_then(|error| error.code().map(|code| code.into_owned()));
    let remedy = match code.as_deref() {
        // A table or column is missing; SQLite has one code for most errors of a statement.
        Some("42P01" | "42703" | "1") => match schema_of_hidden_tables(db).await {
            Some(schema) => format!(
                ": its tables are in the schema \"{schema}\", which its user may not use (GRANT USAGE ON SCHEMA), or which is \
                 not in search_path"
            ),
            None => ": its schema is older than this release; run `migration up`".into(),
        },
        Some("42501") => ": its user lacks a right".into(),
        _ => String::new(),
    };
    anyhow::anyhow!("cannot read the command database{remedy} ({})", one_line(error))
}

/// `None` if there is none, or it cannot be found out.
async fn schema_of_hidden_tables(db: &DatabaseConnection) -> Option<String> {
    if db.get_database_backend() != DbBackend::Postgres {
        return None;
    }
    let row = db.query_one_raw(Statement::from_string(DbBackend::Postgres, HIDDEN_TABLES)).await.ok()??;
    row.try_get_by_index(0).ok()
}
