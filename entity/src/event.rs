//! The message on the queue: a [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md)
//! event in its JSON format. Readers ignore unknown attributes and fields. A changed meaning is a new `type`.

mod checks;
#[cfg(feature = "tables")]
pub mod contract;
mod data;
pub mod envelope;
mod invalid;
#[cfg(all(test, feature = "tables"))]
mod tests;

use std::fmt;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use checks::require;
pub use checks::{MAX_LINES, MAX_NAME, MAX_QUANTITY, MAX_SKU, MAX_TOTAL, is_sku};
pub use data::{ClientChanged, Line, OrderPlaced, ProductChanged, Refund, total};
pub use invalid::InvalidEvent;
use invalid::printable;

/// The `type` of each kind of event.
pub const ORDER_PLACED: &str = "orders.OrderPlaced.v1";
pub const ORDER_CANCELLED: &str = "orders.OrderCancelled.v1";
pub const ORDER_REFUNDED: &str = "orders.OrderRefunded.v1";
pub const CLIENT_REGISTERED: &str = "clients.ClientRegistered.v1";
pub const CLIENT_UPDATED: &str = "clients.ClientUpdated.v1";
pub const CLIENT_FORGOTTEN: &str = "clients.ClientForgotten.v1";
pub const PRODUCT_CREATED: &str = "products.ProductCreated.v1";
pub const PRICE_CHANGED: &str = "products.PriceChanged.v1";
pub const PRODUCT_UPDATED: &str = "products.ProductUpdated.v1";

/// How far the time of an event may be ahead of the queue's clock when it is sent: far more than clocks differ.
const MAX_TIME_AHEAD: TimeDelta = TimeDelta::days(1);

/// An event that was read and validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<Data = Change> {
    pub id: Uuid,
    pub time: DateTime<Utc>,
    /// The version of its [`Subject`] after this event, from 1.
    pub version: i32,
    pub data: Data,
}

/// The change that an event describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    OrderPlaced(OrderPlaced),
    OrderCancelled(Refund),
    OrderRefunded(Refund),
    /// [`CLIENT_REGISTERED`], [`CLIENT_UPDATED`] or [`CLIENT_FORGOTTEN`].
    Client(ClientChanged),
    /// [`PRODUCT_CREATED`], [`PRICE_CHANGED`] or [`PRODUCT_UPDATED`].
    Product(ProductChanged),
}

/// The client or product that an event is about. Each has its own sequence of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    Client(i64),
    Product(i64),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Subject::Client(id) => write!(f, "client {id}"),
            Subject::Product(id) => write!(f, "product {id}"),
        }
    }
}

/// A [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md) event in its JSON format. Readers ignore
/// attributes and fields that they do not know.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Event")]
pub(crate) struct CloudEvent<T, D> {
    #[schemars(with = "String", extend("const" = "1.0"))]
    pub(crate) specversion: T,
    /// A UUID of version 7, the same each time the event is sent.
    pub(crate) id: Uuid,
    #[schemars(with = "String", extend("const" = "/orders"))]
    pub(crate) source: T,
    #[schemars(with = "String")]
    pub(crate) r#type: T,
    /// The id of the client or product that the event is about: the one in `data`.
    #[schemars(with = "String", regex(pattern = "^[1-9][0-9]*$"))]
    pub(crate) subject: T,
    /// When it happened, in UTC by the clock of the database, in whole milliseconds.
    pub(crate) time: DateTime<Utc>,
    #[schemars(with = "String", extend("const" = "application/json"))]
    pub(crate) datacontenttype: Option<T>,
    /// The version of the client or product after this event. It counts from 1 without gaps, in ten digits that sort as text, too
    /// ([sequence extension](https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/sequence.md)).
    #[schemars(with = "String", regex(pattern = "^[0-9]{10}$"))]
    pub(crate) sequence: T,
    /// The [trace context](https://www.w3.org/TR/trace-context/) of the request that caused the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(crate) traceparent: Option<T>,
    /// `app_user` if the token of that request was limited to one client, and `unknown` for other tokens, which may be a program's
    /// ([auth context extension](https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/authcontext.md)).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(crate) authtype: Option<T>,
    /// The subject of that token. May be personal data.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(crate) authid: Option<T>,
    pub(crate) data: D,
}

