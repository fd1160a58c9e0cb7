use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use async_graphql::connection::PageInfo;
use async_graphql::{Context, ID, Object};
use chrono::{NaiveDate, Utc};
use entity::product;
use read_model::sales::{self, HOURS_KEPT, Sum, points};
use read_model::{Awaited, Place, Ranking, client_at};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::types::{
    Client, ClientConnection, ClientEdge, ClientOrderBy, Date, Granularity, Money, Order, Product, ProductConnection,
    ProductEdge, ProductRank, ProductSales, SalesReport, int,
};
use super::{App, app, authorize, authorize_for, authorize_for_all, page_size, parse_id, recent_clients};
use crate::auth::{READ_CLIENTS, READ_PRODUCTS, READ_SALES};
use crate::error::Error;
use crate::limits::MOST_DAYS;
use crate::reports::Reports;

const MAX_IDS: usize = 100;
const MAX_POINTS: usize = 1_000;

pub struct Query;

/// Questions. All but those about products are answered from the read model, which follows the orders with a short delay.
//
// Nullable fields return `Option<Result<_>>`: a failure then nulls the field alone, not the field around it.
#[Object]
impl Query {
    /// A client and its total; null where it was never registered and has no orders. Needs the scope `clients:read`.
    async fn client(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The client's id.")] id: ID,
        #[graphql(
            desc = "Wait until the answer includes every event up to this version, such as `clientVersion` of a mutation. \
                    After a while (2 seconds, if not configured otherwise) the field fails with READ_MODEL_BEHIND."
        )]
        min_version: Option<i32>,
    ) -> Option<Result<Client, Error>> {
        client(ctx, &id, min_version).await.transpose()
    }

    /// Several clients at once, in the order of their ids; null where `client` would be null. Needs `clients:read`.
    async fn clients_by_ids(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "At most 100 ids.")] ids: Vec<ID>,
    ) -> Result<Vec<Option<Client>>, Error> {
        authorize_for(ctx, READ_CLIENTS, ids.iter().map(|id| id.as_str()))?;
        if ids.len() > MAX_IDS {
            return Err(Error::BadUserInput(format!("{} ids are too many: at most {MAX_IDS}.", ids.len())));
        }
        let ids: Vec<i64> = ids.iter().map(|id| parse_id(id)).collect();
        recent_clients(ctx, &ids).await
    }

    /// All clients that were registered or have placed an order, ranked, a page at a time. Needs the scope `sales:read`.
    async fn clients(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, from 1 to 100.", default = 20)] first: i32,
        #[graphql(desc = "Continue after this cursor: `pageInfo.endCursor` of the page before.")] after: Option<String>,
        #[graphql(desc = "How they are ranked.", default_with = "ClientOrderBy::TotalDesc")] order_by: ClientOrderBy,
    ) -> Result<ClientConnection, Error> {
        authorize_for_all(ctx, READ_SALES)?;
        let (first, by) = (page_size(first)?, order_by.into());
        let after = after.map(|cursor| place(&cursor, by)).transpose()?;
        // One more than asked for tells whether there is a next page.
        let mut places = app(ctx).read_model.ranked(by, after, first + 1).await?;
        let has_next_page = places.len() > first;
        places.truncate(first);
        let ids: Vec<i64> = places.iter().map(|place| place.id).collect();
        let clients = recent_clients(ctx, &ids).await?;
        let edge =
            |(place, client): (Place, Option<Client>)| Some(ClientEdge { node: client?, cursor: cursor(place, by) });
        let edges: Vec<ClientEdge> = places.into_iter().zip(clients).filter_map(edge).collect();
        let page_info = page_info(edges.iter().map(|edge| &edge.cursor), after.is_some(), has_next_page);
        let nodes = edges.iter().map(|edge| edge.node.clone()).collect();
        Ok(ClientConnection { edges, nodes, page_info })
    }

    /// What was sold from one day to another, both included; a second old at most. Needs the scope `sales:read`.
    async fn sales(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The first day.")] from: Date,
        #[graphql(desc = "The last day.")] to: Date,
        #[graphql(desc = "How long each point is; at most 1000 points.", default_with = "Granularity::Day")]
        granularity: Granularity,
    ) -> Result<SalesReport, Error> {
        authorize_for_all(ctx, READ_SALES)?;
        let (Date(from), Date(to)) = (from, to);
        check_range(from, to)?;
        let granularity = granularity.into();
        if points(from, to, granularity, MAX_POINTS + 1).len() > MAX_POINTS {
            return Err(Error::BadUserInput(format!("The report would have more than {MAX_POINTS} points.")));
        }
        if granularity == sales::Granularity::Hour && Some(from) < Utc::now().date_naive().checked_sub_days(HOURS_KEPT)
        {
            return Err(Error::BadUserInput(
                "`from` is too long ago: hours are kept for 90 days, days for ever.".into(),
            ));
        }
        let report = ctx.data_unchecked::<Arc<Reports>>().sales(from, to, granularity).await?;
        Ok(SalesReport::new(report, app(ctx).currency))
    }

    /// The products of which most was sold from one day to another, both included; a second old at most, and two minutes where
    /// it is over since the day before yesterday. Needs the scope `sales:read`.
    async fn top_products(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The first day.")] from: Date,
        #[graphql(desc = "The last day, at most ten years later.")] to: Date,
        #[graphql(desc = "How many, from 1 to 100.", default = 10)] first: i32,
        #[graphql(desc = "By what they are ranked.", default_with = "ProductRank::Revenue")] by: ProductRank,
    ) -> Result<Vec<ProductSales>, Error> {
        authorize_for_all(ctx, READ_SALES)?;
        let (Date(from), Date(to), first) = (from, to, page_size(first)?);
        check_range(from, to)?;
        if (to - from).num_days() > MOST_DAYS as i64 {
            return Err(Error::BadUserInput("`to` is more than ten years after `from`.".into()));
        }
        let app = app(ctx);
        let sold = ctx.data_unchecked::<Arc<Reports>>().products(from, to).await?;
        let mut sold: Vec<(i64, Sum)> = sold.iter().map(|(id, sum)| (*id, *sum)).collect();
        let rank = |(id, sold): &(i64, Sum)| match by {
            ProductRank::Revenue => (Reverse(sold.revenue), Reverse(sold.count), *id),
            ProductRank::Units => (Reverse(sold.count), Reverse(sold.revenue), *id),
        };
        if sold.len() > first {
            sold.select_nth_unstable_by_key(first, rank);
            sold.truncate(first);
        }
        sold.sort_unstable_by_key(rank);
        let ids: Vec<i64> = sold.iter().map(|(id, _)| *id).collect();
        let mut products = projected_products(app, &ids).await?;
        let product = |(id, sold): (i64, Sum)| {
            Some(ProductSales {
                product: products.remove(&id)?,
                units: int(sold.count),
                revenue: Money::new(sold.revenue, app.currency),
            })
        };
        Ok(sold.into_iter().filter_map(product).collect())
    }

    /// An order, for 30 days (if not configured otherwise) after it was placed; null later, or when there is none of that
    /// id. A token for one client sees those of that client. Needs the scope `sales:read`.
    async fn order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The order's id.")] id: ID,
    ) -> Option<Result<Order, Error>> {
        order(ctx, &id).await.transpose()
    }

    /// A product; null when there is none of that id. Needs the scope `products:read`.
    async fn product(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The product's id.")] id: ID,
    ) -> Option<Result<Product, Error>> {
        product(ctx, &id).await.transpose()
    }

    /// All products, a page at a time, in the order of their ids. Needs the scope `products:read`.
    async fn products(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, from 1 to 100.", default = 50)] first: Option<i32>,
        #[graphql(desc = "Continue after this cursor: `pageInfo.endCursor` of the page before.")] after: Option<String>,
    ) -> Result<ProductConnection, Error> {
        authorize(ctx, READ_PRODUCTS)?;
        let first = page_size(first.unwrap_or(50))?;
        let after = match after.as_deref().map(parse_id) {
            Some(0) => return Err(Error::BadUserInput("`after` is not a cursor of this list.".into())),
            after => after.unwrap_or(0),
        };
        let app = app(ctx);
        // One more than asked for tells whether there is a next page.
        let mut products = product::Entity::find()
            .filter(product::Column::Id.gt(after))
            .order_by_asc(product::Column::Id)
            .limit(first as u64 + 1)
            .all(&app.db)
            .await?;
        let has_next_page = products.len() > first;
        products.truncate(first);
        let nodes: Vec<_> =
            products.into_iter().map(|row| Product::new(row.id, row.name, row.price, app.currency)).collect();
        let edges: Vec<_> =
            nodes.iter().map(|node| ProductEdge { cursor: node.id.to_string(), node: node.clone() }).collect();
        let page_info = page_info(edges.iter().map(|edge| &edge.cursor), after > 0, has_next_page);
        Ok(ProductConnection { edges, nodes, page_info })
    }
}

