//! Every shape that is stored or sent: the tables ([`client`], [`product`], [`order`], [`order_item`],
//! [`order_event`], [`outbox`]) and the message on the queue ([`event`]). No I/O.
//!
//! Amounts are integers in minor units of the store's one currency (cents for USD). Instants are UTC, in whole
//! milliseconds, so that database, event and read model hold the very same value.

pub mod client;
pub mod event;
pub mod order;
pub mod order_event;
pub mod order_item;
pub mod outbox;
pub mod product;

pub use event::{Change, ClientChanged, Event, InvalidEvent, Line, OrderPlaced, ProductChanged, Subject};
