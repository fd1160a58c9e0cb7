use async_graphql::{ComplexObject, Context, ID, InputObject, SimpleObject};
use entity::{Subject, client};
use iso_currency::Currency;
use read_model::Sum;

use super::history::{EVENTS, HistoryConnection};
use super::money::Money;
use super::order::OrderSummary;
use super::order_list::OrderConnection;
use super::sales::{Granularity, SalesReport};
use crate::edge::auth::{READ_CLIENTS, READ_ORDERS, READ_SALES};
use crate::graphql::app;
use crate::graphql::arguments::{page_size, parse_id, parse_order_cursor};
use crate::graphql::authorize::{authorize, authorize_for};
use crate::graphql::cost_directives::{cost, list_size, names, range_cost};
use crate::graphql::error::Error;
use crate::graphql::query::{MAX_POINTS, UTC, sales};
use crate::graphql::scalars::{Date, DateTime, int};
use crate::graphql::user_error::UserError;
use crate::orders::lists::OrderPage;

/// The default sizes of lists of orders.
const ORDERS: i32 = 20;
const RECENT_ORDERS: i32 = 10;

/// A client and the totals of its orders.
#[derive(Clone, SimpleObject)]
#[graphql(complex)]
pub struct Client {
    /// The id of the client.
    id: ID,
    /// The name of the client.
    name: String,
    /// The e-mail address of the client, in lower case.
    email: String,
    /// `gross` minus `cancelled`.
    total: Money,
    /// The sum of all orders of the client as they were placed.
    gross: Money,
    /// The sum of the cancellations and refunds of orders of the client.
    cancelled: Money,
    /// The number of orders that the client has placed.
    order_count: i32,
    /// The number of these orders that were cancelled.
    cancelled_count: i32,
    /// The time of the newest order of the client. Null if it has no orders.
    last_purchase: Option<DateTime>,
    /// The version of the client: all its events up to this version are included. Compare it with `clientVersion` of a
    /// mutation.
    version: i32,
}

impl Client {
    pub fn new(client: read_model::Client, currency: Currency) -> Client {
        Client {
            id: client.id.into(),
            total: Money::new(client.sales().net().revenue, currency),
            gross: Money::new(client.total, currency),
            cancelled: Money::new(client.cancelled.revenue, currency),
            order_count: int(client.order_count),
            cancelled_count: int(client.cancelled.count),
            last_purchase: client.last_purchase.map(DateTime),
            version: client.version,
            name: client.name,
            email: client.email,
        }
    }
}

