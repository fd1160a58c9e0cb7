//! Pages of orders, newest first. The key of every list is the id, which begins with the time. A page begins at a key, so that it
//! stays the same when orders are added.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use entity::order;
use entity::order_event::least_id_at;
use sea_orm::sea_query::{Expr, ExprTrait, Func};
use sea_orm::{
    ColumnTrait, Condition, DatabaseConnection, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Statement,
};
use uuid::Uuid;

use super::Status;

/// How far the time in an order's id may differ from the time of the order. An id may begin with the time of an earlier id of the
/// same process, and orders of the first builds have ids that are slightly younger.
const ID_SKEW: TimeDelta = TimeDelta::minutes(1);

/// The orders of a list: those that meet each condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub client: Option<i64>,
    pub status: Option<Status>,
    pub from: Option<DateTime<Utc>>,
    /// Not included.
    pub before: Option<DateTime<Utc>>,
}

impl Filter {
    fn condition(self) -> Condition {
        let Filter { client, status, from, before } = self;
        Condition::all()
            .add_option(client.map(|client| order::Column::ClientId.eq(client)))
            .add_option(status.map(Status::condition))
            .add_option(from.map(|from| order::Column::PlacedAt.gte(from)))
            .add_option(from.map(|from| order::Column::Id.gte(least_id_at(from - ID_SKEW))))
            .add_option(before.map(|before| order::Column::PlacedAt.lt(before)))
            .add_option(before.map(|before| order::Column::Id.lt(least_id_at(before + ID_SKEW))))
    }
}

/// Some orders of a list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrderPage {
    pub orders: Vec<order::Model>,
    pub has_previous_page: bool,
    pub has_next_page: bool,
}

impl OrderPage {
    /// `orders` begin with the last order before the page, if there is one, and have one more than the page if it is not the last.
    fn new(mut orders: Vec<order::Model>, after: Option<Uuid>, first: usize) -> OrderPage {
        let has_previous_page = orders.first().is_some_and(|order| after.is_some_and(|after| order.id >= after));
        if has_previous_page {
            orders.remove(0);
        }
        let has_next_page = orders.len() > first;
        orders.truncate(first);
        OrderPage { orders, has_previous_page, has_next_page }
    }
}

/// Reads a page. `after` is the id of the last order of the page before.
///
/// # Errors
/// When the database fails.
pub async fn page(
    db: &DatabaseConnection,
    filter: Filter,
    after: Option<Uuid>,
    first: usize,
) -> Result<OrderPage, DbErr> {
    Ok(OrderPage::new(orders_of_page(db, filter, after, first).await?, after, first))
}

async fn orders_of_page(
    db: &DatabaseConnection,
    filter: Filter,
    after: Option<Uuid>,
    first: usize,
) -> Result<Vec<order::Model>, DbErr> {
    order::Entity::find()
        .filter(filter.condition())
        .filter(Condition::all().add_option(after.map(|id| is_after(filter, id))))
        .order_by_desc(order::Column::Id)
        .limit(limit(first))
        .all(db)
        .await
}

/// Whether an order is in the page after a cursor, or the last one before this page: the order of the cursor, or the next one if that
/// has left the list, for example because its status has changed.
fn is_after(filter: Filter, after: Uuid) -> Expr {
    let before = order::Entity::find().select_only().column(order::Column::Id).filter(filter.condition());
    let before = before.filter(order::Column::Id.gte(after)).order_by_asc(order::Column::Id).limit(1).into_query();
    let last_before = Func::coalesce([Expr::SubQuery(None, Box::new(before.into())), Expr::val(after)]);
    ExprTrait::lte(order::Column::Id.into_expr(), last_before)
}

/// Reads the same page of the orders of each client, in the sequence of `clients`, which has each once.
///
/// # Errors
/// When the database fails.
pub async fn pages_of_clients(
    db: &DatabaseConnection,
    clients: &[i64],
    after: Option<Uuid>,
    first: usize,
) -> Result<Vec<OrderPage>, DbErr> {
    let orders = match db.get_database_backend() {
        DbBackend::Postgres => orders_at_once(db, clients, after, first).await?,
        _ => orders_by_client(db, clients, after, first).await?,
    };
    let mut of_clients: HashMap<i64, Vec<order::Model>> = HashMap::new();
    for order in orders {
        of_clients.entry(order.client_id).or_default().push(order);
    }
    let page = |client| OrderPage::new(of_clients.remove(client).unwrap_or_default(), after, first);
    Ok(clients.iter().map(page).collect())
}

/// The order before the page and the order after it are read too.
fn limit(first: usize) -> u64 {
    first as u64 + 2
}

/// One statement with the same text for any number of clients. It names its columns, so that a migration can add one while it is in use.
const ORDERS: &str = "
SELECT page.* FROM UNNEST($1::bigint[]) AS client (id) CROSS JOIN LATERAL (
    SELECT id, client_id, version, placed_at, total, cancelled_at, cancel_reason, refunded
    FROM orders WHERE orders.client_id = client.id AND orders.id <= coalesce(
        (SELECT id FROM orders WHERE orders.client_id = client.id AND id >= $2 ORDER BY id LIMIT 1), $2)
    ORDER BY orders.id DESC LIMIT $3
) AS page ORDER BY page.client_id, page.id DESC";

async fn orders_at_once(
    db: &DatabaseConnection,
    clients: &[i64],
    after: Option<Uuid>,
    first: usize,
) -> Result<Vec<order::Model>, DbErr> {
    let values = [clients.to_vec().into(), after.unwrap_or(Uuid::max()).into(), limit(first).into()];
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, ORDERS, values);
    order::Entity::find().from_raw_sql(statement).all(db).await
}

async fn orders_by_client(
    db: &DatabaseConnection,
    clients: &[i64],
    after: Option<Uuid>,
    first: usize,
) -> Result<Vec<order::Model>, DbErr> {
    let mut orders = Vec::new();
    for client in clients {
        let of_client = Filter { client: Some(*client), ..Filter::default() };
        orders.extend(orders_of_page(db, of_client, after, first).await?);
    }
    Ok(orders)
}
