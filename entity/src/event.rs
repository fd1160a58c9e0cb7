//! The message on the queue: a [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md)
//! event in its JSON format. Readers ignore unknown attributes and fields. A changed meaning is a new `type`.

use std::fmt;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::text::is_printable;

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

/// Limits of an order. The rules of placing orders enforce them, and so does reading a message from the queue.
pub const MAX_LINES: usize = 100;
pub const MAX_QUANTITY: i32 = 10_000;
/// Minor units. A client's sums in 64 bits overflow only after nine million orders of this size.
pub const MAX_TOTAL: i64 = 1_000_000_000_000;
/// Characters of a name or an e-mail address.
pub const MAX_NAME: usize = 200;
/// Characters of a SKU.
pub const MAX_SKU: usize = 64;
/// How far the time of an event may be ahead of the queue's clock when it is sent: far more than clocks differ.
const MAX_TIME_AHEAD: TimeDelta = TimeDelta::days(1);
/// Bytes of a message that its error repeats.
const MAX_QUOTED: usize = 200;

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

/// `data` of [`CLIENT_REGISTERED`], [`CLIENT_UPDATED`] and [`CLIENT_FORGOTTEN`]: the client after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientChanged {
    pub client_id: i64,
    pub client_name: String,
    pub client_email: String,
}

/// `data` of [`PRODUCT_CREATED`], [`PRICE_CHANGED`] and [`PRODUCT_UPDATED`]: the product after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProductChanged {
    pub product_id: i64,
    pub name: String,
    /// Minor units.
    pub price: i64,
    /// ISO 4217.
    pub currency: String,
    /// Whether it can be ordered.
    #[serde(default = "is_available")]
    pub available: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku: Option<String>,
}

/// Events from before products could be withdrawn do not say it.
fn is_available() -> bool {
    true
}

/// `data` of [`ORDER_PLACED`]: everything that a projection needs, so that it does not read the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderPlaced {
    pub client_id: i64,
    pub client_name: String,
    pub client_email: String,
    pub order_id: Uuid,
    /// ISO 4217.
    pub currency: String,
    /// Minor units: the sum over the lines.
    pub total: i64,
    pub lines: Vec<Line>,
}

/// `data` of [`ORDER_CANCELLED`] and [`ORDER_REFUNDED`]: an amount that is refunded of an order. A cancellation refunds all that is
/// left. It contains the whole order, because it can arrive before [`ORDER_PLACED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refund {
    #[serde(flatten)]
    pub order: OrderPlaced,
    pub placed_at: DateTime<Utc>,
    /// The version of the client after the order was placed.
    pub placed_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Minor units: the sum over `amounts`.
    pub amount: i64,
    /// The part of each line of the order, in minor units.
    pub amounts: Vec<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub product_id: i64,
    pub name: String,
    /// Minor units.
    pub unit_price: i64,
    pub quantity: i32,
}

impl Line {
    /// Minor units; `None` on overflow.
    pub fn total(&self) -> Option<i64> {
        self.unit_price.checked_mul(self.quantity.into())
    }
}

/// The sum over the lines in minor units; `None` above [`MAX_TOTAL`].
pub fn total(lines: &[Line]) -> Option<i64> {
    lines.iter().try_fold(0i64, |sum, line| sum.checked_add(line.total()?)).filter(|total| *total <= MAX_TOTAL)
}

/// Why a message is not a valid event of this service. Whatever is repeated from the message is short and printable.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEvent {
    #[error("not a CloudEvent in JSON: {0}")]
    Syntax(String),
    #[error("unknown event type \"{0}\"")]
    UnknownType(String),
    #[error("its amounts are in {event}, but CURRENCY is {here}")]
    Currency { event: String, here: String },
    #[error("{0}")]
    Contradiction(&'static str),
}

impl From<serde_json::Error> for InvalidEvent {
    fn from(error: serde_json::Error) -> InvalidEvent {
        InvalidEvent::Syntax(printable(&error.to_string()))
    }
}

