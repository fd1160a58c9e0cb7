//! What a request can fail with, as its sender sees it: a code in `extensions.code`, a message that tells what to do, and
//! nothing of the inside. (What a *user* did wrong in an order is not an error but part of the answer: `userErrors`.)
//!
//! [`Error`] has no `Display` on purpose: async-graphql would show whatever can be displayed to the client.

use async_graphql::ErrorExtensionValues;
use read_model::Error as ReadModelError;
use sea_orm::DbErr;
use tracing::{error, warn};
use uuid::Uuid;

use crate::commands::database;

#[derive(Clone, Debug)]
pub enum Error {
    /// No token.
    Unauthenticated,
    /// The token does not allow this.
    Forbidden,
    BadUserInput(String),
    /// The read model had only reached this version of the client when the wait was over.
    ReadModelBehind(i32),
    ReadModelUnavailable,
    CommandStoreUnavailable,
    /// Anything unexpected: logged already, under this id.
    Internal(Uuid),
}

impl Error {
    /// Logs what went wrong and keeps only the id under which it was logged.
    pub fn internal(cause: &dyn std::fmt::Display) -> Error {
        let id = Uuid::now_v7();
        error!(error_id = %id, "{cause}");
        Error::Internal(id)
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Unauthenticated => "UNAUTHENTICATED",
            Error::Forbidden => "FORBIDDEN",
            Error::BadUserInput(_) => "BAD_USER_INPUT",
            Error::ReadModelBehind(_) => "READ_MODEL_BEHIND",
            Error::ReadModelUnavailable => "READ_MODEL_UNAVAILABLE",
            Error::CommandStoreUnavailable => "COMMAND_STORE_UNAVAILABLE",
            Error::Internal(_) => "INTERNAL_SERVER_ERROR",
        }
    }

    fn message(&self) -> String {
        match self {
            Error::Unauthenticated => "A valid bearer token is needed.".into(),
            Error::Forbidden => "The token does not allow this.".into(),
            Error::BadUserInput(message) => message.clone(),
            Error::ReadModelBehind(version) => {
                format!("The client has only reached version {version} so far. Ask again in a moment.")
            }
            Error::ReadModelUnavailable => "Queries cannot be answered at the moment. Try again.".into(),
            Error::CommandStoreUnavailable => "The command database cannot be reached at the moment. Try again; an order only with the same `idempotencyKey`, since it may have been placed, and what creates something only after a look whether it is there.".into(),
            Error::Internal(id) => format!("Something went wrong here. It was logged as {id}."),
        }
    }
}

impl From<Error> for async_graphql::Error {
    fn from(error: Error) -> async_graphql::Error {
        let mut extensions = ErrorExtensionValues::default();
        extensions.set("code", error.code());
        match &error {
            Error::ReadModelBehind(version) => extensions.set("version", *version),
            Error::Internal(id) => extensions.set("id", id.to_string()),
            _ => {}
        }
        async_graphql::Error { message: error.message(), source: None, extensions: Some(extensions) }
    }
}

impl From<ReadModelError> for Error {
    fn from(error: ReadModelError) -> Error {
        match error {
            ReadModelError::Unavailable(_) => {
                warn!("{error}");
                Error::ReadModelUnavailable
            }
            ReadModelError::Damaged(_) => Error::internal(&error),
        }
    }
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Error {
        if database::is_outage(&error) {
            warn!("the command database is unavailable: {error}");
            Error::CommandStoreUnavailable
        } else {
            Error::internal(&error)
        }
    }
}
