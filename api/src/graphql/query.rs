//! The root fields of queries: each checks the scope, reads the arguments, and maps the result to a GraphQL type.

mod clients;
pub mod orders;
pub mod sales;

use async_graphql::{Context, ID, Object};

use super::app;
use super::arguments::{invalid_cursor, page_size, parse_id, parse_search};
use super::authorize::{authorize, authorize_for_all};
use super::cost_directives::{cost, list_size, names, range_cost, value_cost};
use super::error::Error;
use super::scalars::Date;
use super::types::client::Client;
use super::types::client_list::{ClientConnection, ClientSort};
use super::types::client_report::ClientReport;
use super::types::order::{Order, OrderRequest, OrderStatus};
use super::types::order_list::OrderConnection;
use super::types::product::{Product, ProductConnection};
use super::types::sales::{Granularity, ProductSales, ProductSort, SalesReport};
use super::types::system::System;
use crate::edge::auth::{READ_PRODUCTS, READ_SYSTEM};

/// Most points in a report of `sales`.
pub const MAX_POINTS: i32 = 1_000;
/// Longest range of `topProducts`: days after the first one.
pub const MAX_DAYS: i32 = 3_660;
/// Longest range of `clientReport`: a leap year.
const MAX_DAYS_OF_CLIENTS: i32 = 365;

/// Versions of `atVersion` that cost 1. To add up 10,000 orders takes 21 ms.
const VERSIONS_PER_POINT: i32 = 12;

/// The default sizes of pages.
const CLIENTS: i32 = 20;
const ORDERS: i32 = 20;
const PRODUCTS: i32 = 50;
const TOP_PRODUCTS: i32 = 10;
/// The default time zone.
pub const UTC: &str = "UTC";

pub struct Query;