async fn client(ctx: &Context<'_>, id: &ID, min_version: Option<i32>) -> Result<Option<Client>, Error> {
    authorize_for(ctx, READ_CLIENTS, [id.as_str()])?;
    let id = parse_id(id);
    let Some(version) = min_version.filter(|version| *version > 0) else {
        return Ok(recent_clients(ctx, &[id]).await?.pop().flatten());
    };
    let app = app(ctx);
    match client_at(&*app.read_model, id, version, app.read_wait).await? {
        Awaited::Reached(client) => Ok(Some(Client::new(client, app.currency))),
        Awaited::Behind(version) => Err(Error::ReadModelBehind(version)),
    }
}

async fn order(ctx: &Context<'_>, id: &ID) -> Result<Option<Order>, Error> {
    let client = authorize(ctx, READ_SALES)?.client.as_deref().map(parse_id);
    let (Ok(id), app) = (id.parse::<Uuid>(), app(ctx)) else { return Ok(None) };
    let kept = app.read_model.order(id, client).await?;
    Ok(kept.map(|kept| Order::new(kept.order, kept.time, app.currency)))
}

/// Of a page that has these cursors.
fn page_info<'a>(
    mut cursors: impl DoubleEndedIterator<Item = &'a String> + Clone,
    has_previous_page: bool,
    has_next_page: bool,
) -> PageInfo {
    let start_cursor = cursors.clone().next().cloned();
    PageInfo { has_previous_page, has_next_page, start_cursor, end_cursor: cursors.next_back().cloned() }
}

