//! Everything that is stored or sent: the tables ([`client`], [`product`], [`order`], [`order_item`], [`order_refund`],
//! [`order_refund_item`], [`order_event`], [`outbox`], [`outbox_message`], [`refused_event`], [`rejected_order`],
//! [`idempotency_key`]), with the feature `tables`, and the message on the queue ([`event`]); [`sums`]: sums of orders, as statements; [`text`]: characters of names. No I/O.
//!
//! Amounts are integers in minor units of the store's one currency (cents for USD). Times are UTC in whole milliseconds, so
//! that database, event and read model hold the same value.

#[cfg(feature = "tables")]
pub mod client;
pub mod event;
#[cfg(feature = "tables")]
pub mod idempotency_key;
#[cfg(feature = "tables")]
pub mod order;
#[cfg(feature = "tables")]
pub mod order_event;
#[cfg(feature = "tables")]
pub mod order_item;
#[cfg(feature = "tables")]
pub mod order_refund;
#[cfg(feature = "tables")]
pub mod order_refund_item;
#[cfg(feature = "tables")]
pub mod outbox;
#[cfg(feature = "tables")]
pub mod outbox_message;
#[cfg(feature = "tables")]
pub mod product;
#[cfg(feature = "tables")]
pub mod refused_event;
#[cfg(feature = "tables")]
pub mod rejected_order;
#[cfg(feature = "tables")]
pub mod sums;
pub mod text;

pub use event::{Change, ClientChanged, Event, InvalidEvent, Line, OrderPlaced, ProductChanged, Refund, Subject};
