//! Errors that clients receive: a code in `extensions.code` and a message that explains what to do. Problems with the input
//! that a user can fix are not among them: see [`user_error`](super::user_error).
//!
//! [`Error`] does not implement `Display`, because async-graphql sends the text of every error that does to the client.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::ErrorExtensionValues;
use runtime::batcher::Unprocessed;
use sea_orm::DbErr;
use tracing::{error, warn};
use uuid::Uuid;

use crate::edge::refusal::{Refusal, rate_limited, whole_seconds};
use crate::orders::client_reports::Unread;
use crate::{commands, system};

/// The message of `SERVER_BUSY`.
pub const BUSY: &str = "The service is overloaded. Try again in a moment.";

/// The source of an error that its caller is to blame for although its code is `SERVER_BUSY`. Clients do not see it.
pub struct OverQuota;

#[derive(Clone, Debug)]
pub enum Error {
    /// The request has no token.
    Unauthenticated,
    /// The token may act for this client only.
    LimitedTo(String),
    /// The token does not have this scope.
    MissingScope(&'static str),
    BadUserInput(String),
    /// The caller cannot pay for what the field has read. It can after this time.
    RateLimited(Duration),
    /// Too many operations are active, too many reads wait, or the command database is in use. Nothing was executed.
    Busy,
    /// The caller has too many active operations, and there is room for others.
    OverQuota,
    /// The version of the client in the read model at the end of the wait.
    ReadModelBehind(i32),
    ReadModelUnavailable,
    CommandStoreUnavailable,
    QueueUnavailable,
    /// The queue has no dead-letter queue, or this process may not use it.
    DeadLettersUnavailable,
    /// Anything unexpected. The cause was logged with this id.
    Internal(Uuid),
}

impl Error {
    /// Logs the cause with an id.
    pub fn internal(cause: &dyn std::fmt::Display) -> Error {
        let id = Uuid::now_v7();
        error!(error_id = %id, "{cause}");
        Error::Internal(id)
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Unauthenticated => "UNAUTHENTICATED",
            Error::LimitedTo(_) | Error::MissingScope(_) => "FORBIDDEN",
            Error::BadUserInput(_) => "BAD_USER_INPUT",
            Error::RateLimited(_) => "RATE_LIMITED",
            Error::Busy | Error::OverQuota => "SERVER_BUSY",
            Error::ReadModelBehind(_) => "READ_MODEL_BEHIND",
            Error::ReadModelUnavailable => "READ_MODEL_UNAVAILABLE",
            Error::CommandStoreUnavailable => "COMMAND_STORE_UNAVAILABLE",
            Error::QueueUnavailable => "QUEUE_UNAVAILABLE",
            Error::DeadLettersUnavailable => "DEAD_LETTERS_UNAVAILABLE",
            Error::Internal(_) => "INTERNAL_SERVER_ERROR",
        }
    }

    fn message(&self) -> String {
        match self {
            Error::Unauthenticated => "A valid bearer token is required.".into(),
            Error::LimitedTo(client) => format!("The token is limited to client {client}."),
            Error::MissingScope(scope) => format!("The token needs the scope `{scope}`."),
            Error::BadUserInput(message) => message.clone(),
            Error::RateLimited(wait) => rate_limited(whole_seconds(*wait)),
            Error::Busy | Error::OverQuota => BUSY.into(),
            Error::ReadModelBehind(version) => {
                format!("The client has only reached version {version} so far. Try again in a moment.")
            }
            Error::ReadModelUnavailable => "Queries are unavailable at the moment. Try again.".into(),
            Error::CommandStoreUnavailable => {
                "The database is unavailable at the moment. A query can be repeated. A mutation may have been executed: repeat \
                 it with the same `idempotencyKey`, or check before you repeat it."
                    .into()
            }
            Error::QueueUnavailable => "The queue is unavailable at the moment. Try again.".into(),
            Error::DeadLettersUnavailable => {
                "There is no dead-letter queue, or the api may not use it. Its operator can allow that.".into()
            }
            Error::Internal(id) => format!("Internal error. It was logged with the id {id}."),
        }
    }
}

impl From<Error> for async_graphql::Error {
    fn from(error: Error) -> async_graphql::Error {
        let mut extensions = ErrorExtensionValues::default();
        extensions.set("code", error.code());
        match &error {
            Error::ReadModelBehind(version) => extensions.set("version", *version),
            Error::MissingScope(scope) => extensions.set("requiredScope", *scope),
            Error::RateLimited(wait) => extensions.set("retryAfter", whole_seconds(*wait)),
            Error::Internal(id) => extensions.set("id", id.to_string()),
            _ => {}
        }
        let mut source: Option<Arc<dyn Any + Send + Sync>> = None;
        if let Error::OverQuota = error {
            source = Some(Arc::new(OverQuota));
        }
        async_graphql::Error { message: error.message(), source, extensions: Some(extensions) }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::RateLimited(wait) => Error::RateLimited(wait),
            Refusal::OverQuota => Error::OverQuota,
            _ => Error::Busy,
        }
    }
}

impl From<read_model::Error> for Error {
    fn from(error: read_model::Error) -> Error {
        match error {
            read_model::Error::Unavailable(_) => {
                warn!("{error}");
                Error::ReadModelUnavailable
            }
            read_model::Error::Damaged(_) | read_model::Error::Refused(_) => Error::internal(&error),
        }
    }
}

impl From<system::Error> for Error {
    fn from(error: system::Error) -> Error {
        match error {
            system::Error::Database(error) => error.into(),
            system::Error::ReadModel(error) => error.into(),
            system::Error::SilentDatabase => Error::CommandStoreUnavailable,
            system::Error::Queue(_) => {
                warn!("{error}");
                Error::QueueUnavailable
            }
            system::Error::DeadLetters(_) | system::Error::NoQueue => {
                warn!("{error}");
                Error::DeadLettersUnavailable
            }
        }
    }
}

impl From<Unprocessed> for Error {
    fn from(reason: Unprocessed) -> Error {
        match reason {
            Unprocessed::QueueFull => Error::Busy,
            Unprocessed::Stopped => Error::internal(&reason),
        }
    }
}

impl From<Unread> for Error {
    fn from(reason: Unread) -> Error {
        match reason {
            Unread::Busy => Error::Busy,
            Unread::Failed(error) => error.into(),
        }
    }
}

impl From<commands::Error> for Error {
    fn from(error: commands::Error) -> Error {
        match error {
            commands::Error::Unavailable => Error::CommandStoreUnavailable,
            commands::Error::Busy => Error::Busy,
            commands::Error::Internal(_) => Error::internal(&error),
        }
    }
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Error {
        commands::Error::from(error).into()
    }
}
