use async_graphql::connection::PageInfo;
use async_graphql::{Context, ID, Object};
use entity::product;
use read_model::{Awaited, client_at};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::types::{Client, Product, ProductConnection, ProductEdge};
use super::{app, authorize, authorize_for, parse_id};
use crate::auth::{READ_CLIENTS, READ_PRODUCTS};
use crate::error::Error;

const MAX_IDS: usize = 100;
const MAX_PAGE: i32 = 100;

pub struct Query;

/// Questions. All but those about products are answered from the read model, which follows the orders with a short delay.
//
// Nullable fields return `Option<Result<_>>`: a failure then nulls the field alone, not the field around it.
#[Object]
impl Query {
    /// A client and its total; null when it has no orders yet. Needs the scope `clients:read`.
    async fn client(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The client's id.")] id: ID,
        #[graphql(
            desc = "Wait until the answer includes every event up to this version, such as `clientVersion` of `placeOrder`. \
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
        let app = app(ctx);
        let ids: Vec<i64> = ids.iter().map(|id| parse_id(id)).collect();
        let clients = app.read_model.recent_clients(&ids).await?;
        Ok(clients.into_iter().map(|client| Some(Client::new(client?, app.currency))).collect())
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
        let first = first.unwrap_or(50);
        if !(1..=MAX_PAGE).contains(&first) {
            return Err(Error::BadUserInput(format!("`first` is {first}: it must be from 1 to {MAX_PAGE}.")));
        }
        let after = match after.as_deref().map(parse_id) {
            Some(0) => return Err(Error::BadUserInput("`after` is not a cursor of this list.".into())),
            after => after.unwrap_or(0),
        };
        let app = app(ctx);
        // One more than asked for tells whether there is a next page.
        let mut products = product::Entity::find()
            .filter(product::Column::Id.gt(after))
            .order_by_asc(product::Column::Id)
            .limit(u64::from(first.unsigned_abs()) + 1)
            .all(&app.db)
            .await?;
        let first = first.unsigned_abs() as usize;
        let has_next_page = products.len() > first;
        products.truncate(first);
        let nodes: Vec<_> = products.into_iter().map(|product| Product::new(product, app.currency)).collect();
        let edges: Vec<_> =
            nodes.iter().map(|node| ProductEdge { cursor: node.id.to_string(), node: node.clone() }).collect();
        let cursor = |edge: Option<&ProductEdge>| edge.map(|edge| edge.cursor.clone());
        let page_info = PageInfo {
            has_previous_page: after > 0,
            has_next_page,
            start_cursor: cursor(edges.first()),
            end_cursor: cursor(edges.last()),
        };
        Ok(ProductConnection { edges, nodes, page_info })
    }
}

async fn client(ctx: &Context<'_>, id: &ID, min_version: Option<i32>) -> Result<Option<Client>, Error> {
    authorize_for(ctx, READ_CLIENTS, [id.as_str()])?;
    let app = app(ctx);
    let id = parse_id(id);
    let client = match min_version {
        Some(version) if version > 0 => match client_at(&*app.read_model, id, version, app.read_wait).await? {
            Awaited::Reached(client) => Some(client),
            Awaited::Behind(version) => return Err(Error::ReadModelBehind(version)),
        },
        _ => app.read_model.recent_clients(&[id]).await?.pop().flatten(),
    };
    Ok(client.map(|client| Client::new(client, app.currency)))
}

async fn product(ctx: &Context<'_>, id: &ID) -> Result<Option<Product>, Error> {
    authorize(ctx, READ_PRODUCTS)?;
    let app = app(ctx);
    let product = product::Entity::find_by_id(parse_id(id)).one(&app.db).await?;
    Ok(product.map(|product| Product::new(product, app.currency)))
}
