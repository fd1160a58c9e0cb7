//! The root fields of queries: each checks the scope, reads the arguments, and maps the result to a GraphQL type.

use async_graphql::{Context, ID, Object};
use chrono::{Datelike, Days, Timelike, Utc};
use read_model::Resolution;
use read_model::reports::{DayRange, start_of_day};

use super::app;
use super::arguments::{
    date_range, invalid_cursor, page_size, parse_id, parse_ids, parse_order_cursor, parse_order_id, parse_search,
    parse_time_zone,
};
use super::authorize::{authorize, authorize_for, authorize_for_all, only_client};
use super::cost_directives::{cost, list_size, names, range_cost};
use super::error::Error;
use super::scalars::Date;
use super::types::client::{Client, ClientConnection, ClientSort, parse_cursor, parse_found_cursor, with_row};
use super::types::order::{Order, OrderStatus};
use super::types::order_list::OrderConnection;
use super::types::product::{Product, ProductConnection};
use super::types::sales::{Granularity, ProductSales, ProductSort, SalesReport};
use crate::commands::clients::valid_email;
use crate::edge::auth::{READ_CLIENTS, READ_ORDERS, READ_PRODUCTS, READ_SALES};
use crate::edge::quota::AfterWait;
use crate::history::{self, MAX_EVENTS};
use crate::orders::StoredOrder;
use crate::orders::lists::{self, Filter};
use crate::queries::clients::AtVersion;
use crate::search;

/// Most points in a report of `sales`.
const MAX_POINTS: i32 = 1_000;
/// Longest range of `topProducts`.
const MAX_DAYS: i32 = 3_660;

/// The default sizes of pages.
const CLIENTS: i32 = 20;
const ORDERS: i32 = 20;
const PRODUCTS: i32 = 50;
const TOP_PRODUCTS: i32 = 10;
/// The default time zone.
const UTC: &str = "UTC";

pub struct Query;

