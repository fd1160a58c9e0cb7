//! Problems with a command that the user can fix, as `userErrors` lists them. This is the one place that maps rejections.

use async_graphql::{Enum, SimpleObject};
use entity::event::{MAX_LINES, MAX_NAME, MAX_QUANTITY, MAX_SKU};
use iso_currency::Currency;

use super::cost_directives::max_size;
use super::scalars::Decimal;
use crate::commands::Rejection;
use crate::commands::idempotency::MAX_KEY_CHARACTERS;
use crate::commands::refunds::rules::{MAX_REFUNDS, RefundRejection};

/// A problem with the input that the user can fix.
#[derive(Clone, SimpleObject)]
pub struct UserError {
    /// The problem, for programs.
    code: UserErrorCode,
    /// The problem, for people.
    #[graphql(directive = max_size::apply(Some(200), None))]
    message: String,
    /// The path of the input field, for example ["input", "items", "0", "quantity"].
    #[graphql(directive = max_size::apply(Some(20), Some(4)))]
    field: Option<Vec<String>>,
}

/// A kind of problem with the input.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
pub enum UserErrorCode {
    /// No client has this id.
    ClientNotFound,
    /// The client was forgotten: it can have no new orders and changes.
    ClientForgotten,
    /// No product has this id.
    ProductNotFound,
    /// The product is withdrawn, so it cannot be ordered.
    ProductNotAvailable,
    /// The order has no items.
    EmptyOrder,
    /// The order has more than 100 items.
    TooManyItems,
    /// The quantity is below 1 or above 10000.
    QuantityOutOfRange,
    /// The total of the order is too large.
    TotalOutOfRange,
    /// The idempotency key was used for another change, or with other input. A key is unique for the mutations of one client and its
    /// orders, for those of one product, and for what one caller (the subject of the token) registers or creates.
    IdempotencyKeyReused,
    /// The idempotency key is empty, longer than 255 characters, or has control characters.
    InvalidIdempotencyKey,
    /// The name is empty, longer than 200 characters, or has control or invisible characters.
    InvalidName,
    /// The e-mail address is not valid.
    InvalidEmail,
    /// Another client has this e-mail address.
    EmailTaken,
    /// The price is negative, too large, or has more decimal places than the currency.
    PriceOutOfRange,
    /// The SKU is empty, longer than 64 characters, or has other characters than letters, digits and punctuation of ASCII.
    InvalidSku,
    /// Another product has this SKU, perhaps in another case.
    SkuTaken,
    /// No order has this id.
    OrderNotFound,
    /// The order was placed too long ago to be cancelled.
    CancelWindowPassed,
    /// The order is cancelled, so that nothing is left to refund.
    OrderCancelled,
    /// The amount is not above zero, more than is left of the order, or has more decimal places than the currency.
    RefundOutOfRange,
    /// The order has been refunded 100 times. It can still be cancelled.
    TooManyRefunds,
    /// The reason is empty, longer than 200 characters, or has control or invisible characters.
    InvalidReason,
    /// The client or product has reached the highest version, 2147483647, and cannot change any more.
    VersionLimitReached,
}

impl UserError {
    fn new(code: UserErrorCode, message: impl Into<String>, field: &[&str]) -> UserError {
        let field = ["input"].iter().chain(field).map(ToString::to_string).collect();
        UserError { code, message: message.into(), field: Some(field) }
    }
}

/// Maps rejections. `client_field` is the field of the input that names the client.
pub fn user_errors(rejections: Vec<Rejection>, client_field: &str, currency: Currency) -> Vec<UserError> {
    rejections.into_iter().map(|rejection| user_error(rejection, client_field, currency)).collect()
}

