//! Pages of orders, newest first. The key of every list is the id, which begins with the time. A page begins at a key, so that it
//! stays the same when orders are added.

use std::cmp::{max, min};
use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use entity::order;
use entity::order_event::least_id_at;
use read_model::reports::{DayRange, start_of_day};
use sea_orm::sea_query::{Expr, ExprTrait, Func};
use sea_orm::{
    ColumnTrait, Condition, DatabaseConnection, DbBackend, DbErr, EntityTrait, Order, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Select, Statement,
};
use uuid::Uuid;

use super::Status;

/// Orders that a page reads at most, with those that are not in the list. Reading 100,000 takes 15 ms. The page ends there, and may have
/// fewer orders than it could.
const MAX_READ: u64 = 2_000;
/// Of these, orders before the page, to find the last one of the list.
const MAX_READ_BEFORE: u64 = MAX_READ / 4;
/// How far the time in an order's id may differ from the time of the order. An id may begin with the time of an earlier id of the
/// same process, and orders of the first builds have ids that are slightly younger.
const ID_SKEW: TimeDelta = TimeDelta::minutes(1);

/// SQLite compares times as texts, which fails for years of five digits. No order is that late: this is the year 9999.
const LATEST: DateTime<Utc> = DateTime::from_timestamp(253_370_764_800, 0).unwrap();

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
    /// The orders of some days.
    pub fn of_days(days: DayRange) -> Filter {
        let before = min(days.end(), LATEST);
        Filter { from: Some(start_of_day(days.first, days.zone)), before: Some(before), ..Filter::default() }
    }

    /// The condition that an index serves, besides the range of keys: each rare status has one.
    fn indexed(self) -> Condition {
        let rare = self.status.filter(|status| *status != Status::Placed);
        Condition::all().add_option(rare.map(Status::condition))
    }

    /// The other conditions. Orders that do not meet them are read in vain.
    pub(super) fn unindexed(self) -> Condition {
        let Filter { client: _, status, from, before } = self;
        let placed = status.filter(|status| *status == Status::Placed);
        Condition::all()
            .add_option(placed.map(Status::condition))
            .add_option(from.map(|from| order::Column::PlacedAt.gte(from)))
            .add_option(before.map(|before| order::Column::PlacedAt.lt(before)))
    }

    /// The least and the greatest id that an order of the list can have.
    pub(super) fn ids(self) -> (Uuid, Uuid) {
        let first = self.from.map_or(Uuid::nil(), |from| least_id_at(from - ID_SKEW));
        (first, self.before.map_or(Uuid::max(), |before| least_id_at(before + ID_SKEW)))
    }

    /// The orders from one id to another, both included, that meet the indexed condition. A list of one client compares the client and
    /// the id as one value, which only an index of both can serve: with `client_id = …`, PostgreSQL may read the orders of all clients by
    /// their ids if it expects that many of them are of this one. A list of one of the rare states compares the client alone: then
    /// PostgreSQL uses the index of that state, and with the pair it does not.
    pub(super) fn range(self, least: impl Into<Expr>, greatest: impl Into<Expr>) -> Select<order::Entity> {
        let (client, id) = (order::Column::ClientId, order::Column::Id);
        let orders = order::Entity::find().filter(self.indexed());
        match self.client {
            Some(only) if matches!(self.status, None | Some(Status::Placed)) => {
                let row = Expr::tuple([client.into_expr(), id.into_expr()]);
                let key = |id| Expr::tuple([Expr::val(only), id]);
                orders.filter(row.clone().gte(key(least.into()))).filter(row.lte(key(greatest.into())))
            }
            only => orders
                .apply_if(only, |orders, only| orders.filter(client.eq(only)))
                .filter(id.into_expr().gte(least.into()))
                .filter(id.into_expr().lte(greatest.into())),
        }
    }

    /// The orders of the list that are among the first `max_read` of a range, sorted in this direction.
    fn list(self, range: Select<order::Entity>, direction: Order, max_read: u64) -> Select<order::Entity> {
        let (range, condition) = (self.sort(range, direction.clone()), self.unindexed());
        if condition.is_empty() {
            return range;
        }
        let mut orders = order::Entity::find();
        QuerySelect::query(&mut orders).from_clear().from_subquery(range.limit(max_read).into_query(), order::Entity);
        self.sort(orders.filter(condition), direction)
    }

    /// Sorts by the key of the list.
    fn sort(self, orders: Select<order::Entity>, direction: Order) -> Select<order::Entity> {
        let by_client = self.client.map(|_| direction.clone());
        let orders =
            orders.apply_if(by_client, |orders, direction| orders.order_by(order::Column::ClientId, direction));
        orders.order_by(order::Column::Id, direction)
    }
}

