//! The output types of the schema, made from events, rows and projected clients.

use std::borrow::Cow;
use std::sync::Arc;

use async_graphql::connection::PageInfo;
use async_graphql::parser::types::Field;
use async_graphql::registry::Registry;
use async_graphql::{
    ComplexObject, Context, ContextSelectionSet, Enum, ID, InputValueError, InputValueResult, OutputType, Positioned,
    Scalar, ScalarType, ServerResult, SimpleObject, Value,
};
use chrono::{NaiveDate, SecondsFormat, Utc};
use entity::{Line, OrderPlaced};
use iso_currency::Currency;
use read_model::Ranking;
use read_model::sales::{self, Purchase, Sum};

use super::{app, authorize_for, page_size, parse_id, recent_clients};
use crate::auth::READ_SALES;
use crate::error::Error;
use crate::snapshots::Snapshot;

#[derive(Clone)]
pub struct Decimal(String);

/// An exact decimal number as a string, with as many digits after the point as the currency has, such as "3000.00". In an
/// argument they may be fewer.
#[Scalar]
impl ScalarType for Decimal {
    fn parse(value: Value) -> InputValueResult<Self> {
        let is_decimal = |text: &str| {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
            [whole, fraction]
                .iter()
                .all(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        };
        match value {
            Value::String(text) if is_decimal(&text) => Ok(Decimal(text)),
            value => {
                let error = InputValueError::custom(format!("{value} is not a decimal number such as \"3000.00\"."));
                Err(error.with_extension("code", "BAD_USER_INPUT"))
            }
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}

#[derive(Clone)]
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

#[derive(Clone, Copy)]
pub struct Date(pub NaiveDate);

/// A day in UTC as RFC 3339 writes it, such as "2026-01-31".
#[Scalar(specified_by_url = "https://www.rfc-editor.org/rfc/rfc3339")]
impl ScalarType for Date {
    fn parse(value: Value) -> InputValueResult<Self> {
        let day = match &value {
            Value::String(text) if text.len() == 10 => NaiveDate::parse_from_str(text, "%Y-%m-%d").ok(),
            _ => None,
        };
        let wrong = || InputValueError::custom(format!("{value} is not a day such as \"2026-01-31\"."));
        day.map(Date).ok_or_else(|| wrong().with_extension("code", "BAD_USER_INPUT"))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
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

impl Decimal {
    /// In the currency's smallest units; `None` where it has more digits than the currency, or does not fit.
    pub fn minor(&self, currency: Currency) -> Option<i64> {
        let (whole, fraction) = self.0.split_once('.').unwrap_or((&self.0, ""));
        let digits = usize::from(currency.exponent().unwrap_or(0));
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > digits {
            return None;
        }
        format!("{whole}{fraction:0<digits$}").parse().ok()
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
#[derive(Clone, SimpleObject)]
#[graphql(complex)]
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
    /// Every event of the client up to this version is included. Compare it with `clientVersion` of a mutation.
    version: i32,
}

impl Client {
    pub fn new(client: read_model::Client, currency: Currency) -> Client {
        Client {
            id: client.id.into(),
            name: client.name,
            email: client.email,
            total: Money::new(client.total, currency),
            order_count: int(client.order_count),
            last_purchase: client.last_purchase.map(DateTime),
            version: client.version,
        }
    }
}

#[ComplexObject]
impl Client {
    /// The client's newest orders, newest first: the last 50 are kept. Needs the scope `sales:read`.
    async fn recent_orders(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, from 1 to 100.", default = 10)] first: i32,
    ) -> Result<Vec<ClientOrder>, Error> {
        authorize_for(ctx, READ_SALES, [self.id.as_str()])?;
        let app = app(ctx);
        let recent = app.read_model.recent_orders(&[parse_id(&self.id)], page_size(first)?).await?;
        Ok(recent
            .into_iter()
            .flatten()
            .map(|purchase| ClientOrder::new(purchase, Some(self.clone()), app.currency))
            .collect())
    }
}

/// A page of clients.
#[derive(SimpleObject)]
pub struct ClientConnection {
    /// The clients of this page, each with its cursor.
    pub edges: Vec<ClientEdge>,
    /// The same clients without cursors.
    pub nodes: Vec<Client>,
    /// Whether there is more, and where it continues.
    pub page_info: PageInfo,
}

/// A client and where it stands in the list.
#[derive(SimpleObject)]
pub struct ClientEdge {
    /// The client.
    pub node: Client,
    /// Continue after this place with `clients(after:)`. It stays where it is when clients move.
    pub cursor: String,
}

/// The order of a list of clients.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
pub enum ClientOrderBy {
    /// By what their orders add up to, the most first.
    TotalDesc,
    /// By when they placed their newest order, the last first.
    LastPurchaseDesc,
}

impl From<ClientOrderBy> for Ranking {
    fn from(by: ClientOrderBy) -> Ranking {
        match by {
            ClientOrderBy::TotalDesc => Ranking::Total,
            ClientOrderBy::LastPurchaseDesc => Ranking::LastPurchase,
        }
    }
}

/// An order as lists show it.
#[derive(SimpleObject)]
#[graphql(complex)]
pub struct ClientOrder {
    /// The order's id, a UUID.
    id: ID,
    /// The client who placed it.
    client_id: ID,
    /// When it was placed.
    placed_at: DateTime,
    /// What its items add up to.
    total: Money,
    /// How many lines it has.
    item_count: i32,
    /// Who placed it, where that is known already.
    #[graphql(skip)]
    placed_by: Option<Client>,
}

impl ClientOrder {
    pub fn new(purchase: Purchase, placed_by: Option<Client>, currency: Currency) -> ClientOrder {
        ClientOrder {
            placed_by,
            id: purchase.order_id.to_string().into(),
            client_id: purchase.client_id.into(),
            placed_at: DateTime(purchase.time),
            total: Money::new(purchase.total, currency),
            item_count: int(purchase.lines.into()),
        }
    }
}

#[ComplexObject]
impl ClientOrder {
    /// The client who placed it, as it is now.
    async fn client(&self, ctx: &Context<'_>) -> Option<Result<Client, Error>> {
        if let Some(client) = &self.placed_by {
            return Some(Ok(client.clone()));
        }
        recent_clients(ctx, &[parse_id(&self.client_id)]).await.map(|mut clients| clients.pop().flatten()).transpose()
    }
}

/// How long each point of a report is.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "sales::Granularity")]
pub enum Granularity {
    /// An hour. Kept for 90 days.
    Hour,
    /// A day, from midnight on.
    Day,
    /// A calendar month, cut where the report begins and ends.
    Month,
}

/// What was sold in some time, in UTC.
#[derive(SimpleObject)]
pub struct SalesReport {
    /// What all orders of that time add up to.
    total: Money,
    /// How many orders were placed; 2147483647 stands for more.
    order_count: i32,
    /// Each hour, day or month of that time, also where nothing was sold.
    points: SalesPoints,
}

/// What was sold in an hour, a day or a month.
#[derive(SimpleObject)]
pub struct SalesPoint {
    /// Where it begins.
    start: DateTime,
    /// What the orders add up to.
    revenue: Money,
    /// How many orders were placed.
    order_count: i32,
}

impl SalesReport {
    pub fn new(report: Arc<sales::Report>, currency: Currency) -> SalesReport {
        SalesReport {
            total: Money::new(report.total.revenue, currency),
            order_count: int(report.total.count),
            points: SalesPoints { report, currency },
        }
    }
}

/// A list of [`SalesPoint`]. They may be a thousand, and resolving each of their fields would take two thirds of the answer's
/// time: one is resolved, and each other is a copy of it with its own values.
struct SalesPoints {
    report: Arc<sales::Report>,
    currency: Currency,
}

impl OutputType for SalesPoints {
    fn type_name() -> Cow<'static, str> {
        Vec::<SalesPoint>::type_name()
    }

    fn qualified_type_name() -> String {
        Vec::<SalesPoint>::qualified_type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        Vec::<SalesPoint>::create_type_info(registry)
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, field: &Positioned<Field>) -> ServerResult<Value> {
        let point = |&(start, sum): &(chrono::DateTime<Utc>, Sum)| SalesPoint {
            start: DateTime(start),
            revenue: Money::new(sum.revenue, self.currency),
            order_count: int(sum.count),
        };
        // Nothing else in a point is what these are.
        let sample = point(&(chrono::DateTime::<Utc>::MIN_UTC, Sum { revenue: i64::MIN, count: i64::MIN }));
        let (resolved, unlike) = (sample.resolve(ctx, field).await?, sample.values());
        let points = self.report.points.iter().map(|of| {
            let mut copy = resolved.clone();
            replace(&mut copy, &unlike, &point(of).values());
            copy
        });
        Ok(Value::List(points.collect()))
    }
}

impl SalesPoint {
    /// All in which one point differs from another.
    fn values(&self) -> [Value; 3] {
        let SalesPoint { start, revenue: Money { amount, currency_code: _ }, order_count } = self;
        [start.to_value(), amount.to_value(), (*order_count).into()]
    }
}

/// Puts a value in the place of each that is in an object, however deep.
fn replace(object: &mut Value, of: &[Value], by: &[Value]) {
    match object {
        Value::Object(fields) => fields.values_mut().for_each(|value| replace(value, of, by)),
        value => {
            if let Some(index) = of.iter().position(|other| other == value) {
                *value = by[index].clone();
            }
        }
    }
}

/// By what products are ranked.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
pub enum ProductRank {
    /// By what they brought in.
    Revenue,
    /// By how many pieces were sold.
    Units,
}

/// What was sold of a product.
#[derive(SimpleObject)]
pub struct ProductSales {
    /// The product.
    pub product: Product,
    /// How many pieces were sold; 2147483647 stands for more.
    pub units: i32,
    /// What they brought in, each at the price it was ordered at.
    pub revenue: Money,
}

/// What is sold, at a moment.
#[derive(SimpleObject)]
pub struct SalesSnapshot {
    /// The moment.
    time: DateTime,
    /// What the orders since midnight, in UTC, add up to.
    revenue_today: Money,
    /// How many orders were placed since midnight, in UTC.
    orders_today: i32,
    /// About how many orders were placed in the last minute.
    orders_per_minute: i32,
    /// The last ten orders of all clients, newest first.
    latest_orders: Vec<ClientOrder>,
}

impl SalesSnapshot {
    pub fn new(snapshot: Snapshot, currency: Currency) -> SalesSnapshot {
        let latest = snapshot.latest.into_iter().map(|(purchase, client)| {
            ClientOrder::new(purchase, client.map(|client| Client::new(client, currency)), currency)
        });
        SalesSnapshot {
            time: DateTime(snapshot.time),
            revenue_today: Money::new(snapshot.today.revenue, currency),
            orders_today: int(snapshot.today.count),
            orders_per_minute: int(snapshot.rate),
            latest_orders: latest.collect(),
        }
    }
}

/// GraphQL's integers have 32 bits.
pub fn int(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
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
    /// `price` in minor units.
    pub fn new(id: i64, name: String, price: i64, currency: Currency) -> Product {
        Product { id: id.into(), name, price: Money::new(price, currency) }
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
    pub fn new(order: OrderPlaced, time: chrono::DateTime<Utc>, currency: Currency) -> Order {
        Order {
            id: order.order_id.to_string().into(),
            client_id: order.client_id.into(),
            placed_at: DateTime(time),
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
    fn amounts_are_read_exactly() {
        let minor = |text: &str, currency| Decimal::parse(Value::from(text)).ok().and_then(|it| it.minor(currency));
        for (text, cents) in [("3000.00", 300_000), ("3000", 300_000), ("0.1", 10), ("007.050", 705), ("0", 0)] {
            assert_eq!(minor(text, Currency::USD), Some(cents), "{text}");
        }
        assert_eq!(minor("92233720368547758.07", Currency::USD), Some(i64::MAX));
        assert_eq!(minor("1234", Currency::JPY), Some(1_234));
        assert_eq!(minor("1234.0", Currency::JPY), Some(1_234));
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", " 1", "1.005", "92233720368547758.08", "٣"] {
            assert_eq!(minor(text, Currency::USD), None, "{text:?}");
        }
        assert!(Decimal::parse(Value::from(5)).is_err(), "a number in JSON may not be exact");
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        let text = |ms| DateTime(chrono::DateTime::from_timestamp_millis(ms).unwrap()).to_value().to_string();
        assert_eq!(text(1_700_000_000_000), r#""2023-11-14T22:13:20.000Z""#);
        assert_eq!(text(1_700_000_000_120), r#""2023-11-14T22:13:20.120Z""#);
    }
}
