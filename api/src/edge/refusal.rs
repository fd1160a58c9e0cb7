//! Why an operation is refused, as its sender sees it. Errors of resolvers are in [`crate::graphql::error`].

use std::sync::Arc;
use std::time::Duration;

use async_graphql::{Pos, Response, ServerError};
use axum::http::StatusCode;

use crate::graphql::error::{BUSY, Error, OverQuota};

/// Why an operation is not executed.
#[derive(Debug)]
pub enum Refusal {
    /// The request is invalid.
    Invalid(Vec<ServerError>),
    /// The sender has used up its quota. It can try again after this time.
    RateLimited(Duration),
    /// Too many operations or connections are active.
    Busy,
    /// The sender has too many of them, and there is room for others.
    OverQuota,
    /// Anything unexpected. The cause was logged with the id in the error.
    Internal(ServerError),
    /// The request has no token, and needs one.
    NoToken,
    /// The token of the request is invalid.
    InvalidToken,
    /// The HTTP request is refused before its operation is known.
    Http { status: StatusCode, code: &'static str, message: String },
}

impl From<ServerError> for Refusal {
    fn from(error: ServerError) -> Refusal {
        Refusal::Invalid(vec![error])
    }
}

impl Refusal {
    pub fn http(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::Http { status, code, message: message.into() }
    }

    /// Logs the cause with an id.
    pub fn internal(cause: &dyn std::fmt::Display) -> Refusal {
        let mut error = ServerError::new("", None);
        hide(&mut error, cause);
        Refusal::Internal(error)
    }

    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::http(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    pub fn method_not_allowed(message: impl Into<String>) -> Refusal {
        Refusal::http(StatusCode::METHOD_NOT_ALLOWED, "BAD_REQUEST", message)
    }

    pub fn errors(self) -> Vec<ServerError> {
        match self {
            Refusal::Invalid(errors) => errors,
            Refusal::RateLimited(wait) => {
                let seconds = whole_seconds(wait);
                let mut error = error("RATE_LIMITED", rate_limited(seconds), None);
                error.extensions.get_or_insert_default().set("retryAfter", seconds);
                vec![error]
            }
            Refusal::Internal(error) => vec![error],
            Refusal::Busy => vec![error("SERVER_BUSY", BUSY, None)],
            Refusal::OverQuota => {
                let mut error = error("SERVER_BUSY", BUSY, None);
                error.source = Some(Arc::new(OverQuota));
                vec![error]
            }
            Refusal::NoToken | Refusal::InvalidToken => {
                vec![error("UNAUTHENTICATED", "A valid bearer token is required.", None)]
            }
            Refusal::Http { code, message, .. } => vec![error(code, message, None)],
        }
    }
}

/// The message of `RATE_LIMITED`.
pub fn rate_limited(seconds: u64) -> String {
    format!("Rate limit exceeded. Try again in {seconds} s.")
}

/// The number of seconds to wait, rounded up; at least 1.
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + 1
}

/// Longest message of an error, in characters: many repeat a part of the request.
pub const MAX_MESSAGE: usize = 300;

fn cut(message: String) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => message[..end].to_owned() + "…",
        None => message,
    }
}

/// A GraphQL error with a code in `extensions.code`.
pub fn error(code: &str, message: impl Into<String>, position: Option<Pos>) -> ServerError {
    let mut error = ServerError::new(cut(message.into()), position);
    error.extensions.get_or_insert_default().set("code", code);
    error
}

/// The code of an error made by [`error`] or by a resolver.
pub fn code(error: &ServerError) -> Option<&str> {
    match error.extensions.as_ref()?.get("code")? {
        async_graphql::Value::String(code) => Some(code),
        _ => None,
    }
}

/// Codes of errors that the service is to blame for, and not the sender.
const FAILURES: [&str; 6] = [
    "COMMAND_STORE_UNAVAILABLE",
    "INTERNAL_SERVER_ERROR",
    "OPERATION_TIMEOUT",
    "QUEUE_UNAVAILABLE",
    "READ_MODEL_UNAVAILABLE",
    "SERVER_BUSY",
];

/// Whether the service is to blame for an error.
pub fn is_failure(error: &ServerError) -> bool {
    code(error).is_none_or(|code| FAILURES.contains(&code)) && error.source::<OverQuota>().is_none()
}

/// The gravest error: the first one that the service is to blame for, or else the first one.
pub fn gravest(errors: &[ServerError]) -> Option<&ServerError> {
    errors.iter().find(|error| is_failure(error)).or(errors.first())
}

/// How an operation ended, for operators. A later one is graver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    #[default]
    Ok,
    /// Its sender is to blame.
    Refused,
    Failed,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        }
    }
}

/// The outcome of an operation with these errors.
pub fn outcome(errors: &[ServerError]) -> Outcome {
    match errors {
        [] => Outcome::Ok,
        errors if errors.iter().any(is_failure) => Outcome::Failed,
        _ => Outcome::Refused,
    }
}

/// Replaces each error without a code by an id and logs it under that id, so that internals do not reach clients. Cuts long messages.
pub fn mask(mut response: Response) -> Response {
    for error in &mut response.errors {
        // Execution reports line 0 for what is not in the document.
        error.locations.retain(|position| position.line > 0);
        if code(error).is_none() {
            let cause = error.to_string();
            hide(error, &cause);
        }
        error.message = cut(std::mem::take(&mut error.message));
    }
    response
}

/// Logs the cause and makes this the error that refers to the log line.
fn hide(error: &mut ServerError, cause: &dyn std::fmt::Display) {
    let masked = async_graphql::Error::from(Error::internal(cause));
    (error.message, error.extensions) = (masked.message, masked.extensions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_fails_if_the_service_is_to_blame_for_one_of_its_errors() {
        let error = |code| super::error(code, "", None);
        assert_eq!(outcome(&[]), Outcome::Ok);
        assert_eq!(outcome(&[error("FORBIDDEN")]), Outcome::Refused);
        assert_eq!(outcome(&[error("FORBIDDEN"), error("READ_MODEL_UNAVAILABLE")]), Outcome::Failed);
        assert_eq!(outcome(&[ServerError::new("not masked", None)]), Outcome::Failed);
        assert_eq!(outcome(&Refusal::Busy.errors()), Outcome::Failed);
        assert_eq!(outcome(&Refusal::OverQuota.errors()), Outcome::Refused);
    }

    #[test]
    fn errors_without_a_code_are_masked() {
        let visible = error("FORBIDDEN", "This is visible.", None);
        let masked = mask(Response::from_errors(vec![ServerError::new("SELECT secret", None), visible.clone()]));
        let [error, other] = &masked.errors[..] else { panic!("two errors expected") };
        let extensions = error.extensions.as_ref().unwrap();
        assert_eq!(extensions.get("code"), Some(&"INTERNAL_SERVER_ERROR".into()));
        let Some(async_graphql::Value::String(id)) = extensions.get("id") else { panic!("the error has no id") };
        assert!(error.message.contains(id) && !error.message.contains("secret"), "{}", error.message);
        assert_eq!(other, &visible);

        let nowhere = mask(Response::from_errors(vec![super::error("FORBIDDEN", "", Some(Pos::default()))]));
        assert_eq!(serde_json::to_value(&nowhere.errors[0]).unwrap().get("locations"), None);
    }
}