#[ComplexObject]
impl Client {
    /// All orders of the client, newest first, a page at a time. An order is in the list as soon as it is placed. Requires the
    /// scope `orders:read`.
    #[graphql(
        directive = cost::apply("5".into()),
        directive = list_size::apply(None, names(&["first"]), names(&["edges", "nodes"]), Some(false))
    )]
    async fn orders(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The size of the page, from 1 to 100.", default_with = "Some(ORDERS)")] first: Option<i32>,
        #[graphql(desc = "Continue after this cursor: `pageInfo.endCursor` of the previous page.")] after: Option<
            String,
        >,
    ) -> Option<Result<OrderConnection, Error>> {
        Some(self.page_of_orders(ctx, first, after).await)
    }

    /// What has happened to the client and its orders, newest first, a page at a time. Requires the scope `clients:read`.
    #[graphql(
        directive = cost::apply("10".into()),
        directive = list_size::apply(None, names(&["first"]), names(&["edges", "nodes"]), Some(false))
    )]
    async fn history(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The size of the page, from 1 to 100.", default_with = "Some(EVENTS)")] first: Option<i32>,
        #[graphql(desc = "Continue after this cursor: `pageInfo.endCursor` of the previous page.")] after: Option<
            String,
        >,
    ) -> Option<Result<HistoryConnection, Error>> {
        Some(self.page_of_history(ctx, first, after).await)
    }

    /// The newest orders of the client, newest first, as they were placed. Cancelled ones stay in the list: `orders` returns the status
    /// of each order. At most 50 are stored. Requires the scope `sales:read`: without it, only this field is null, with an error.
    #[graphql(directive = list_size::apply(None, names(&["first"]), None, Some(false)))]
    async fn recent_orders(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The number of orders, from 1 to 100.", default_with = "Some(RECENT_ORDERS)")] first: Option<
            i32,
        >,
    ) -> Option<Result<Vec<OrderSummary>, Error>> {
        Some(recent_orders(ctx, self, first).await)
    }

    /// The sales to the client in a range of days, as the root field `sales` has those to all clients, from the orders themselves: any
    /// hours and time zones are available. At most 10000 orders are added up, and each 25 of them cost 1 more, when they have been read.
    /// Requires the scope `sales:read`: without it, only this field is null, with an error.
    #[graphql(
        directive = cost::apply("50".into()),
        directive = range_cost::apply(
            "from".into(), "to".into(), Some(100), None, None, names(&["points"]), Some(MAX_POINTS)
        )
    )]
    async fn sales(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The first day.")] from: Date,
        #[graphql(desc = "The last day, which is included.")] to: Date,
        #[graphql(
            desc = "The length of one point: hour, day or month. A report has at most 1000 points.",
            default_with = "Some(Granularity::default())"
        )]
        granularity: Option<Granularity>,
        #[graphql(
            desc = "The time zone of the days, as in the IANA time zone database, for example \"Europe/Berlin\".",
            default_with = "Some(UTC.into())"
        )]
        time_zone: Option<String>,
    ) -> Option<Result<SalesReport, Error>> {
        let (granularity, zone) = (granularity.unwrap_or_default(), time_zone.as_deref().unwrap_or(UTC));
        Some(sales::of_client(ctx, &self.id, (from, to), granularity, zone).await)
    }
}

impl Client {
    async fn page_of_orders(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
    ) -> Result<OrderConnection, Error> {
        authorize_for(ctx, READ_ORDERS, [self.id.as_str()])?;
        let (app, first) = (app(ctx), page_size(first, ORDERS)?);
        let after = after.map(|cursor| parse_order_cursor(&cursor)).transpose()?;
        let page = match parse_id(&self.id) {
            Some(id) => app.orders_of_clients.page(id, after, first).await??,
            None => OrderPage::default(),
        };
        Ok(OrderConnection::new(page, app.currency))
    }

    async fn page_of_history(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
    ) -> Result<HistoryConnection, Error> {
        authorize_for(ctx, READ_CLIENTS, [self.id.as_str()])?;
        let (identity, id) = (authorize(ctx, READ_CLIENTS)?, parse_id(&self.id).unwrap_or_default());
        HistoryConnection::read(ctx, identity, Subject::Client(id), first, after).await
    }
}

async fn recent_orders(ctx: &Context<'_>, client: &Client, first: Option<i32>) -> Result<Vec<OrderSummary>, Error> {
    authorize_for(ctx, READ_SALES, [client.id.as_str()])?;
    let (app, first) = (app(ctx), page_size(first, RECENT_ORDERS)?);
    let Some(id) = parse_id(&client.id) else { return Ok(Vec::new()) };
    let orders = app.clients.recent_orders(id, first).await??;
    Ok(orders.into_iter().map(|order| OrderSummary::new(order, Some(client.clone()), app.currency)).collect())
}

/// A client to register.
#[derive(InputObject)]
pub struct RegisterClientInput {
    /// The name: from 1 to 200 characters, of which none is a control character or invisible. Space around it is removed.
    pub name: String,
    /// The e-mail address: at most 200 ASCII characters, so an internationalised domain is written as `xn--…`. It must be
    /// unique and is stored in lower case.
    pub email: String,
    /// A random key for this client, such as a UUID, so that nobody can guess it: from 1 to 255 characters. A repeated request of
    /// the same caller (the subject of the token) with the same key, name and address returns the client that was registered first.
    pub idempotency_key: Option<String>,
}

