//! Errors at the start, with what to do.

use sea_orm::DbErr;
use sea_orm::RuntimeErr::SqlxError;

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

/// Why a statement on our tables failed.
pub fn cannot_use_schema(error: &DbErr) -> anyhow::Error {
    let code = match error {
        DbErr::Exec(SqlxError(error)) | DbErr::Query(SqlxError(error)) => error.as_database_error(),
        _ => None,
    };
    let code = code.and_then(|error| error.code().map(|code| code.into_owned()));
    let remedy = match code.as_deref() {
        // A table or column is missing; SQLite has one code for most errors of a statement.
        Some("42P01" | "42703" | "1") => ": its schema is older than this release; run `migration up`",
        Some("42501") => ": its user lacks a right",
        _ => "",
    };
    anyhow::anyhow!("cannot read the command database{remedy} ({})", one_line(error))
}
