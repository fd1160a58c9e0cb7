use std::sync::Arc;

use async_graphql::{Context, ID, Object};
use chrono::{NaiveDate, Utc};
use entity::product;
use read_model::reports::{self, points};
use read_model::rules::sales::HOURS_RETAINED;
use read_model::{Awaited, client_at};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::cost_directives::{cost, list_size, names, range_cost};
use super::reports::{ProductRank, Reports};
use super::scalars::Date;
use super::types::client::{Client, ClientConnection, ClientOrderBy, place_of_cursor};
use super::types::order::Order;
use super::types::page::page_info;
use super::types::product::{Product, ProductConnection, ProductEdge};
use super::types::sales::{Granularity, ProductSales, SalesReport};
use super::{app, authorize, authorize_for, authorize_for_all, cached_clients, page_size, parse_id};
use crate::edge::auth::{READ_CLIENTS, READ_PRODUCTS, READ_SALES};
use crate::graphql::error::Error;

const MAX_IDS: usize = 100;
const MAX_POINTS: usize = 1_000;
/// Longest range of `topProducts`.
const MAX_DAYS: i32 = 3_660;

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
                    After a while (2 seconds, if not configured otherwise) the field fails with READ_MODEL_BEHIND.",
            directive = cost::apply("10".into())
        )]
        min_version: Option<i32>,
    ) -> Option<Result<Client, Error>> {
        client(ctx, &id, min_version).await.transpose()
    }

    /// Several clients at once, in the order of their ids; null where `client` would be null. Needs `clients:read`.
    #[graphql(directive = list_size::apply(None, names(&["ids"]), None, None))]
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
        cached_clients(ctx, &ids).await
    }

    /// All clients that were registered or have placed an order, ranked, a page at a time. Needs the scope `sales:read`.
    #[graphql(directive = list_size::apply(None, names(&["first"]), names(&["edges", "nodes"]), Some(false)))]
    async fn clients(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, from 1 to 100.", default = 20)] first: i32,
        #[graphql(desc = "Continue after this cursor: `pageInfo.endCursor` of the page before.")] after: Option<String>,
        #[graphql(desc = "How they are ranked.", default_with = "ClientOrderBy::TotalDesc")] order_by: ClientOrderBy,
    ) -> Result<Arc<ClientConnection>, Error> {
        authorize_for_all(ctx, READ_SALES)?;
        let (first, by) = (page_size(first)?, order_by.into());
        let after = after.map(|cursor| place_of_cursor(&cursor, by)).transpose()?;
        reports(ctx).clients(by, after, first).await
    }

    /// What was sold from one day to another, both included; a second old at most. Needs the scope `sales:read`.
    #[graphql(directive = range_cost::apply("from".into(), "to".into(), Some(100), None, None))]
    async fn sales(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The first day.")] from: Date,
        #[graphql(desc = "The last day.")] to: Date,
        #[graphql(desc = "How long each point is; at most 1000 points.", default_with = "Granularity::Day")]
        granularity: Granularity,
    ) -> Result<Arc<SalesReport>, Error> {
        authorize_for_all(ctx, READ_SALES)?;
        let (Date(from), Date(to)) = (from, to);
        check_range(from, to)?;
        let granularity = granularity.into();
        if points(from, to, granularity, MAX_POINTS + 1).len() > MAX_POINTS {
            return Err(Error::BadUserInput(format!("The report would have more than {MAX_POINTS} points.")));
        }
        if granularity == reports::Granularity::Hour
            && Some(from) < Utc::now().date_naive().checked_sub_days(HOURS_RETAINED)
        {
            return Err(Error::BadUserInput(
                "`from` is too long ago: hours are kept for 90 days, days for ever.".into(),
            ));
        }
        reports(ctx).sales(from, to, granularity).await
    }

    /// The products of which most was sold from one day to another, both included; a second old at most, and two minutes where
    /// it is over since the day before yesterday. Needs the scope `sales:read`.
    #[graphql(
        directive = list_size::apply(None, names(&["first"]), None, Some(false)),
        directive = range_cost::apply("from".into(), "to".into(), None, Some(4), Some(MAX_DAYS))
    )]
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
        if (to - from).num_days() > i64::from(MAX_DAYS) {
            return Err(Error::BadUserInput("`to` is more than ten years after `from`.".into()));
        }
        let top = reports(ctx).top(from, to, by).await?;
        Ok(top.iter().take(first).cloned().collect())
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
    #[graphql(directive = list_size::apply(None, names(&["first"]), names(&["edges", "nodes"]), Some(false)))]
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
        let nodes: Vec<_> = products.into_iter().map(|row| Product::new(row, app.currency)).collect();
        let edges: Vec<_> =
            nodes.iter().map(|node| ProductEdge { cursor: node.id.to_string(), node: node.clone() }).collect();
        let page_info = page_info(edges.iter().map(|edge| &edge.cursor), after > 0, has_next_page);
        Ok(ProductConnection { edges, nodes, page_info })
    }
}

fn reports<'a>(ctx: &Context<'a>) -> &'a Arc<Reports> {
    ctx.data_unchecked::<Arc<Reports>>()
}

async fn client(ctx: &Context<'_>, id: &ID, min_version: Option<i32>) -> Result<Option<Client>, Error> {
    authorize_for(ctx, READ_CLIENTS, [id.as_str()])?;
    let id = parse_id(id);
    let Some(version) = min_version.filter(|version| *version > 0) else {
        return Ok(cached_clients(ctx, &[id]).await?.pop().flatten());
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

fn check_range(from: NaiveDate, to: NaiveDate) -> Result<(), Error> {
    match from <= to {
        true => Ok(()),
        false => Err(Error::BadUserInput(format!("`from` ({from}) is after `to` ({to})."))),
    }
}

async fn product(ctx: &Context<'_>, id: &ID) -> Result<Option<Product>, Error> {
    authorize(ctx, READ_PRODUCTS)?;
    let app = app(ctx);
    let product = product::Entity::find_by_id(parse_id(id)).one(&app.db).await?;
    Ok(product.map(|product| Product::new(product, app.currency)))
}