fn user_error(rejection: Rejection, client_field: &str, currency: Currency) -> UserError {
    use UserErrorCode as Code;
    match rejection {
        Rejection::ClientNotFound => UserError::new(Code::ClientNotFound, "There is no such client.", &[client_field]),
        Rejection::ClientForgotten => UserError::new(
            Code::ClientForgotten,
            "The client was forgotten: it can have no new orders and changes.",
            &[client_field],
        ),
        Rejection::ProductNotFound { item } => {
            let message = "There is no such product.";
            match item {
                Some(item) => {
                    UserError::new(Code::ProductNotFound, message, &["items", &item.to_string(), "productId"])
                }
                None => UserError::new(Code::ProductNotFound, message, &["id"]),
            }
        }
        Rejection::ProductNotAvailable { item } => {
            let message = "The product cannot be ordered any more.";
            UserError::new(Code::ProductNotAvailable, message, &["items", &item.to_string(), "productId"])
        }
        Rejection::EmptyOrder => UserError::new(Code::EmptyOrder, "The order has no items.", &["items"]),
        Rejection::TooManyItems => {
            UserError::new(Code::TooManyItems, format!("An order has at most {MAX_LINES} items."), &["items"])
        }
        Rejection::QuantityOutOfRange { item } => {
            let message = format!("The quantity must be from 1 to {MAX_QUANTITY}.");
            UserError::new(Code::QuantityOutOfRange, message, &["items", &item.to_string(), "quantity"])
        }
        Rejection::TotalOutOfRange => {
            UserError::new(Code::TotalOutOfRange, "The total of the order is too large.", &["items"])
        }
        Rejection::InvalidIdempotencyKey => {
            let message =
                format!("The key must have from 1 to {MAX_KEY_CHARACTERS} characters and no control characters.");
            UserError::new(Code::InvalidIdempotencyKey, message, &["idempotencyKey"])
        }
        Rejection::IdempotencyKeyReused => {
            let message = "The key was used for another change, or with other input. Choose a new key.";
            UserError::new(Code::IdempotencyKeyReused, message, &["idempotencyKey"])
        }
        Rejection::InvalidName => {
            let message =
                format!("The name must have from 1 to {MAX_NAME} characters and no control or invisible characters.");
            UserError::new(Code::InvalidName, message, &["name"])
        }
        Rejection::InvalidEmail => UserError::new(Code::InvalidEmail, "The e-mail address is not valid.", &["email"]),
        Rejection::EmailTaken => {
            UserError::new(Code::EmailTaken, "Another client has this e-mail address.", &["email"])
        }
        Rejection::PriceOutOfRange => {
            let message = "The price is negative, too large, or has more decimal places than the currency.";
            UserError::new(Code::PriceOutOfRange, message, &["price"])
        }
        Rejection::InvalidSku => {
            let message = format!(
                "The SKU must have from 1 to {MAX_SKU} characters: letters, digits and punctuation of ASCII, without spaces."
            );
            UserError::new(Code::InvalidSku, message, &["sku"])
        }
        Rejection::SkuTaken => UserError::new(Code::SkuTaken, "Another product has this SKU.", &["sku"]),
        Rejection::Refund(rejection) => refund_error(rejection, currency),
        Rejection::VersionLimitReached => UserError::new(
            Code::VersionLimitReached,
            "The highest version is reached: no more changes are possible.",
            &[],
        ),
    }
}

fn refund_error(rejection: RefundRejection, currency: Currency) -> UserError {
    use UserErrorCode as Code;
    let (code, message, field) = match rejection {
        RefundRejection::OrderNotFound => (Code::OrderNotFound, "There is no such order.".into(), "orderId"),
        RefundRejection::CancelWindowPassed => {
            (Code::CancelWindowPassed, "The order was placed too long ago to be cancelled.".into(), "orderId")
        }
        RefundRejection::OrderCancelled => (Code::OrderCancelled, "The order is cancelled.".into(), "orderId"),
        RefundRejection::OutOfRange { left: ..1 } => {
            (Code::RefundOutOfRange, "Nothing of the order is left to refund.".into(), "amount")
        }
        RefundRejection::OutOfRange { left } => {
            let left = Decimal::from_minor(left, currency).into_text();
            let message = format!(
                "At most {left} is left to refund. The amount must be above zero and have no more decimal places than the currency."
            );
            (Code::RefundOutOfRange, message, "amount")
        }
        RefundRejection::TooManyRefunds => {
            let message = format!("The order has been refunded {MAX_REFUNDS} times. It can still be cancelled.");
            (Code::TooManyRefunds, message, "orderId")
        }
        RefundRejection::InvalidReason => {
            let message =
                format!("The reason must have from 1 to {MAX_NAME} characters and no control or invisible characters.");
            (Code::InvalidReason, message, "reason")
        }
    };
    UserError::new(code, message, &[field])
}