/// Escapes control characters, also those that change the direction of text, and shortens: a message must not forge a line of the
/// log.
fn printable(text: &str) -> String {
    let mut printable = String::new();
    for character in text.chars() {
        match character {
            _ if printable.len() >= MAX_QUOTED => {
                printable.push('…');
                break;
            }
            '"' | '\'' | '\\' => printable.push(character),
            _ => printable.extend(character.escape_debug()),
        }
    }
    printable
}

#[derive(Serialize, Deserialize)]
pub(crate) struct CloudEvent<T, D> {
    pub(crate) specversion: T,
    pub(crate) id: Uuid,
    pub(crate) source: T,
    pub(crate) r#type: T,
    pub(crate) subject: T,
    pub(crate) time: DateTime<Utc>,
    pub(crate) datacontenttype: Option<T>,
    /// The [sequence extension](https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/sequence.md):
    /// ten digits, so that it sorts as text too.
    pub(crate) sequence: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<T>,
    /// The [auth context extension](https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/authcontext.md): the subject of a
    /// token is a user (`app_user`) if the token is limited to one client, and may be a program otherwise (`unknown`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) authtype: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) authid: Option<T>,
    pub(crate) data: D,
}

impl Event {
    /// Reads a message. Checks everything that later code relies on, because a writer to the queue can send anything.
    /// `currency` (ISO 4217) is the currency of the store, `sent_at` the time at which the queue got the message: the clock of its
    /// sender is not trusted.
    pub fn parse(message: &str, currency: &str, sent_at: DateTime<Utc>) -> Result<Event, InvalidEvent> {
        let event: CloudEvent<String, Json> = serde_json::from_str(message)?;
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
        // Not in rows of the database, which may be older than this rule.
        require(parsed.data.texts().all(is_printable), "a text in data has control or invisible characters")?;
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

fn require(holds: bool, fault: &'static str) -> Result<(), InvalidEvent> {
    if holds { Ok(()) } else { Err(InvalidEvent::Contradiction(fault)) }
}

/// Whether a text can be a SKU: from 1 to 64 ASCII characters, without spaces and control characters.
pub fn is_sku(text: &str) -> bool {
    (1..=MAX_SKU).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_short(name: &str) -> bool {
    name.chars().count() <= MAX_NAME
}

fn check_currency(currency: &str, here: &str) -> Result<(), InvalidEvent> {
    match currency == here {
        true => Ok(()),
        false => Err(InvalidEvent::Currency { event: printable(currency), here: here.to_owned() }),
    }
}

impl Change {
    /// `here` is the currency of the store (ISO 4217).
    fn check(&self, here: &str) -> Result<(), InvalidEvent> {
        match self {
            Change::OrderPlaced(order) => order.check(here),
            Change::OrderCancelled(refund) => refund.check(here),
            Change::OrderRefunded(refund) => {
                require(refund.amount > 0, "data.amount is below 1")?;
                refund.check(here)
            }
            Change::Client(client) => client.check(),
            Change::Product(product) => product.check(here),
        }
    }

    /// Names, addresses and reasons.
    fn texts(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Change::OrderPlaced(order) => Box::new(order.texts()),
            Change::OrderCancelled(refund) | Change::OrderRefunded(refund) => {
                Box::new(refund.order.texts().chain(refund.reason.as_deref()))
            }
            Change::Client(client) => Box::new([&*client.client_name, &*client.client_email].into_iter()),
            Change::Product(product) => Box::new([&*product.name].into_iter().chain(product.sku.as_deref())),
        }
    }
}

impl OrderPlaced {
    fn texts(&self) -> impl Iterator<Item = &str> {
        [&*self.client_name, &*self.client_email].into_iter().chain(self.lines.iter().map(|line| &*line.name))
    }

    fn check(&self, here: &str) -> Result<(), InvalidEvent> {
        check_client(self.client_id, &self.client_name, &self.client_email)?;
        check_currency(&self.currency, here)?;
        let in_range =
            |line: &Line| line.product_id > 0 && line.unit_price >= 0 && (1..=MAX_QUANTITY).contains(&line.quantity);
        require((1..=MAX_LINES).contains(&self.lines.len()), "data.lines are out of range")?;
        require(self.lines.iter().all(in_range), "data.lines are out of range")?;
        require(self.lines.iter().all(|line| is_short(&line.name)), "a name in data.lines is too long")?;
        require(total(&self.lines) == Some(self.total), "data.total is not the sum of data.lines")
    }
}

impl Refund {
    fn check(&self, here: &str) -> Result<(), InvalidEvent> {
        self.order.check(here)?;
        require(self.placed_version >= 1, "data.placedVersion is below 1")?;
        require(self.reason.as_deref().is_none_or(is_short), "data.reason is too long")?;
        require(self.amounts.len() == self.order.lines.len(), "data.amounts are not one for each line")?;
        let is_part = |(amount, line): (&i64, &Line)| (0..=line.total().unwrap_or(0)).contains(amount);
        require(self.amounts.iter().zip(&self.order.lines).all(is_part), "data.amounts are out of range")?;
        // The sum cannot overflow: it is at most the order's total.
        require(self.amounts.iter().sum::<i64>() == self.amount, "data.amount is not the sum of data.amounts")
    }
}

impl ClientChanged {
    fn check(&self) -> Result<(), InvalidEvent> {
        check_client(self.client_id, &self.client_name, &self.client_email)
    }
}

fn check_client(id: i64, name: &str, email: &str) -> Result<(), InvalidEvent> {
    require(id > 0, "data.clientId is below 1")?;
    require(is_short(name) && is_short(email), "data.clientName or data.clientEmail is too long")
}

impl ProductChanged {
    fn check(&self, here: &str) -> Result<(), InvalidEvent> {
        require(self.product_id > 0, "data.productId is below 1")?;
        check_currency(&self.currency, here)?;
        require(is_short(&self.name), "data.name is too long")?;
        require(self.sku.as_deref().is_none_or(is_sku), "data.sku is not a SKU")?;
        require((0..=MAX_TOTAL).contains(&self.price), "data.price is out of range")
    }
}

#[cfg(all(test, feature = "tables"))]
mod tests {
    use super::*;
    use crate::order_event;
    use serde_json::json;

    /// Reads a message that was sent a day after 1,700,000,000 s.
    fn parse(message: &str) -> Result<Event, InvalidEvent> {
        Event::parse(message, "USD", DateTime::from_timestamp(1_700_086_400, 0).unwrap())
    }

    fn row() -> order_event::Model {
        let order = OrderPlaced {
            client_id: 1,
            client_name: "Bob".into(),
            client_email: "bob@anemailprovider.com".into(),
            order_id: Uuid::now_v7(),
            currency: "USD".into(),
            total: 300_000,
            lines: vec![
                Line { product_id: 1, name: "Computer".into(), unit_price: 150_000, quantity: 1 },
                Line { product_id: 2, name: "Phone \u{1f4f1} \u{ffff}".into(), unit_price: 50_000, quantity: 3 },
            ],
        };
        order_event::Model {
            id: Uuid::now_v7(),
            client_id: Some(1),
            product_id: None,
            version: 7,
            r#type: ORDER_PLACED.into(),
            payload: serde_json::to_value(order).unwrap(),
            occurred_at: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap(),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            actor: Some("bob\r\n@shop".into()),
            actor_is_client: Some(true),
        }
    }

    #[test]
    fn a_message_is_read_back_as_the_stored_row() {
        let message = row().message();
        assert!(message.contains(r#""sequence":"0000000007""#), "{message}");
        assert!(message.contains(r#""authtype":"app_user","authid":"bob\r\n@shop""#), "{message}");
        assert!(!message.contains('\u{ffff}'), "SQS rejects this character");
        let parsed = parse(&message).unwrap();
        let (id, order_id) = (parsed.id, parsed.order().unwrap().order_id);
        let mut stored = row();
        (stored.id, stored.payload["orderId"]) = (id, json!(order_id));
        assert_eq!(Event::from_row(stored, "USD").unwrap(), parsed);
    }

    #[test]
    fn unknown_fields_and_missing_optional_attributes_are_accepted() {
        let mut message: Json = serde_json::from_str(&row().message()).unwrap();
        message["somethingNew"] = json!({"a": 1});
        message["data"]["coupon"] = json!("X");
        message["data"]["lines"][0]["colour"] = json!("red");
        for optional in ["traceparent", "authtype", "authid", "datacontenttype"] {
            message.as_object_mut().unwrap().remove(optional);
        }
        parse(&message.to_string()).unwrap();
    }

    #[test]
    fn an_invalid_message_is_rejected_with_the_reason() {
        let changes: &[(&str, Json, &str)] = &[
            ("/specversion", json!("0.3"), "specversion"),
            ("/type", json!("orders.OrderPlaced.v2"), "unknown event type"),
            ("/type", json!(PRICE_CHANGED), "not a CloudEvent"),
            ("/subject", json!("2"), "subject"),
            ("/subject", json!("01"), "subject"),
            ("/sequence", json!("0"), "below 1"),
            ("/sequence", json!("99999999999"), "32-bit"),
            ("/sequence", json!(7), "not a CloudEvent"),
            ("/id", json!("7"), "not a CloudEvent"),
            ("/time", json!("yesterday"), "not a CloudEvent"),
            ("/time", json!("1969-12-31T23:59:59Z"), "time"),
            ("/time", json!("+40000-01-01T00:00:00Z"), "time"),
            ("/time", json!("2023-11-16T22:13:20.001Z"), "more than a day ahead"),
            ("/time", json!("9999-12-31T00:00:00Z"), "more than a day ahead"),
            ("/data/lines", json!([]), "out of range"),
            ("/data/lines/0/quantity", json!(0), "out of range"),
            ("/data/lines/0/quantity", json!(10_001), "out of range"),
            ("/data/lines/0/unitPrice", json!(-1), "out of range"),
            ("/data/lines/0/unitPrice", json!(i64::MAX), "not the sum"),
            ("/data/lines/0/unitPrice", json!(0.5), "not a CloudEvent"),
            ("/data/clientId", json!(0), "data.clientId"),
            ("/data/clientId", json!(-5), "data.clientId"),
            ("/data/lines/0/productId", json!(-1), "out of range"),
            ("/data/currency", json!("EUR"), "amounts are in EUR"),
            ("/data/clientName", json!("x".repeat(MAX_NAME + 1)), "too long"),
            ("/data/clientEmail", json!("x".repeat(MAX_NAME + 1)), "too long"),
            ("/data/lines/1/name", json!("x".repeat(MAX_NAME + 1)), "too long"),
            ("/data/clientName", json!("B\u{202e}ob"), "invisible"),
            ("/data/clientEmail", json!("bob@example.com\n"), "invisible"),
            ("/data/lines/1/name", json!("Pho\u{200b}ne"), "invisible"),
            ("/data/total", json!(300_001), "not the sum"),
            ("/data/total", json!(null), "not a CloudEvent"),
        ];
        for (path, value, reason) in changes {
            let mut message: Json = serde_json::from_str(&row().message()).unwrap();
            *message.pointer_mut(path).unwrap() = value.clone();
            let error = parse(&message.to_string()).unwrap_err().to_string();
            assert!(error.contains(reason), "{path} = {value}: {error}");
        }
        let mut message: Json = serde_json::from_str(&row().message()).unwrap();
        for (path, longest) in [("/time", "2023-11-16T22:13:20Z"), ("/data/clientName", &"x".repeat(MAX_NAME))] {
            *message.pointer_mut(path).unwrap() = json!(longest);
            parse(&message.to_string()).unwrap();
        }
        let changed = |r#type: &str, data: Json| {
            let mut message: Json = serde_json::from_str(&row().message()).unwrap();
            (message["type"], message["data"]) = (json!(r#type), data);
            parse(&message.to_string()).map(|event| event.data)
        };
        let bob = json!({ "clientId": 1, "clientName": "Bob", "clientEmail": "bob@anemailprovider.com" });
        assert!(matches!(changed(CLIENT_REGISTERED, bob.clone()), Ok(Change::Client(_))));
        assert!(changed(CLIENT_UPDATED, json!({ "clientId": 1, "clientName": "Bob" })).is_err());
        assert!(changed(PRODUCT_CREATED, bob).is_err());
        let refund = |amount, amounts: Json| {
            let mut data = serde_json::to_value(row().payload).unwrap();
            (data["placedAt"], data["placedVersion"]) = (json!("2023-11-14T22:13:20Z"), json!(3));
            (data["amount"], data["amounts"]) = (json!(amount), amounts);
            data
        };
        assert!(matches!(changed(ORDER_REFUNDED, refund(10, json!([0, 10]))), Ok(Change::OrderRefunded(_))));
        assert!(matches!(changed(ORDER_CANCELLED, refund(0, json!([0, 0]))), Ok(Change::OrderCancelled(_))));
        for (amount, amounts) in [
            (0, json!([0, 0])),
            (10, json!([10])),
            (10, json!([5, 6])),
            (-1, json!([-1, 0])),
            (150_001, json!([150_001, 0])),
            (10, json!([i64::MAX, i64::MIN])),
        ] {
            assert!(changed(ORDER_REFUNDED, refund(amount, amounts.clone())).is_err(), "{amount} {amounts}");
        }
        let long = "x".repeat(MAX_NAME + 1);
        let product =
            |price, currency, name| json!({ "productId": 1, "name": name, "price": price, "currency": currency });
        assert!(matches!(changed(PRICE_CHANGED, product(5, "USD", "TV")), Ok(Change::Product(_))));
        assert!(matches!(changed(PRODUCT_CREATED, product(MAX_TOTAL, "USD", &long[1..])), Ok(Change::Product(_))));
        for (price, currency, name) in
            [(-1, "USD", "TV"), (MAX_TOTAL + 1, "USD", "TV"), (5, "EUR", "TV"), (5, "USD", &long)]
        {
            assert!(changed(PRICE_CHANGED, product(price, currency, name)).is_err(), "{price} {currency} {name}");
        }
        let hidden = product(5, "USD", "T\u{2066}V");
        assert!(changed(PRODUCT_CREATED, hidden).unwrap_err().to_string().contains("invisible"));
        let mut reason = refund(10, json!([0, 10]));
        reason["reason"] = json!("broken\u{200d}");
        assert!(changed(ORDER_REFUNDED, reason).unwrap_err().to_string().contains("invisible"));
        let mut stored = row();
        stored.payload["clientName"] = json!("B\u{200b}ob");
        assert!(parse(&stored.message()).is_err() && Event::from_row(stored, "USD").is_ok(), "an older row is read");
        for text in ["", "null", "[]", "{}", "\"hello\"", "{\"specversion\":\"1.0\"}"] {
            assert!(matches!(parse(text), Err(InvalidEvent::Syntax(_))), "{text}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err(), "deep nesting is an error, not a stack overflow");
    }

    /// A reason is a part of a log line.
    #[test]
    fn a_reason_is_short_and_printable_whatever_the_message_contains() {
        let forged = "USD\r\n2026-11-27T00:00:00Z ERROR \u{1b}[31m\u{202e}\u{85}\u{2028}";
        for path in
            ["/specversion", "/id", "/type", "/subject", "/time", "/sequence", "/data/currency", "/data/orderId"]
        {
            for text in [forged, &format!("\n{forged}"), &forged.repeat(1_000)] {
                let mut message: Json = serde_json::from_str(&row().message()).unwrap();
                *message.pointer_mut(path).unwrap() = json!(text);
                let reason = parse(&message.to_string()).unwrap_err().to_string();
                assert!(reason.chars().count() < 300, "{path}: {reason}");
                let is_printable = |character: char| character == '\\' || character.escape_debug().len() == 1;
                assert!(
                    reason.chars().all(|character| is_printable(character) || "\"'".contains(character)),
                    "{path}: {reason}"
                );
            }
        }
    }
}
