//! The output types of the schema, made from events, rows and projected clients.

use async_graphql::connection::PageInfo;
use async_graphql::{ID, InputValueError, InputValueResult, Scalar, ScalarType, SimpleObject, Value};
use chrono::{SecondsFormat, Utc};
use entity::{Event, Line, product};
use iso_currency::Currency;

#[derive(Clone)]
pub struct Decimal(String);

/// An exact decimal number as a string, with as many digits after the point as the currency has, such as "3000.00".
#[Scalar]
impl ScalarType for Decimal {
    fn parse(value: Value) -> InputValueResult<Self> {
        Err(InputValueError::expected_type(value))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}

pub struct DateTime(chrono::DateTime<Utc>);

/// A moment in UTC as RFC 3339 writes it, with milliseconds, such as "2026-01-31T23:59:59.123Z".
#[Scalar(specified_by_url = "https://www.rfc-editor.org/rfc/rfc3339")]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        Err(InputValueError::expected_type(value))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// An amount of money.
#[derive(Clone, SimpleObject)]
pub struct Money {
    /// The amount, exact, in whole currency units: "3000.00" is three thousand dollars where the currency is USD.
    amount: Decimal,
    /// The currency, as ISO 4217 writes it, such as "USD". It is the same throughout this service.
    currency_code: &'static str,
}

impl Money {
    /// `minor` are the currency's smallest units, such as cents.
    pub fn new(minor: i64, currency: Currency) -> Money {
        Money { amount: Decimal(decimal(minor, currency.exponent().unwrap_or(0))), currency_code: currency.code() }
    }
}

fn decimal(minor: i64, digits: u16) -> String {
    let (sign, digits) = (if minor < 0 { "-" } else { "" }, usize::from(digits));
    let text = format!("{:0>width$}", minor.unsigned_abs(), width = digits + 1);
    match text.split_at(text.len() - digits) {
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}

/// A client and what its orders add up to, as projected from the events so far.
#[derive(SimpleObject)]
pub struct Client {
    /// The client's id.
    id: ID,
    /// The client's name, as of its newest projected event.
    name: String,
    /// The client's e-mail address, as of its newest projected event.
    email: String,
    /// What all orders of the client add up to.
    total: Money,
    /// How many orders the client has placed.
    order_count: i32,
    /// When the client placed its newest order.
    last_purchase: Option<DateTime>,
    /// Every event of the client up to this version is included. Compare it with `clientVersion` of `placeOrder`.
    version: i32,
}

impl Client {
    pub fn new(client: read_model::Client, currency: Currency) -> Client {
        Client {
            id: client.id.into(),
            name: client.name,
            email: client.email,
            total: Money::new(client.total, currency),
            order_count: i32::try_from(client.order_count).unwrap_or(i32::MAX),
            last_purchase: client.last_purchase.map(DateTime),
            version: client.version,
        }
    }
}

/// Something that can be ordered.
#[derive(Clone, SimpleObject)]
pub struct Product {
    /// The product's id, for `OrderItemInput.productId`.
    pub id: ID,
    /// The product's name.
    name: String,
    /// The price of one piece now. An order keeps the price it was placed at.
    price: Money,
}

impl Product {
    pub fn new(product: product::Model, currency: Currency) -> Product {
        Product { id: product.id.into(), name: product.name, price: Money::new(product.price, currency) }
    }
}

/// A page of products.
#[derive(SimpleObject)]
pub struct ProductConnection {
    /// The products of this page, each with its cursor.
    pub edges: Vec<ProductEdge>,
    /// The same products without cursors.
    pub nodes: Vec<Product>,
    /// Whether there is more, and where it continues.
    pub page_info: PageInfo,
}

/// A product and where it stands in the list.
#[derive(SimpleObject)]
pub struct ProductEdge {
    /// The product.
    pub node: Product,
    /// Continue after this product with `products(after:)`.
    pub cursor: String,
}

/// An order as it was placed.
#[derive(SimpleObject)]
pub struct Order {
    /// The order's id, a UUID.
    id: ID,
    /// The client who placed it.
    client_id: ID,
    /// When it was placed.
    placed_at: DateTime,
    /// What its items add up to.
    total: Money,
    /// Its items, in the order they were given.
    items: Vec<OrderItem>,
}

impl Order {
    pub fn new(event: Event, currency: Currency) -> Order {
        let order = event.order;
        Order {
            id: order.order_id.to_string().into(),
            client_id: order.client_id.into(),
            placed_at: DateTime(event.time),
            total: Money::new(order.total, currency),
            items: order.lines.into_iter().map(|line| OrderItem::new(line, currency)).collect(),
        }
    }
}

/// One line of an order.
#[derive(SimpleObject)]
pub struct OrderItem {
    /// The product ordered.
    product_id: ID,
    /// The product's name when it was ordered.
    name: String,
    /// The price of one piece when it was ordered.
    unit_price: Money,
    /// How many pieces.
    quantity: i32,
    /// Unit price times quantity.
    line_total: Money,
}

impl OrderItem {
    fn new(line: Line, currency: Currency) -> OrderItem {
        OrderItem {
            product_id: line.product_id.into(),
            unit_price: Money::new(line.unit_price, currency),
            line_total: Money::new(line.total().unwrap_or(i64::MAX), currency),
            quantity: line.quantity,
            name: line.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_digits_of_the_currency() {
        assert_eq!(decimal(300_000, 2), "3000.00");
        assert_eq!(decimal(0, 2), "0.00");
        assert_eq!(decimal(7, 2), "0.07");
        assert_eq!(decimal(-7, 2), "-0.07");
        assert_eq!(decimal(1_234, 0), "1234");
        assert_eq!(decimal(1_234, 3), "1.234");
        assert_eq!(decimal(i64::MAX, 2), "92233720368547758.07");
        assert_eq!(decimal(i64::MIN, 2), "-92233720368547758.08");
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        let text = |ms| DateTime(chrono::DateTime::from_timestamp_millis(ms).unwrap()).to_value().to_string();
        assert_eq!(text(1_700_000_000_000), r#""2023-11-14T22:13:20.000Z""#);
        assert_eq!(text(1_700_000_000_120), r#""2023-11-14T22:13:20.120Z""#);
    }
}
