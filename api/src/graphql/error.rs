//! What a request can fail with, as its sender sees it: a code in `extensions.code`, a message that tells what to do, and
//! nothing of the inside. (What a *user* did wrong in an order is not an error but part of the answer: `userErrors`.)
//!
//! [`Error`] has no `Display` on purpose: async-graphql would show whatever can be displayed to the client.

use std::time::Duration;

use async_graphql::{ErrorExtensionValues, Pos, Response, ServerError};
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

/// Why a request is not executed.
pub fn refused(code: &str, message: impl Into<String>, position: Option<Pos>) -> ServerError {
    let mut error = ServerError::new(message, position);
    error.extensions.get_or_insert_default().set("code", code);
    error
}

/// Why an operation is not executed.
#[derive(Debug)]
pub enum Refused {
    /// The request is at fault.
    Request(Vec<ServerError>),
    /// Its sender asks for too much; after this time there is room again.
    RateLimited(Duration),
    /// Everyone together asks for too much.
    Busy,
}

impl From<ServerError> for Refused {
    fn from(error: ServerError) -> Refused {
        Refused::Request(vec![error])
    }
}

impl Refused {
    pub fn errors(self) -> Vec<ServerError> {
        match self {
            Refused::Request(errors) => errors,
            Refused::RateLimited(wait) => {
                let message = format!("You ask for more than your share. Try again in {} s.", whole_seconds(wait));
                let mut error = refused("RATE_LIMITED", message, None);
                error.extensions.get_or_insert_default().set("retryAfter", whole_seconds(wait));
                vec![error]
            }
            Refused::Busy => vec![refused("SERVER_BUSY", "The service is at its limit. Try again in a moment.", None)],
        }
    }
}

/// At least one.
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + 1
}

/// Hides what has no code of ours behind the id under which it is logged.
pub fn mask(mut response: Response) -> Response {
    for error in &mut response.errors {
        if error.extensions.as_ref().is_none_or(|extensions| extensions.get("code").is_none()) {
            let masked = async_graphql::Error::from(Error::internal(&error));
            (error.message, error.extensions) = (masked.message, masked.extensions);
        }
    }
    response
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_code_of_ours_is_hidden_behind_an_id() {
        let told = refused("FORBIDDEN", "This is told.", None);
        let masked = mask(Response::from_errors(vec![ServerError::new("SELECT secret", None), told.clone()]));
        let [error, other] = &masked.errors[..] else { panic!("both are there") };
        let extensions = error.extensions.as_ref().unwrap();
        assert_eq!(extensions.get("code"), Some(&"INTERNAL_SERVER_ERROR".into()));
        let Some(async_graphql::Value::String(id)) = extensions.get("id") else { panic!("it has an id") };
        assert!(error.message.contains(id) && !error.message.contains("secret"), "{}", error.message);
        assert_eq!(other, &told);
    }
}