/// Changes of a client. Fields that are left out or null keep their value.
#[derive(InputObject)]
pub struct UpdateClientInput {
    /// The id of the client.
    pub id: ID,
    /// The name: from 1 to 200 characters, of which none is a control character or invisible. Space around it is removed.
    pub name: Option<String>,
    /// The e-mail address: at most 200 ASCII characters, so an internationalised domain is written as `xn--…`. It must be
    /// unique and is stored in lower case.
    pub email: Option<String>,
    /// A random key for this change, such as a UUID, so that nobody can guess it: from 1 to 255 characters. A repeated request for
    /// the same client with the same key and the same changes changes nothing and returns the version of the first one.
    pub idempotency_key: Option<String>,
}

/// A client to forget.
#[derive(InputObject)]
pub struct ForgetClientInput {
    /// The id of the client.
    pub id: ID,
    /// A key of your choice, as in other mutations. It is not needed: a client is forgotten once.
    pub idempotency_key: Option<String>,
}

/// The result of registering, updating or forgetting a client.
#[derive(SimpleObject)]
pub struct ClientPayload {
    /// The id of the client. Null if `userErrors` is not empty.
    client_id: Option<ID>,
    /// The client after the change. Null if `userErrors` is not empty. Requires the scope `clients:read`. If only this field fails, with
    /// FORBIDDEN or READ_MODEL_UNAVAILABLE, the change was made all the same.
    client: Option<Result<Client, Error>>,
    /// The version of the client after the change. With it, `client(id:, minVersion:)` waits until queries include the
    /// change.
    client_version: Option<i32>,
    /// Whether an earlier request with the same idempotency key had made the change. This request wrote nothing then.
    replayed: bool,
    /// All problems that the user can fix. Empty if the change was made.
    user_errors: Vec<UserError>,
}

impl ClientPayload {
    /// `projected` is the client of the read model.
    pub fn new(
        row: client::Model,
        replayed: bool,
        projected: Result<Option<read_model::Client>, Error>,
        currency: Currency,
    ) -> ClientPayload {
        ClientPayload {
            client_id: Some(row.id.into()),
            client_version: Some(row.version),
            client: Some(projected.map(|projected| Client::new(with_row(row, projected), currency))),
            replayed,
            user_errors: Vec::new(),
        }
    }

    pub fn rejected(user_errors: Vec<UserError>) -> ClientPayload {
        ClientPayload { client_id: None, client: None, client_version: None, replayed: false, user_errors }
    }
}

/// Combines the row with the client of the read model, which may not include its last changes yet: name and e-mail address
/// are of the newer of the two, the totals are of the read model.
pub fn with_row(row: client::Model, projected: Option<read_model::Client>) -> read_model::Client {
    let client = projected.unwrap_or_else(|| read_model::Client {
        id: row.id,
        name: String::new(),
        email: String::new(),
        total: 0,
        order_count: 0,
        cancelled: Sum::default(),
        last_purchase: None,
        version: 0,
    });
    if client.version >= row.version {
        return client;
    }
    // If only this change is missing in the read model, the result includes all events up to it.
    let version = if client.version + 1 == row.version { row.version } else { client.version };
    read_model::Client { name: row.name, email: row.email, version, ..client }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn projected(version: i32) -> read_model::Client {
        let (name, email) = ("Bob".into(), "bob@example.com".into());
        let cancelled = Sum::default();
        read_model::Client { id: 1, name, email, total: 500, order_count: 1, cancelled, last_purchase: None, version }
    }

    #[test]
    fn a_written_client_is_as_new_as_the_row_and_includes_what_its_version_says() {
        let row = || client::Model {
            id: 1,
            name: "Robert".into(),
            email: "bob@example.com".into(),
            version: 5,
            forgotten_at: None,
        };
        let states = [
            (None, ("Robert", 0, 0)),
            (Some(projected(3)), ("Robert", 500, 3)),
            (Some(projected(4)), ("Robert", 500, 5)),
            (Some(projected(6)), ("Bob", 500, 6)),
        ];
        for (projected, expected) in states {
            let client = with_row(row(), projected.clone());
            assert_eq!((&*client.name, client.total, client.version), expected, "{projected:?}");
        }
        let registered = with_row(client::Model { version: 1, ..row() }, None);
        assert_eq!((registered.total, registered.version), (0, 1));
    }
}