/// Some orders of a list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrderPage {
    pub orders: Vec<order::Model>,
    pub has_previous_page: bool,
    pub has_next_page: bool,
    /// The order after which the next page begins. It is not in the list if the page ended because of [`MAX_READ`].
    pub end: Option<Uuid>,
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
        let end = orders.last().map(|order| order.id);
        OrderPage { orders, has_previous_page, has_next_page, end }
    }
}

/// Reads a page. `after` is the end of the page before.
///
/// # Errors
/// When the database fails.
pub async fn page(
    db: &DatabaseConnection,
    filter: Filter,
    after: Option<Uuid>,
    first: usize,
) -> Result<OrderPage, DbErr> {
    let mut page = OrderPage::new(orders_of_page(db, filter, after, first).await?, after, first);
    if !page.has_next_page
        && let Some(last) = last_read(db, filter, after).await?
    {
        page.has_next_page = true;
        // Orders that were placed between the two statements are before the others.
        page.end = Some(page.end.map_or(last, |end| min(end, last)));
    }
    Ok(page)
}

async fn orders_of_page(
    db: &DatabaseConnection,
    filter: Filter,
    after: Option<Uuid>,
    first: usize,
) -> Result<Vec<order::Model>, DbErr> {
    filter.list(range_of_page(filter, after), Order::Desc, MAX_READ).limit(limit(first)).all(db).await
}

/// The last order that a page reads, if it ends because of [`MAX_READ`].
async fn last_read(db: &DatabaseConnection, filter: Filter, after: Option<Uuid>) -> Result<Option<Uuid>, DbErr> {
    if filter.unindexed().is_empty() {
        return Ok(None);
    }
    let range = filter.sort(range_of_page(filter, after), Order::Desc).select_only().column(order::Column::Id);
    range.offset(MAX_READ - 1).limit(1).into_tuple().one(db).await
}

/// The orders that a page may have.
fn range_of_page(filter: Filter, after: Option<Uuid>) -> Select<order::Entity> {
    let (least, greatest) = filter.ids();
    let last = after.map_or(Expr::val(greatest), |after| start(filter, min(after, greatest)));
    filter.range(least, last)
}

/// The id with which the page after a cursor begins, or the last order before it: the order of the cursor, or the next one if that has
/// left the list, for example because its status has changed.
fn start(filter: Filter, after: Uuid) -> Expr {
    let (least, greatest) = filter.ids();
    let before = filter.list(filter.range(max(after, least), greatest), Order::Asc, MAX_READ_BEFORE);
    let before = before.select_only().column(order::Column::Id).limit(1).into_query();
    Func::coalesce([Expr::SubQuery(None, Box::new(before.into())), Expr::val(after)]).into()
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
/// It compares the client and the id as one value, as [`Filter::range`] does.
const ORDERS: &str = "
SELECT page.* FROM UNNEST($1::bigint[]) AS client (id) CROSS JOIN LATERAL (
    SELECT id, client_id, version, placed_at, total, cancelled_at, cancel_reason, refunded
    FROM orders WHERE (orders.client_id, orders.id) >= (client.id, $4) AND (orders.client_id, orders.id) <= (client.id, coalesce(
        (SELECT id FROM orders WHERE (orders.client_id, orders.id) >= (client.id, $2) AND (orders.client_id, orders.id) <= (client.id, $5)
         ORDER BY orders.client_id, orders.id LIMIT 1), $2))
    ORDER BY orders.client_id DESC, orders.id DESC LIMIT $3
) AS page ORDER BY page.client_id, page.id DESC";

async fn orders_at_once(
    db: &DatabaseConnection,
    clients: &[i64],
    after: Option<Uuid>,
    first: usize,
) -> Result<Vec<order::Model>, DbErr> {
    let (least, greatest) = Filter::default().ids();
    let after = after.unwrap_or(greatest);
    let values = [clients.to_vec().into(), after.into(), limit(first).into(), least.into(), greatest.into()];
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