/// Queries. Results may lag behind changes briefly.
//
// Arguments with a default are nullable, and null stands for the default: the Relay compiler accepts an optional variable only there.
//
// Resolvers of nullable fields return `Option<Result<_>>`, so that an error sets only this field to null. With
// `Result<Option<_>>`, async-graphql would pass the error on to the parent.
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
            directive = cost::apply("100".into())
        )]
        at_version: Option<i32>,
    ) -> Option<Result<Client, Error>> {
        match at_version {
            Some(version) => client_at(ctx, &id, version, min_version).await.transpose(),
            None => client(ctx, &id, min_version).await.transpose(),
        }
    }

    /// Several clients, in the order of the ids. Null for an id without a client. Requires the scope `clients:read`.
    #[graphql(directive = list_size::apply(None, names(&["ids"]), None, None))]
    async fn clients_by_ids(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The ids of the clients, at most 100.")] ids: Vec<ID>,
    ) -> Result<Vec<Option<Client>>, Error> {
        authorize_for(ctx, READ_CLIENTS, ids.iter().map(|id| id.as_str()))?;
        let (app, ids) = (app(ctx), parse_ids(&ids)?);
        let valid: Vec<i64> = ids.iter().flatten().copied().collect();
        let mut found = app.clients.by_ids(&valid).await?.into_iter();
        let mut clients = Vec::with_capacity(ids.len());
        for id in ids {
            // `found` has one result for each valid id, in the same order.
            let client = if id.is_some() { found.next().flatten() } else { None };
            clients.push(client.map(|client| Client::new(client, app.currency)));
        }
        Ok(clients)
    }

    /// The client with an e-mail address, in any case. Null if no client has it. It is found as soon as it is registered. Requires
    /// the scope `clients:read`, not with a token for one client.
    async fn client_by_email(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The e-mail address of the client.")] email: String,
    ) -> Option<Result<Client, Error>> {
        client_by_email(ctx, &email).await.transpose()
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
    ) -> Result<ClientConnection, Error> {
        match search {
            Some(search) => find_clients(ctx, &search, sort_by, page_size(first, CLIENTS)?, after).await,
            None => ranked_clients(ctx, sort_by.unwrap_or_default(), page_size(first, CLIENTS)?, after).await,
        }
    }

    /// The sales in a range of days, at most one second old. Requires the scope `sales:read`.
    #[graphql(directive = range_cost::apply(
        "from".into(), "to".into(), Some(100), None, None, names(&["points"]), Some(MAX_POINTS)
    ))]
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
    ) -> Result<SalesReport, Error> {
        authorize_for_all(ctx, READ_SALES)?;
        let time_zone = time_zone.unwrap_or(UTC.into());
        let ((first, last), zone) = (date_range(from, to)?, parse_time_zone(&time_zone)?);
        let (days, granularity) = (DayRange { first, last, zone }, granularity.unwrap_or_default().into());
        let points = days.points(granularity, MAX_POINTS as usize + 1);
        if points.len() > MAX_POINTS as usize {
            return Err(Error::BadUserInput(format!("The report would have more than {MAX_POINTS} points.")));
        }
        if days.resolution(granularity) == Resolution::HalfHour {
            if !days.is_available(granularity, Utc::now()) {
                let message = "`from` is too long ago: hours, and days in other time zones than UTC, are available for two years.";
                return Err(Error::BadUserInput(message.into()));
            }
            if last > Utc::now().date_naive() + Days::new(366) {
                return Err(Error::BadUserInput("`to` is more than a year ahead.".into()));
            }
            if points.iter().any(|start| start.minute() % 30 != 0) {
                return Err(Error::BadUserInput(format!(
                    "{time_zone} differs from UTC by a quarter of an hour, which reports do not support."
                )));
            }
        }
        Ok(SalesReport(app(ctx).reports.sales(days, granularity).await?))
    }

    /// The products with the highest sales in a range of days. The result is at most one second old; orders that arrive more
    /// than a day late count within two minutes. Requires the scope `sales:read`.
    #[graphql(
        directive = list_size::apply(None, names(&["first"]), None, Some(false)),
        directive = range_cost::apply("from".into(), "to".into(), None, Some(4), Some(MAX_DAYS), None, None)
    )]
    async fn top_products(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The first day.")] from: Date,
        #[graphql(desc = "The last day, which is included. At most ten years after the first day.")] to: Date,
        #[graphql(desc = "The number of products, from 1 to 100.", default_with = "Some(TOP_PRODUCTS)")] first: Option<
            i32,
        >,
        #[graphql(desc = "The sort order.", default_with = "Some(ProductSort::default())")] sort_by: Option<
            ProductSort,
        >,
    ) -> Result<Vec<ProductSales>, Error> {
        authorize_for_all(ctx, READ_SALES)?;
        let ((from, to), first, app) = (date_range(from, to)?, page_size(first, TOP_PRODUCTS)?, app(ctx));
        if (to - from).num_days() > i64::from(MAX_DAYS) {
            return Err(Error::BadUserInput("`to` is more than ten years after `from`.".into()));
        }
        let top = app.reports.top_products(from, to, sort_by.unwrap_or_default().into()).await?;
        Ok(top.iter().take(first).map(|sales| ProductSales::new(sales.clone(), app.currency)).collect())
    }

    /// Orders, newest first, a page at a time. An order is in the list as soon as it is placed. With a token for one client:
    /// the orders of that client. Requires the scope `orders:read`.
    #[graphql(directive = list_size::apply(None, names(&["first"]), names(&["edges", "nodes"]), Some(false)))]
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
    ) -> Result<OrderConnection, Error> {
        let times = order_times(from, to, time_zone.as_deref().unwrap_or(UTC))?;
        let filter = Filter { status: status.map(OrderStatus::into), ..times };
        orders(ctx, client_id, filter, page_size(first, ORDERS)?, after).await
    }

    /// An order. Null if no order has this id. A token for one client only returns orders of that client. Requires the scope
    /// `orders:read`.
    async fn order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of the order.")] id: ID,
    ) -> Option<Result<Order, Error>> {
        let order = order(ctx, &id).await.transpose()?;
        Some(order.map(|order| Order::new(order, app(ctx).currency)))
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
    ) -> Result<ProductConnection, Error> {
        authorize(ctx, READ_PRODUCTS)?;
        let (first, app) = (page_size(first, PRODUCTS)?, app(ctx));
        let after = after.map(|cursor| parse_id(&cursor).ok_or_else(invalid_cursor)).transpose()?;
        let search = search.as_deref().map(parse_search).transpose()?;
        let page = app.catalogue.page(search, available, after, first).await?;
        Ok(ProductConnection::new(page, after.is_some(), app.currency))
    }
}

async fn client(ctx: &Context<'_>, id: &ID, min_version: Option<i32>) -> Result<Option<Client>, Error> {
    authorize_for(ctx, READ_CLIENTS, [id.as_str()])?;
    let app = app(ctx);
    let min_version = min_version.unwrap_or(0);
    let client = match parse_id(id) {
        Some(id) if min_version > 0 => match app.clients.at_version(id, min_version, app.read_wait).await? {
            AtVersion::Reached(client) => {
                ctx.data_opt::<AfterWait>().map_or(Ok(()), AfterWait::begin).map_err(|_| Error::Busy)?;
                Some(client)
            }
            AtVersion::Behind(version) => return Err(Error::ReadModelBehind(version)),
        },
        Some(id) => app.clients.by_ids(&[id]).await?.pop().flatten(),
        None => None,
    };
    Ok(client.map(|client| Client::new(client, app.currency)))
}

async fn client_by_email(ctx: &Context<'_>, email: &str) -> Result<Option<Client>, Error> {
    authorize_for_all(ctx, READ_CLIENTS)?;
    let app = app(ctx);
    let Ok(email) = valid_email(email) else { return Ok(None) };
    let Some(row) = search::by_email(&app.db, &email).await? else { return Ok(None) };
    let projected = app.clients.by_ids(&[row.id]).await?.pop().flatten();
    Ok(Some(Client::new(with_row(row, projected), app.currency)))
}