/// Queries. Results may lag behind changes briefly.
//
// Arguments with a default are nullable, and null stands for the default: the Relay compiler accepts an optional variable only there.
//
// All fields are nullable, so that an error, such as a missing scope, leaves the other fields of the request. Resolvers return
// `Option<Result<_>>` for that: with `Result<Option<_>>`, async-graphql would pass the error on to the parent.
#[Object]
impl Query {
    /// A client. Null if no client has this id. Requires the scope `clients:read`.
    async fn client(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of the client.")] id: ID,
        #[graphql(
            desc = "Wait until the client includes all events up to this version, for example `clientVersion` of a \
                    mutation. The field fails with READ_MODEL_BEHIND after a time limit (by default 2 seconds).",
            directive = cost::apply("10".into())
        )]
        min_version: Option<i32>,
        #[graphql(
            desc = "The client as it was at this version, from 1 to 10000, computed from the log: its name, e-mail address, totals and \
                    last purchase. Its lists are the current ones. Not with `minVersion`.",
            directive = cost::apply("10".into()),
            directive = value_cost::apply(VERSIONS_PER_POINT)
        )]
        at_version: Option<i32>,
    ) -> Option<Result<Client, Error>> {
        match at_version {
            Some(version) => clients::at_version(ctx, &id, version, min_version).await.transpose(),
            None => clients::by_id(ctx, &id, min_version).await.transpose(),
        }
    }

    /// Several clients, in the order of the ids. Null for an id without a client. Requires the scope `clients:read`.
    #[graphql(directive = list_size::apply(None, names(&["ids"]), None, None))]
    async fn clients_by_ids(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The ids of the clients, at most 100.")] ids: Vec<ID>,
    ) -> Option<Result<Vec<Option<Client>>, Error>> {
        Some(clients::by_ids(ctx, &ids).await)
    }

    /// The client with an e-mail address, in any case. Null if no client has it. It is found as soon as it is registered. Requires
    /// the scope `clients:read`, not with a token for one client.
    #[graphql(directive = cost::apply("9".into()))]
    async fn client_by_email(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The e-mail address of the client.")] email: String,
    ) -> Option<Result<Client, Error>> {
        clients::by_email(ctx, &email).await.transpose()
    }

    /// All clients, a page at a time, ranked by their orders. Requires the scope `sales:read`. With `search`: the clients whose
    /// name begins with the text, by name, then those of whom only the e-mail address does, by address. This requires the scope
    /// `clients:read`. Not with a token for one client.
    #[graphql(directive = list_size::apply(None, names(&["first"]), names(&["edges", "nodes"]), Some(false)))]
    async fn clients(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "The beginning of a name or an e-mail address, in any case: from 1 to 200 characters. A client is found as \
                    soon as it is registered. Not with `sortBy`.",
            directive = cost::apply("10".into())
        )]
        search: Option<String>,
        #[graphql(desc = "The size of the page, from 1 to 100.", default_with = "Some(CLIENTS)")] first: Option<i32>,
        #[graphql(desc = "Continue after this cursor: `pageInfo.endCursor` of the previous page.")] after: Option<
            String,
        >,
        #[graphql(desc = "The ranking, by default TOTAL_DESC.")] sort_by: Option<ClientSort>,
    ) -> Option<Result<ClientConnection, Error>> {
        Some(match search {
            Some(search) => clients::find(ctx, &search, sort_by, first, after).await,
            None => clients::ranked(ctx, sort_by.unwrap_or_default(), first, after).await,
        })
    }

    /// The sales in a range of days, at most one second old. Requires the scope `sales:read`.
    #[graphql(
        directive = cost::apply("20".into()),
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
            desc = "The time zone of the days, as in the IANA time zone database, for example \"Europe/Berlin\". \
                    It must differ from UTC by a multiple of half an hour.",
            default_with = "Some(UTC.into())"
        )]
        time_zone: Option<String>,
    ) -> Option<Result<SalesReport, Error>> {
        let granularity = granularity.unwrap_or_default();
        Some(sales::report(ctx, (from, to), granularity, time_zone.as_deref().unwrap_or(UTC)).await)
    }

    /// The products with the highest sales in a range of days in UTC: there are no sums of products by the days of other time zones. The
    /// result is at most one second old; orders that arrive more than a day late count within two minutes. Requires the scope
    /// `sales:read`.
    #[graphql(
        directive = list_size::apply(None, names(&["first"]), None, Some(false)),
        directive = range_cost::apply("from".into(), "to".into(), None, Some(4), Some(MAX_DAYS), None, None)
    )]
    async fn top_products(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The first day, from midnight UTC.")] from: Date,
        #[graphql(desc = "The last day in UTC, which is included. At most ten years after the first day.")] to: Date,
        #[graphql(desc = "The number of products, from 1 to 100.", default_with = "Some(TOP_PRODUCTS)")] first: Option<
            i32,
        >,
        #[graphql(desc = "The sort order.", default_with = "Some(ProductSort::default())")] sort_by: Option<
            ProductSort,
        >,
    ) -> Option<Result<Vec<ProductSales>, Error>> {
        Some(sales::top_products(ctx, (from, to), first, sort_by.unwrap_or_default()).await)
    }

    /// The clients that ordered in a range of days: how many, how many of them for the first time, and those that bought most. The
    /// report is at most a second old, or at most 40 seconds if its range has ended a day ago; with millions of orders in the range,
    /// ten times as old as its computation takes. Requires the scope `sales:read`, not with a token for one client.
    #[graphql(
        directive = cost::apply("20".into()),
        directive = range_cost::apply("from".into(), "to".into(), Some(2), None, Some(MAX_DAYS_OF_CLIENTS), None, None)
    )]
    async fn client_report(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The first day.")] from: Date,
        #[graphql(desc = "The last day, which is included. A range has at most 366 days.")] to: Date,
        #[graphql(
            desc = "The time zone of the days, as in the IANA time zone database, for example \"Europe/Berlin\".",
            default_with = "Some(UTC.into())"
        )]
        time_zone: Option<String>,
    ) -> Option<Result<ClientReport, Error>> {
        Some(sales::clients(ctx, (from, to), time_zone.as_deref().unwrap_or(UTC)).await)
    }

    /// Orders, newest first, a page at a time. An order is in the list as soon as it is placed. A page with `status: PLACED` may have
    /// fewer than `first` orders, or none, although `hasNextPage` is true: it passes over a limited number of other orders. With a
    /// token for one client: the orders of that client. Requires the scope `orders:read`.
    #[graphql(
        directive = cost::apply("9".into()),
        directive = list_size::apply(None, names(&["first"]), names(&["edges", "nodes"]), Some(false))
    )]
    #[expect(clippy::too_many_arguments, reason = "the arguments of the field")]
    async fn orders(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only orders of this client.")] client_id: Option<ID>,
        #[graphql(desc = "Only orders with this status.")] status: Option<OrderStatus>,
        #[graphql(desc = "Only orders from this day on.")] from: Option<Date>,
        #[graphql(desc = "Only orders until this day, which is included.")] to: Option<Date>,
        #[graphql(
            desc = "The time zone of the days, as in the IANA time zone database, for example \"Europe/Berlin\".",
            default_with = "Some(UTC.into())"
        )]
        time_zone: Option<String>,
        #[graphql(desc = "The size of the page, from 1 to 100.", default_with = "Some(ORDERS)")] first: Option<i32>,
        #[graphql(desc = "Continue after this cursor: `pageInfo.endCursor` of the previous page.")] after: Option<
            String,
        >,
    ) -> Option<Result<OrderConnection, Error>> {
        let days = (from, to, time_zone.as_deref().unwrap_or(UTC));
        Some(orders::page(ctx, client_id, status, days, first, after).await)
    }

    /// An order. Null if no order has this id. A token for one client only returns orders of that client. Requires the scope
    /// `orders:read`.
    #[graphql(directive = cost::apply("5".into()))]
    async fn order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of the order.")] id: ID,
    ) -> Option<Result<Order, Error>> {
        let order = orders::by_id(ctx, &id).await.transpose()?;
        Some(order.map(|order| Order::new(&order, app(ctx).currency)))
    }

    /// An order that was accepted with `mode: DEFERRED`: whether it is placed, and why it was rejected. It is PENDING while there is no
    /// result, also if no order was accepted with this id. Null if nothing can have the id. Requires the scope `orders:place`.
    #[graphql(directive = cost::apply("9".into()))]
    async fn order_request(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of the request.")] id: ID,
    ) -> Option<Result<OrderRequest, Error>> {
        orders::request(ctx, id).await.transpose()
    }

    /// A product. Null if no product has this id. Requires the scope `products:read`.
    async fn product(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of the product.")] id: ID,
    ) -> Option<Result<Product, Error>> {
        product(ctx, &id).await.transpose()
    }

    /// All products in the order of their ids, a page at a time. A change is in the list within a second, or within a few seconds
    /// with 100,000 products. Requires the scope `products:read`.
    #[graphql(directive = list_size::apply(None, names(&["first"]), names(&["edges", "nodes"]), Some(false)))]
    async fn products(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "Only products of which a word of the name, or the SKU, begins with this text, in any case: from 1 to 200 \
                    characters. \"red la\" finds \"Big Red Lamp\".",
            directive = cost::apply("5".into())
        )]
        search: Option<String>,
        #[graphql(desc = "Only products that can be ordered, or only withdrawn ones.")] available: Option<bool>,
        #[graphql(desc = "The size of the page, from 1 to 100.", default_with = "Some(PRODUCTS)")] first: Option<i32>,
        #[graphql(desc = "Continue after this cursor: `pageInfo.endCursor` of the previous page.")] after: Option<
            String,
        >,
    ) -> Option<Result<ProductConnection, Error>> {
        Some(products(ctx, search, available, first, after).await)
    }

    /// The state of the service, for operators: how far queries are behind, and what waits or has failed. Requires the scope
    /// `system:read`, not with a token for one client.
    async fn system(&self, ctx: &Context<'_>) -> Option<Result<System, Error>> {
        Some(authorize_for_all(ctx, READ_SYSTEM).map(|()| System))
    }
}

async fn product(ctx: &Context<'_>, id: &ID) -> Result<Option<Product>, Error> {
    authorize(ctx, READ_PRODUCTS)?;
    let (Some(id), app) = (parse_id(id), app(ctx)) else { return Ok(None) };
    Ok(app.catalogue.by_id(id).await?.map(|product| Product::new(product, app.currency)))
}

async fn products(
    ctx: &Context<'_>,
    search: Option<String>,
    available: Option<bool>,
    first: Option<i32>,
    after: Option<String>,
) -> Result<ProductConnection, Error> {
    authorize(ctx, READ_PRODUCTS)?;
    let (first, app) = (page_size(first, PRODUCTS)?, app(ctx));
    let after = after.map(|cursor| parse_id(&cursor).ok_or_else(invalid_cursor)).transpose()?;
    let search = search.as_deref().map(parse_search).transpose()?;
    let page = app.catalogue.page(search, available, after, first).await?;
    Ok(ProductConnection::new(page, app.currency))
}
