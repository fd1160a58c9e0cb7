//! What has happened to clients and products, read from the event log of the command database.

use entity::sums::{sum_of_refunds, sums_of_orders};
use entity::{Event, Subject, order, order_event, order_refund};
use iso_currency::Currency;
use read_model::{Client, ProjectedClient, Sum};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};

use runtime::database::is_one_of;

/// The highest version for which [`client_at`] computes a client: it adds up at most as many orders and refunds.
pub const MAX_EVENTS: i32 = 10_000;

/// An event of a history.
#[derive(Clone, Debug)]
pub struct Entry {
    pub r#type: String,
    pub actor: Option<String>,
    pub event: Event,
    /// The event before it. `None` for the first one.
    pub before: Option<Event>,
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
    currency: Currency,
) -> Result<HistoryPage, DbErr> {
    // The event of the cursor and the event after the page are read too.
    let rows = events_of(subject)
        .filter(order_event::Column::Version.lte(after.unwrap_or(i32::MAX)))
        .order_by_desc(order_event::Column::Version)
        .limit(first as u64 + 2)
        .all(db)
        .await?;
    let mut entries = entries(rows, currency)?;
    let has_previous_page = entries.first().is_some_and(|entry| Some(entry.event.version) == after);
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
pub async fn at_versions(
    db: &DatabaseConnection,
    client: i64,
    versions: Vec<i32>,
    currency: Currency,
) -> Result<Vec<Entry>, DbErr> {
    let rows = events_of(Subject::Client(client))
        .filter(is_one_of(db, order_event::Column::Version, versions))
        .order_by_desc(order_event::Column::Version)
        .all(db)
        .await?;
    let entries = entries(rows, currency)?.into_iter();
    Ok(entries.map(|entry| Entry { before: None, ..entry }).collect())
}

/// Entries of rows that are sorted with the newest first.
fn entries(rows: Vec<order_event::Model>, currency: Currency) -> Result<Vec<Entry>, DbErr> {
    let mut entries: Vec<Entry> = Vec::with_capacity(rows.len());
    for row in rows {
        let (r#type, actor) = (row.r#type.clone(), row.actor.clone());
        let event = parse(row, currency)?;
        if let Some(newer) = entries.last_mut() {
            newer.before = Some(event.clone());
        }
        entries.push(Entry { r#type, actor, event, before: None });
    }
    Ok(entries)
}

/// The client as it was at a version, or at its newest version if that is below: as its newest event has it, with the sums of its orders
/// and refunds up to then. `None` if it has no events. `version` is at most [`MAX_EVENTS`].
///
/// # Errors
/// When the database fails, or the event is damaged.
pub async fn client_at(
    db: &DatabaseConnection,
    id: i64,
    version: i32,
    currency: Currency,
) -> Result<Option<Client>, DbErr> {
    let newest = events_of(Subject::Client(id))
        .filter(order_event::Column::Version.lte(version))
        .order_by_desc(order_event::Column::Version)
        .one(db)
        .await?;
    let Some(newest) = newest else { return Ok(None) };
    let mut projected = ProjectedClient::new(id);
    projected.apply(&parse(newest, currency)?).map_err(|error| DbErr::Custom(error.to_string()))?;
    let orders = order::Column::ClientId.eq(id).and(order::Column::Version.lte(version));
    let refunds = order_refund::Column::ClientId.eq(id).and(order_refund::Column::Version.lte(version));
    let orders = sums_of_orders(orders).one(db).await?;
    let refunds = sum_of_refunds(refunds).one(db).await?.unwrap_or_default();
    Ok(Some(Client {
        version: projected.newest,
        order_count: orders.as_ref().map_or(0, |sums| sums.orders),
        total: orders.as_ref().map_or(0, |sums| sums.total),
        last_purchase: orders.and_then(|sums| sums.last_purchase),
        cancelled: Sum { count: refunds.cancelled, revenue: refunds.refunded },
        ..projected.client
    }))
}

fn events_of(subject: Subject) -> Select<order_event::Entity> {
    order_event::Entity::find().filter(match subject {
        Subject::Client(id) => order_event::Column::ClientId.eq(id),
        Subject::Product(id) => order_event::Column::ProductId.eq(id),
    })
}

fn parse(row: order_event::Model, currency: Currency) -> Result<Event, DbErr> {
    let id = row.id;
    Event::from_row(row, currency.code()).map_err(|error| DbErr::Custom(format!("event {id}: {error}")))
}
