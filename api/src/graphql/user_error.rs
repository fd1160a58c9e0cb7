//! Problems with a command that the user can fix, as `userErrors` lists them.

use async_graphql::{Enum, SimpleObject};
use entity::event::{MAX_LINES, MAX_QUANTITY};

use crate::commands::master_data::Fault;
use crate::commands::place_order::{MAX_KEY_CHARACTERS, Rejection};

/// Something in a request that its sender can mend.
#[derive(SimpleObject)]
pub struct UserError {
    /// What is wrong, for programs.
    pub code: UserErrorCode,
    /// What is wrong, for people.
    pub message: String,
    /// Where it is wrong: the path from the arguments, such as ["input", "items", "0", "quantity"].
    pub field: Option<Vec<String>>,
}

/// What can be wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
pub enum UserErrorCode {
    /// No client has this id.
    ClientNotFound,
    /// No product has this id.
    ProductNotFound,
    /// The order has no items.
    EmptyOrder,
    /// The order has more than 100 items.
    TooManyItems,
    /// A quantity is below 1 or above 10000.
    QuantityOutOfRange,
    /// The order adds up to more than this service takes in one order.
    TotalOutOfRange,
    /// The idempotency key was used before, for another order of this client.
    IdempotencyKeyReused,
    /// The idempotency key is empty, longer than 255 characters, or has control characters.
    InvalidIdempotencyKey,
    /// The name is empty, longer than 200 characters, or has control characters.
    InvalidName,
    /// What is to be an e-mail address is none.
    InvalidEmail,
    /// Another client has this e-mail address.
    EmailTaken,
    /// The price is too large, or has more digits after the point than the currency.
    PriceOutOfRange,
}

pub fn fault_of(fault: Fault, not_found: (UserErrorCode, &'static str, &'static str)) -> UserError {
    let (code, message, field) = match fault {
        Fault::NotFound => not_found,
        Fault::InvalidName => (
            UserErrorCode::InvalidName,
            "The name must have from 1 to 200 characters, and no control characters.",
            "name",
        ),
        Fault::InvalidEmail => (UserErrorCode::InvalidEmail, "This is not an e-mail address.", "email"),
        Fault::EmailTaken => (UserErrorCode::EmailTaken, "Another client has this e-mail address.", "email"),
        Fault::PriceOutOfRange => (
            UserErrorCode::PriceOutOfRange,
            "The price is too large, or has more digits after the point than the currency.",
            "price",
        ),
    };
    UserError { code, message: message.into(), field: Some(vec!["input".into(), field.into()]) }
}

impl From<Rejection> for UserError {
    fn from(rejection: Rejection) -> UserError {
        let of_item = |item: usize, field: &str| vec!["input".into(), "items".into(), item.to_string(), field.into()];
        let of_input = |field: &str| vec!["input".into(), field.into()];
        let (code, message, field) = match rejection {
            Rejection::ClientNotFound => {
                (UserErrorCode::ClientNotFound, "There is no such client.".into(), of_input("clientId"))
            }
            Rejection::EmptyOrder => (UserErrorCode::EmptyOrder, "The order has no items.".into(), of_input("items")),
            Rejection::TooManyItems => {
                (UserErrorCode::TooManyItems, format!("An order has at most {MAX_LINES} items."), of_input("items"))
            }
            Rejection::ProductNotFound { item } => {
                (UserErrorCode::ProductNotFound, "There is no such product.".into(), of_item(item, "productId"))
            }
            Rejection::QuantityOutOfRange { item } => (
                UserErrorCode::QuantityOutOfRange,
                format!("The quantity must be from 1 to {MAX_QUANTITY}."),
                of_item(item, "quantity"),
            ),
            Rejection::TotalOutOfRange => {
                (UserErrorCode::TotalOutOfRange, "The order's total is too large.".into(), of_input("items"))
            }
            Rejection::InvalidIdempotencyKey => (
                UserErrorCode::InvalidIdempotencyKey,
                format!("The key must have from 1 to {MAX_KEY_CHARACTERS} characters, and no control characters."),
                of_input("idempotencyKey"),
            ),
            Rejection::IdempotencyKeyReused => (
                UserErrorCode::IdempotencyKeyReused,
                "The key was used for another order of this client. Choose a new one.".into(),
                of_input("idempotencyKey"),
            ),
        };
        UserError { code, message, field: Some(field) }
    }
}