async fn find_clients(
    ctx: &Context<'_>,
    search: &str,
    sort_by: Option<ClientSort>,
    first: usize,
    after: Option<String>,
) -> Result<ClientConnection, Error> {
    authorize_for_all(ctx, READ_CLIENTS)?;
    let (search, app) = (parse_search(search)?, app(ctx));
    if sort_by.is_some() {
        return Err(Error::BadUserInput(
            "`sortBy` cannot be combined with `search`: found clients are in order of names.".into(),
        ));
    }
    let after = after.map(|cursor| parse_found_cursor(&cursor)).transpose()?;
    let has_previous_page = after.is_some();
    let found = search::page(&app.db, search, after, first).await?;
    let ids: Vec<i64> = found.clients.iter().map(|(_, client)| client.id).collect();
    let projected = app.clients.by_ids(&ids).await?;
    Ok(ClientConnection::found(found, projected, has_previous_page))
}

async fn ranked_clients(
    ctx: &Context<'_>,
    sort_by: ClientSort,
    first: usize,
    after: Option<String>,
) -> Result<ClientConnection, Error> {
    authorize_for_all(ctx, READ_SALES)?;
    let after = after.map(|cursor| parse_cursor(&cursor, sort_by)).transpose()?;
    let page = app(ctx).clients.page(sort_by.into(), after, first).await?;
    Ok(ClientConnection::ranked(&page, sort_by, after.is_some()))
}

async fn client_at(
    ctx: &Context<'_>,
    id: &ID,
    version: i32,
    min_version: Option<i32>,
) -> Result<Option<Client>, Error> {
    authorize_for(ctx, READ_CLIENTS, [id.as_str()])?;
    let (app, id) = (app(ctx), parse_id(id).unwrap_or_default());
    if min_version.is_some() {
        return Err(Error::BadUserInput("`atVersion` cannot be combined with `minVersion`.".into()));
    }
    if !(1..=MAX_EVENTS).contains(&version) {
        let message = format!("`atVersion` is {version}: it must be from 1 to {MAX_EVENTS}.");
        return Err(Error::BadUserInput(message));
    }
    match history::client_at(&app.db, id, version, app.currency).await? {
        Some(client) if client.version < version => Err(Error::BadUserInput(format!(
            "`atVersion` is {version}: the client has only reached {}.",
            client.version
        ))),
        client => Ok(client.map(|client| Client::new(client, app.currency))),
    }
}

/// The times of orders from the first to the last day, both included.
fn order_times(from: Option<Date>, to: Option<Date>, time_zone: &str) -> Result<Filter, Error> {
    let zone = parse_time_zone(time_zone)?;
    if let (Some(from), Some(to)) = (from, to) {
        date_range(from, to)?;
    }
    // SQLite compares times as texts, which fails for years of five digits. No order is that late.
    let next_day = to.and_then(|Date(last)| last.succ_opt()).filter(|day| day.year() <= 9_999);
    Ok(Filter {
        from: from.map(|Date(day)| start_of_day(day, zone)),
        before: next_day.map(|day| start_of_day(day, zone)),
        ..Filter::default()
    })
}

async fn orders(
    ctx: &Context<'_>,
    client: Option<ID>,
    filter: Filter,
    first: usize,
    after: Option<String>,
) -> Result<OrderConnection, Error> {
    let (identity, app) = (authorize(ctx, READ_ORDERS)?, app(ctx));
    let client = match (&identity.client, client) {
        (Some(only), Some(client)) if *only != *client => return Err(Error::Forbidden),
        (Some(_), _) => only_client(identity),
        // No order is of client 0.
        (None, client) => client.map(|client| parse_id(&client).unwrap_or(0)),
    };
    let after = after.map(|cursor| parse_order_cursor(&cursor)).transpose()?;
    let page = lists::page(&app.db, Filter { client, ..filter }, after, first, app.currency).await?;
    Ok(OrderConnection::new(page, app.currency))
}

/// An order that the caller may read.
pub async fn order(ctx: &Context<'_>, id: &ID) -> Result<Option<StoredOrder>, Error> {
    let only_client = only_client(authorize(ctx, READ_ORDERS)?);
    match parse_order_id(id) {
        Some(id) => Ok(app(ctx).orders_by_id.read(id, only_client).await?),
        None => Ok(None),
    }
}

async fn product(ctx: &Context<'_>, id: &ID) -> Result<Option<Product>, Error> {
    authorize(ctx, READ_PRODUCTS)?;
    let (Some(id), app) = (parse_id(id), app(ctx)) else { return Ok(None) };
    Ok(app.catalogue.by_id(id).await?.map(|product| Product::new(product, app.currency)))
}