impl Event {
    /// Reads a message, which may be in an [`envelope`]. Checks everything that later code relies on, because a writer to the queue can
    /// send anything.
    /// `currency` (ISO 4217) is the currency of the store, `sent_at` the time at which the queue got the message: the clock of its
    /// sender is not trusted.
    pub fn parse(message: &str, currency: &str, sent_at: DateTime<Utc>) -> Result<Event, InvalidEvent> {
        let event: CloudEvent<String, Json> = serde_json::from_str(&envelope::open(message))?;
        if event.specversion != "1.0" {
            return Err(InvalidEvent::Contradiction("specversion is not 1.0"));
        }
        let version =
            (event.sequence.parse()).map_err(|_| InvalidEvent::Contradiction("sequence is not a 32-bit number"))?;
        let parsed = Event::from_parts(event.id, event.time, version, &event.r#type, event.data, currency)?;
        let (Subject::Client(id) | Subject::Product(id)) = parsed.subject();
        if event.subject != id.to_string() {
            return Err(InvalidEvent::Contradiction("subject is not the id in data"));
        }
        // Names in the log may have invisible characters: earlier releases accepted them.
        let has_control = |text: &str| text.contains(char::is_control);
        require(!parsed.data.texts().any(has_control), "a text in data has control characters")?;
        if parsed.time > sent_at + MAX_TIME_AHEAD {
            return Err(InvalidEvent::Contradiction("time is more than a day ahead of the queue's clock"));
        }
        Ok(parsed)
    }

    pub(crate) fn from_parts(
        id: Uuid,
        time: DateTime<Utc>,
        version: i32,
        r#type: &str,
        data: Json,
        currency: &str,
    ) -> Result<Event, InvalidEvent> {
        let data = match r#type {
            ORDER_PLACED => Change::OrderPlaced(serde_json::from_value(data)?),
            ORDER_CANCELLED => Change::OrderCancelled(serde_json::from_value(data)?),
            ORDER_REFUNDED => Change::OrderRefunded(serde_json::from_value(data)?),
            CLIENT_REGISTERED | CLIENT_UPDATED | CLIENT_FORGOTTEN => Change::Client(serde_json::from_value(data)?),
            PRODUCT_CREATED | PRICE_CHANGED | PRODUCT_UPDATED => Change::Product(serde_json::from_value(data)?),
            _ => return Err(InvalidEvent::UnknownType(printable(r#type))),
        };
        if version < 1 {
            return Err(InvalidEvent::Contradiction("sequence is below 1"));
        }
        if !(1970..10_000).contains(&time.year()) {
            return Err(InvalidEvent::Contradiction("time is out of range"));
        }
        data.check(currency)?;
        Ok(Event { id, time, version, data })
    }

    pub fn subject(&self) -> Subject {
        match &self.data {
            Change::OrderPlaced(order) => Subject::Client(order.client_id),
            Change::OrderCancelled(refund) | Change::OrderRefunded(refund) => Subject::Client(refund.order.client_id),
            Change::Client(client) => Subject::Client(client.client_id),
            Change::Product(product) => Subject::Product(product.product_id),
        }
    }

    /// The order, if the event says that it was placed.
    pub fn order(&self) -> Option<&OrderPlaced> {
        match &self.data {
            Change::OrderPlaced(order) => Some(order),
            _ => None,
        }
    }

    /// The client after the change, if the event is about one.
    pub fn client(&self) -> Option<ClientDetails<'_>> {
        let (id, name, email) = match &self.data {
            Change::OrderPlaced(order)
            | Change::OrderCancelled(Refund { order, .. })
            | Change::OrderRefunded(Refund { order, .. }) => (order.client_id, &order.client_name, &order.client_email),
            Change::Client(client) => (client.client_id, &client.client_name, &client.client_email),
            Change::Product(_) => return None,
        };
        Some(ClientDetails { id, name, email })
    }
}

/// The fields of a client that each of its events contains.
pub struct ClientDetails<'a> {
    pub id: i64,
    pub name: &'a str,
    pub email: &'a str,
}

impl From<Event<OrderPlaced>> for Event {
    fn from(Event { id, time, version, data }: Event<OrderPlaced>) -> Event {
        Event { id, time, version, data: Change::OrderPlaced(data) }
    }
}
