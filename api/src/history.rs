//! What has happened to clients and products, read from the event log of the command database.

use chrono::{DateTime, Utc};
use entity::event::{
    CLIENT_FORGOTTEN, CLIENT_REGISTERED, CLIENT_UPDATED, ORDER_CANCELLED, ORDER_PLACED, ORDER_REFUNDED, PRICE_CHANGED,
    PRODUCT_CREATED, PRODUCT_UPDATED,
};
use entity::sums::{sum_of_refunds, sums_of_orders};
use entity::{ClientChanged, ProductChanged, Subject, order, order_event, order_refund};
use read_model::{Client, Sum};
use runtime::database::is_one_of;
use sea_orm::prelude::Json;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect, Select,
};
use serde::Deserialize;
use serde_json::from_value;
use uuid::Uuid;

/// The highest version for which [`client_at`] computes a client: it adds up at most as many orders and refunds.
pub const MAX_EVENTS: i32 = 10_000;

/// An event of a history.
#[derive(Clone, Debug)]
pub struct Entry {
    pub r#type: String,
    pub actor: Option<String>,
    pub time: DateTime<Utc>,
    pub version: i32,
    pub details: Details,
    /// Those of the event before it. `None` for the first one.
    pub before: Option<Details>,
}

/// What a history shows of the data of an event: all but the lines of orders, which have up to 86 KB.
#[derive(Clone, Debug)]
pub enum Details {
    Order(OrderChanged),
    Client(ClientChanged),
    Product(ProductChanged),
}

/// An order that was placed, cancelled or refunded.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderChanged {
    #[serde(flatten)]
    pub client: ClientChanged,
    pub order_id: Uuid,
    /// Minor units, as `refunded`.
    pub total: i64,
    /// `None` if it was placed.
    #[serde(rename = "amount")]
    pub refunded: Option<i64>,
    pub reason: Option<String>,
}

/// A row of the log without the lines of its order.
#[derive(FromQueryResult)]
struct Row {
    id: Uuid,
    r#type: String,
    actor: Option<String>,
    occurred_at: DateTime<Utc>,
    version: i32,
    details: Json,
}

/// Some events of a history, newest first.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    pub entries: Vec<Entry>,
    pub has_previous_page: bool,
    pub has_next_page: bool,
}

/// Reads a page of the events of a client or product. `after` is the version of the last event of the page before.
///
/// # Errors
/// When the database fails, or an event is damaged.
pub async fn page(
    db: &DatabaseConnection,
    subject: Subject,
    after: Option<i32>,
    first: usize,
) -> Result<HistoryPage, DbErr> {
    // The event of the cursor and the event after the page are read too.
    let events =
        events_of(subject).filter(order_event::Column::Version.lte(after.unwrap_or(i32::MAX))).limit(first as u64 + 2);
    let mut entries = read(db, events).await?;
    let has_previous_page = entries.first().is_some_and(|entry| Some(entry.version) == after);
    if has_previous_page {
        entries.remove(0);
    }
    let has_next_page = entries.len() > first;
    entries.truncate(first);
    Ok(HistoryPage { entries, has_previous_page, has_next_page })
}

/// Reads the events of a client that have these versions, newest first, without the events before them.
///
/// # Errors
/// When the database fails, or an event is damaged.
pub async fn at_versions(db: &DatabaseConnection, client: i64, versions: Vec<i32>) -> Result<Vec<Entry>, DbErr> {
    let events = events_of(Subject::Client(client)).filter(is_one_of(db, order_event::Column::Version, versions));
    let entries = read(db, events).await?.into_iter();
    Ok(entries.map(|entry| Entry { before: None, ..entry }).collect())
}

/// Reads events, newest first.
async fn read(db: &DatabaseConnection, events: Select<order_event::Entity>) -> Result<Vec<Entry>, DbErr> {
    use order_event::Column::{Actor, Id, OccurredAt, Type, Version};
    let without_lines = match db.get_database_backend() {
        DbBackend::Postgres => "payload - '{lines,amounts}'::text[]",
        _ => "json_remove(payload, '$.lines', '$.amounts')",
    };
    let rows = events
        .select_only()
        .columns([Id, Type, Actor, OccurredAt, Version])
        .column_as(Expr::cust(without_lines), "details")
        .order_by_desc(Version);
    let mut entries: Vec<Entry> = Vec::new();
    for row in rows.into_model::<Row>().all(db).await? {
        let Row { id, r#type, actor, occurred_at: time, version, details } = row;
        let details = Details::of(&r#type, details).map_err(|error| DbErr::Custom(format!("event {id}: {error}")))?;
        if let Some(newer) = entries.last_mut() {
            newer.before = Some(details.clone());
        }
        entries.push(Entry { r#type, actor, time, version, details, before: None });
    }
    Ok(entries)
}

impl Details {
    fn of(r#type: &str, data: Json) -> Result<Details, serde_json::Error> {
        Ok(match r#type {
            ORDER_PLACED | ORDER_CANCELLED | ORDER_REFUNDED => Details::Order(from_value(data)?),
            CLIENT_REGISTERED | CLIENT_UPDATED | CLIENT_FORGOTTEN => Details::Client(from_value(data)?),
            PRODUCT_CREATED | PRICE_CHANGED | PRODUCT_UPDATED => Details::Product(from_value(data)?),
            _ => return Err(serde::de::Error::custom("its type is unknown")),
        })
    }
}

/// The client as it was at a version, or at its newest version if that is below: as its newest event has it, with the sums of its orders
/// and refunds up to then. `None` if it has no events. `version` is at most [`MAX_EVENTS`].
///
/// # Errors
/// When the database fails, or the event is damaged.
pub async fn client_at(db: &DatabaseConnection, id: i64, version: i32) -> Result<Option<Client>, DbErr> {
    let newest = events_of(Subject::Client(id)).filter(order_event::Column::Version.lte(version)).limit(1);
    let Some(Entry { version: newest, details, .. }) = read(db, newest).await?.pop() else { return Ok(None) };
    let (Details::Client(of_event) | Details::Order(OrderChanged { client: of_event, .. })) = details else {
        return Err(DbErr::Custom(format!("the event of client {id} with version {newest} is of another subject")));
    };
    let orders = order::Column::ClientId.eq(id).and(order::Column::Version.lte(version));
    let refunds = order_refund::Column::ClientId.eq(id).and(order_refund::Column::Version.lte(version));
    let orders = sums_of_orders(orders).one(db).await?;
    let refunds = sum_of_refunds(refunds).one(db).await?.unwrap_or_default();
    Ok(Some(Client {
        id,
        name: of_event.client_name,
        email: of_event.client_email,
        version: newest,
        order_count: orders.as_ref().map_or(0, |sums| sums.orders),
        total: orders.as_ref().map_or(0, |sums| sums.total),
        last_purchase: orders.and_then(|sums| sums.last_purchase),
        cancelled: Sum { count: refunds.cancelled, revenue: refunds.refunded },
    }))
}

fn events_of(subject: Subject) -> Select<order_event::Entity> {
    order_event::Entity::find().filter(match subject {
        Subject::Client(id) => order_event::Column::ClientId.eq(id),
        Subject::Product(id) => order_event::Column::ProductId.eq(id),
    })
}