fn check_range(from: NaiveDate, to: NaiveDate) -> Result<(), Error> {
    match from <= to {
        true => Ok(()),
        false => Err(Error::BadUserInput(format!("`from` ({from}) is after `to` ({to})."))),
    }
}

/// `rank:id`, after a letter that tells the ranking.
fn cursor(Place { rank, id }: Place, by: Ranking) -> String {
    let letter = match by {
        Ranking::Total => 't',
        Ranking::LastPurchase => 'p',
    };
    format!("{letter}{rank}:{id}")
}

fn place(text: &str, by: Ranking) -> Result<Place, Error> {
    let place = || {
        let (rank, id) = text.get(1..)?.split_once(':')?;
        let place = Place { rank: rank.parse().ok()?, id: parse_id(id) };
        (cursor(place, by) == text).then_some(place)
    };
    place().ok_or_else(|| Error::BadUserInput("`after` is not a cursor of this list.".into()))
}

async fn product(ctx: &Context<'_>, id: &ID) -> Result<Option<Product>, Error> {
    authorize(ctx, READ_PRODUCTS)?;
    let app = app(ctx);
    let product = product::Entity::find_by_id(parse_id(id)).one(&app.db).await?;
    Ok(product.map(|product| Product::new(product.id, product.name, product.price, app.currency)))
}

/// Products by their ids, as the read model has them. Those that have no event, because they are older than that or were put
/// into the database by hand, are read from there.
async fn projected_products(app: &App, ids: &[i64]) -> Result<HashMap<i64, Product>, Error> {
    let projected = app.read_model.products(ids).await?.into_iter().flatten();
    let mut products: HashMap<i64, Product> = projected
        .map(|product| (product.id, Product::new(product.id, product.name, product.price, app.currency)))
        .collect();
    let unknown: Vec<i64> = ids.iter().copied().filter(|id| !products.contains_key(id)).collect();
    if !unknown.is_empty() {
        let rows = product::Entity::find().filter(product::Column::Id.is_in(unknown)).all(&app.db).await?;
        let product = |row: product::Model| Product::new(row.id, row.name, row.price, app.currency);
        products.extend(rows.into_iter().map(|row| (row.id, product(row))));
    }
    Ok(products)
}
