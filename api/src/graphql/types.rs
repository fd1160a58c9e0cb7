//! The output types of the schema, made from events, rows and projected clients.

use async_graphql::connection::PageInfo;
use async_graphql::{
    ComplexObject, Context, Enum, ID, InputValueError, InputValueResult, Scalar, ScalarType, SimpleObject, Value,
};
use chrono::{NaiveDate, SecondsFormat, Utc};
use entity::{Line, OrderPlaced, product};
use iso_currency::Currency;
use read_model::sales::{self, Purchase, Report, Sum};
use read_model::{Place, Ranking};

use super::list::{Alike, List};
use super::{app, authorize_for, page_size, parse_id, recent_clients};
use crate::edge::auth::READ_SALES;
use crate::graphql::error::Error;
use crate::queries::snapshots::Snapshot;

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

    /// See [`Alike`].
    fn sample(&self) -> Money {
        Money { amount: Decimal("\0amount".into()), ..*self }
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

impl Alike for Client {
    // It has neither node nor cursor.
    const PLAIN: &[&str] = ClientEdge::PLAIN;

    fn sample(&self) -> Client {
        Client {
            id: "\0id".into(),
            name: "\0name".into(),
            email: "\0email".into(),
            total: self.total.sample(),
            order_count: i32::MIN,
            last_purchase: Some(DateTime(chrono::DateTime::<Utc>::MIN_UTC)),
            version: i32::MIN + 1,
        }
    }

    fn values(&self) -> Vec<Value> {
        let Client { id, name, email, total, order_count, last_purchase, version } = self;
        let Money { amount, currency_code: _ } = total;
        let last_purchase = last_purchase.as_ref().map_or(Value::Null, ScalarType::to_value);
        let [order_count, version] = [*order_count, *version].map(Value::from);
        let [id, name, email] = [id.as_str(), name, email].map(Value::from);
        vec![id, name, email, amount.to_value(), order_count, last_purchase, version]
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
    pub edges: List<ClientEdge>,
    /// The same clients without cursors.
    pub nodes: List<Client>,
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

impl ClientConnection {
    pub fn new(
        clients: impl Iterator<Item = (Place, read_model::Client)>,
        by: Ranking,
        has_previous_page: bool,
        has_next_page: bool,
        currency: Currency,
    ) -> ClientConnection {
        let edge =
            |(place, client)| ClientEdge { node: Client::new(client, currency), cursor: place_to_cursor(place, by) };
        let edges: Vec<ClientEdge> = clients.map(edge).collect();
        let page_info = page_info(edges.iter().map(|edge| &edge.cursor), has_previous_page, has_next_page);
        let nodes: Vec<Client> = edges.iter().map(|edge| edge.node.clone()).collect();
        ClientConnection { edges: edges.into(), nodes: nodes.into(), page_info }
    }
}

/// `rank:id`, after a letter that tells the ranking.
fn place_to_cursor(Place { rank, id }: Place, by: Ranking) -> String {
    let letter = match by {
        Ranking::Total => 't',
        Ranking::LastPurchase => 'p',
    };
    format!("{letter}{rank}:{id}")
}

pub fn place_of_cursor(text: &str, by: Ranking) -> Result<Place, Error> {
    let place = || {
        let (rank, id) = text.get(1..)?.split_once(':')?;
        let place = Place { rank: rank.parse().ok()?, id: parse_id(id) };
        (place_to_cursor(place, by) == text).then_some(place)
    };
    place().ok_or_else(|| Error::BadUserInput("`after` is not a cursor of this list.".into()))
}

/// Of a page that has these cursors.
pub fn page_info<'a>(
    mut cursors: impl DoubleEndedIterator<Item = &'a String> + Clone,
    has_previous_page: bool,
    has_next_page: bool,
) -> PageInfo {
    let start_cursor = cursors.clone().next().cloned();
    PageInfo { has_previous_page, has_next_page, start_cursor, end_cursor: cursors.next_back().cloned() }
}

impl Alike for ClientEdge {
    const PLAIN: &[&str] = &[
        "node",
        "cursor",
        "__typename",
        "id",
        "name",
        "email",
        "total",
        "amount",
        "currencyCode",
        "orderCount",
        "lastPurchase",
        "version",
    ];

    fn sample(&self) -> ClientEdge {
        ClientEdge { node: self.node.sample(), cursor: "\0cursor".into() }
    }

    fn values(&self) -> Vec<Value> {
        let ClientEdge { node, cursor } = self;
        let mut values = node.values();
        values.push(cursor.as_str().into());
        values
    }
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
    points: List<SalesPoint>,
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
    pub fn new(report: &Report, currency: Currency) -> SalesReport {
        let point = |&(start, sum): &(chrono::DateTime<Utc>, Sum)| SalesPoint {
            start: DateTime(start),
            revenue: Money::new(sum.revenue, currency),
            order_count: int(sum.count),
        };
        SalesReport {
            total: Money::new(report.total.revenue, currency),
            order_count: int(report.total.count),
            points: report.points.iter().map(point).collect::<Vec<_>>().into(),
        }
    }
}

impl Alike for SalesPoint {
    const PLAIN: &[&str] = &["__typename", "start", "revenue", "amount", "currencyCode", "orderCount"];

    fn sample(&self) -> SalesPoint {
        SalesPoint {
            start: DateTime(chrono::DateTime::<Utc>::MIN_UTC),
            revenue: self.revenue.sample(),
            order_count: i32::MIN,
        }
    }

    fn values(&self) -> Vec<Value> {
        let SalesPoint { start, revenue: Money { amount, currency_code: _ }, order_count } = self;
        vec![start.to_value(), amount.to_value(), (*order_count).into()]
    }
}

/// What was sold of a product.
#[derive(Clone, SimpleObject)]
pub struct ProductSales {
    /// The product.
    pub product: Product,
    /// How many pieces were sold; 2147483647 stands for more.
    pub units: i32,
    /// What they brought in, each at the price it was ordered at.
    pub revenue: Money,
}

impl ProductSales {
    pub fn new(product: Product, sold: Sum, currency: Currency) -> ProductSales {
        ProductSales { product, units: int(sold.count), revenue: Money::new(sold.revenue, currency) }
    }
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
    pub fn new(row: product::Model, currency: Currency) -> Product {
        Product { id: row.id.into(), name: row.name, price: Money::new(row.price, currency) }
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
