//! Pages of orders, newest first. A page begins at a key of its list, so that it stays the same when orders are added.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use entity::event::ORDER_PLACED;
use entity::order_event::least_id_at;
use entity::{Event, OrderPlaced, order, order_event};
use iso_currency::Currency;
use sea_orm::{
    ColumnTrait, Condition, DatabaseConnection, DbBackend, DbErr, EntityTrait, JoinType, QueryFilter, QueryOrder,
    QuerySelect, Statement,
};
use uuid::Uuid;

use super::placed_event;

/// How far the time in an order's id may differ from the time of the order. An id may begin with the time of an earlier id of the
/// same process, and orders of the first builds have ids that are slightly younger.
const ID_SKEW: TimeDelta = TimeDelta::minutes(1);

/// The times of orders in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub from: Option<DateTime<Utc>>,
    /// Not included.
    pub before: Option<DateTime<Utc>>,
}

impl Times {
    fn limit(self, column: impl ColumnTrait) -> Condition {
        Condition::all()
            .add_option(self.from.map(|from| column.gte(from)))
            .add_option(self.before.map(|end| column.lt(end)))
    }
}

/// Some orders of a list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrderPage {
    pub orders: Vec<Event<OrderPlaced>>,
    pub has_previous_page: bool,
    pub has_next_page: bool,
}

impl OrderPage {
    /// `rows` begin with the order of the cursor, if it is in the list, and have one more than the page if it is not the last.
    fn new(
        mut rows: Vec<Event<OrderPlaced>>,
        first: usize,
        is_cursor: impl Fn(&Event<OrderPlaced>) -> bool,
    ) -> OrderPage {
        let has_previous_page = rows.first().is_some_and(is_cursor);
        if has_previous_page {
            rows.remove(0);
        }
        let has_next_page = rows.len() > first;
        rows.truncate(first);
        OrderPage { orders: rows, has_previous_page, has_next_page }
    }
}

/// Reads a page of all orders. Their key is the id, which begins with the time.
///
/// # Errors
/// When the database fails, or an event is damaged.
pub async fn page_of_all(
    db: &DatabaseConnection,
    times: Times,
    after: Option<Uuid>,
    first: usize,
    currency: Currency,
) -> Result<OrderPage, DbErr> {
    let of_order = order_event::Entity::belongs_to(order::Entity)
        .from((order_event::Column::ClientId, order_event::Column::Version))
        .to((order::Column::ClientId, order::Column::Version));
    let ids = Condition::all()
        .add_option(times.from.map(|from| order::Column::Id.gte(least_id_at(from - ID_SKEW))))
        .add_option(times.before.map(|before| order::Column::Id.lt(least_id_at(before + ID_SKEW))))
        .add_option(after.map(|id| order::Column::Id.lte(id)));
    let rows = order_event::Entity::find()
        .join(JoinType::InnerJoin, of_order.into())
        .filter(ids)
        .filter(times.limit(order::Column::PlacedAt))
        .order_by_desc(order::Column::Id)
        .limit(limit(first))
        .all(db)
        .await?;
    let orders = rows.into_iter().map(|row| placed_event(row, currency)).collect::<Result<_, _>>()?;
    Ok(OrderPage::new(orders, first, |event| Some(event.data.order_id) == after))
}

/// Reads the same page of the orders of each client, in the sequence of `clients`, which has each once. The key is the version of
/// the client.
///
/// A page fails if one of its events is damaged.
///
/// # Errors
/// When the database fails.
pub async fn pages_of_clients(
    db: &DatabaseConnection,
    clients: &[i64],
    after: Option<i32>,
    first: usize,
    currency: Currency,
) -> Result<Vec<Result<OrderPage, DbErr>>, DbErr> {
    let rows = match db.get_database_backend() {
        DbBackend::Postgres => rows_at_once(db, clients, after, limit(first)).await?,
        _ => rows_by_client(db, clients, after, limit(first)).await?,
    };
    let mut of_clients: HashMap<i64, Vec<_>> = HashMap::new();
    for row in rows {
        of_clients.entry(row.client_id.unwrap_or_default()).or_default().push(row);
    }
    let page = |client| {
        let rows = of_clients.remove(client).unwrap_or_default();
        let orders = rows.into_iter().map(|row| placed_event(row, currency)).collect::<Result<_, _>>()?;
        Ok(OrderPage::new(orders, first, |event| Some(event.version) == after))
    };
    Ok(clients.iter().map(page).collect())
}

/// The order of the cursor and the order after the page are read too.
fn limit(first: usize) -> u64 {
    first as u64 + 2
}

/// One statement with the same text for any number of clients.
const ROWS: &str = "
SELECT event.* FROM UNNEST($1::bigint[]) AS client (id) CROSS JOIN LATERAL (
    SELECT * FROM order_events
    WHERE client_id = client.id AND version <= $2 AND type = $3
    ORDER BY version DESC LIMIT $4
) AS event ORDER BY event.client_id, event.version DESC";

async fn rows_at_once(
    db: &DatabaseConnection,
    clients: &[i64],
    after: Option<i32>,
    limit: u64,
) -> Result<Vec<order_event::Model>, DbErr> {
    let values = [clients.to_vec().into(), after.unwrap_or(i32::MAX).into(), ORDER_PLACED.into(), limit.into()];
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, ROWS, values);
    order_event::Entity::find().from_raw_sql(statement).all(db).await
}

async fn rows_by_client(
    db: &DatabaseConnection,
    clients: &[i64],
    after: Option<i32>,
    limit: u64,
) -> Result<Vec<order_event::Model>, DbErr> {
    let mut rows = Vec::new();
    for client in clients {
        let of_client = order_event::Entity::find()
            .filter(order_event::Column::ClientId.eq(*client))
            .filter(order_event::Column::Version.lte(after.unwrap_or(i32::MAX)))
            .filter(order_event::Column::Type.eq(ORDER_PLACED))
            .order_by_desc(order_event::Column::Version)
            .limit(limit);
        rows.extend(of_client.all(db).await?);
    }
    Ok(rows)
}
