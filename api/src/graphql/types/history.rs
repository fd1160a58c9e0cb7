use async_graphql::{Context, Enum, ID, Object, SimpleObject};
use entity::Subject;
use entity::event;
use iso_currency::Currency;

use super::money::Money;
use super::order::OrderKey;
use super::page::{CURSOR_BYTES, PageInfo};
use crate::edge::auth::{Identity, READ_ORDERS, READ_PRODUCTS};
use crate::graphql::app;
use crate::graphql::arguments::{invalid_cursor, page_size, parse_id};
use crate::graphql::authorize::{authorize, authorize_for};
use crate::graphql::cost_directives::{list_size, max_size};
use crate::graphql::database::database;
use crate::graphql::error::Error;
use crate::graphql::scalars::{DateTime, Decimal};
use crate::history::{self, Details, Entry, HistoryPage, OrderChanged};
use crate::orders;

/// The default size of a page.
pub const EVENTS: i32 = 20;
/// Events of an order by default: most orders have one or two.
pub const EVENTS_OF_ORDER: i32 = 10;
/// The longest subject of a token: 255 characters of four bytes, with the quotation marks.
const ACTOR_BYTES: i32 = 4 * 255 + 2;
/// The longest name of a field.
const FIELD_BYTES: i32 = 12;

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
pub enum EventType {
    /// An order was placed.
    OrderPlaced,
    /// An order was cancelled.
    OrderCancelled,
    /// A part of an order was refunded.
    OrderRefunded,
    /// The client was registered.
    ClientRegistered,
    /// The name or the e-mail address of the client was changed.
    ClientUpdated,
    /// The name and the e-mail address of the client were erased.
    ClientForgotten,
    /// The product was created.
    ProductCreated,
    /// The price of the product was changed before there was `updateProduct`. Later changes of prices are PRODUCT_UPDATED.
    PriceChanged,
    /// The product was changed, for example its price.
    ProductUpdated,
}

impl EventType {
    pub fn of(r#type: &str) -> Option<EventType> {
        Some(match r#type {
            event::ORDER_PLACED => EventType::OrderPlaced,
            event::ORDER_CANCELLED => EventType::OrderCancelled,
            event::ORDER_REFUNDED => EventType::OrderRefunded,
            event::CLIENT_REGISTERED => EventType::ClientRegistered,
            event::CLIENT_UPDATED => EventType::ClientUpdated,
            event::CLIENT_FORGOTTEN => EventType::ClientForgotten,
            event::PRODUCT_CREATED => EventType::ProductCreated,
            event::PRICE_CHANGED => EventType::PriceChanged,
            event::PRODUCT_UPDATED => EventType::ProductUpdated,
            _ => return None,
        })
    }
}

/// An event in the history of a client, an order or a product.
#[derive(Clone, SimpleObject)]
pub struct HistoryEntry {
    /// What the event is about.
    r#type: EventType,
    /// The time of the event.
    time: DateTime,
    /// The version of the client or product after the event.
    version: i32,
    /// The subject of the token that caused the event. Null if it is unknown or was erased. A token for one client sees only its own
    /// subject.
    #[graphql(directive = max_size::apply(Some(ACTOR_BYTES), None))]
    actor: Option<String>,
    /// The fields of the client or product that the event has changed.
    #[graphql(
        directive = list_size::apply(Some(2), None, None, None),
        directive = max_size::apply(None, Some(4))
    )]
    changes: Vec<FieldChange>,
    /// The id of the order, for events of orders. Null without the scope `orders:read`.
    order_id: Option<ID>,
    /// The total of a placed order, or the amount that was refunded. Null without the scope `orders:read`.
    amount: Option<Money>,
    /// Why an order was cancelled or refunded. Null without the scope `orders:read`, or if the client is forgotten.
    reason: Option<String>,
}

/// A change of a field.
#[derive(Clone, SimpleObject)]
pub struct FieldChange {
    /// The name of the field: `name`, `email`, `price`, `available` or `sku`.
    #[graphql(directive = max_size::apply(Some(FIELD_BYTES), None))]
    field: &'static str,
    /// The value before the change. Null for a new client or product.
    before: Option<String>,
    /// The value after the change.
    after: Option<String>,
}

impl HistoryEntry {
    /// What a caller may see of an event.
    pub fn new(entry: Entry, identity: &Identity, currency: Currency) -> Result<HistoryEntry, Error> {
        let Entry { r#type, actor, time, version, details, before } = entry;
        let is_visible = |actor: &String| identity.client.is_none() || **actor == *identity.subject;
        let changes = changes(version, &details, before.as_ref(), currency);
        let order = match details {
            Details::Order(order) if identity.may(READ_ORDERS) => Some(order),
            _ => None,
        };
        let amount = order.as_ref().map(|order| order.refunded.unwrap_or(order.total));
        Ok(HistoryEntry {
            r#type: EventType::of(&r#type).ok_or_else(|| Error::internal(&format!("event type {type}")))?,
            time: DateTime(time),
            version,
            actor: actor.filter(is_visible),
            changes,
            order_id: order.as_ref().map(|order| order.order_id.to_string().into()),
            amount: amount.map(|amount| Money::new(amount, currency)),
            reason: order.and_then(|order| order.reason),
        })
    }
}

/// The fields whose values differ. `before` is `None` for the first event of a log, which may not be that of version 1.
fn changes(version: i32, details: &Details, before: Option<&Details>, currency: Currency) -> Vec<FieldChange> {
    if before.is_none() && version > 1 {
        return Vec::new();
    }
    let before = before.map(|before| fields(before, currency));
    let after = fields(details, currency);
    let change = |(n, (field, after)): (usize, (&'static str, Option<String>))| {
        let before = before.as_ref().and_then(|before| before[n].1.clone());
        (before != after).then_some(FieldChange { field, before, after })
    };
    after.into_iter().enumerate().filter_map(change).collect()
}

/// The fields of the client or product after an event: the same ones for all events of one log.
fn fields(details: &Details, currency: Currency) -> Vec<(&'static str, Option<String>)> {
    match details {
        Details::Client(client) | Details::Order(OrderChanged { client, .. }) => {
            vec![("name", Some(client.client_name.clone())), ("email", Some(client.client_email.clone()))]
        }
        Details::Product(product) => vec![
            ("name", Some(product.name.clone())),
            ("price", Some(Decimal::from_minor(product.price, currency).into_text())),
            ("available", Some(product.available.to_string())),
            ("sku", product.sku.clone()),
        ],
    }
}

pub struct HistoryConnection {
    page: HistoryPage,
    entries: Vec<HistoryEntry>,
}

impl HistoryConnection {
    /// A page of the history of a client or product.
    ///
    /// # Errors
    /// If an argument is out of range, or the log cannot be read.
    pub async fn read(
        ctx: &Context<'_>,
        identity: &Identity,
        subject: Subject,
        first: Option<i32>,
        after: Option<String>,
    ) -> Result<HistoryConnection, Error> {
        let (app, first) = (app(ctx), page_size(first, EVENTS)?);
        let after = after.map(|cursor| parse_cursor(&cursor)).transpose()?;
        let mut page = history::page(&*database(ctx).await, subject, after, first).await?;
        let entries = std::mem::take(&mut page.entries).into_iter();
        let entries =
            entries.map(|entry| HistoryEntry::new(entry, identity, app.currency)).collect::<Result<_, _>>()?;
        Ok(HistoryConnection { page, entries })
    }
}

/// A cursor is a version.
fn parse_cursor(cursor: &str) -> Result<i32, Error> {
    parse_id(cursor).and_then(|version| i32::try_from(version).ok()).ok_or_else(invalid_cursor)
}

/// A page of a history, newest first.
#[Object]
impl HistoryConnection {
    /// The events of the page, each with its cursor.
    async fn edges(&self) -> Vec<HistoryEdge> {
        let entries = self.entries.iter();
        entries.map(|node| HistoryEdge { node: node.clone(), cursor: node.version.to_string() }).collect()
    }

    /// The events of the page.
    async fn nodes(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The position of the page in the history.
    async fn page_info(&self) -> PageInfo {
        let cursor = |entry: &HistoryEntry| entry.version.to_string();
        PageInfo {
            has_previous_page: self.page.has_previous_page,
            has_next_page: self.page.has_next_page,
            start_cursor: self.entries.first().map(cursor),
            end_cursor: self.entries.last().map(cursor),
        }
    }
}

/// An event and its cursor.
#[derive(SimpleObject)]
pub struct HistoryEdge {
    /// The event.
    node: HistoryEntry,
    /// The cursor for `after` of the same list.
    #[graphql(directive = max_size::apply(Some(CURSOR_BYTES), None))]
    cursor: String,
}

/// The newest events of an order.
pub async fn history_of_order(
    ctx: &Context<'_>,
    order: &OrderKey,
    first: Option<i32>,
) -> Result<Vec<HistoryEntry>, Error> {
    authorize_for(ctx, READ_ORDERS, [&*order.client.to_string()])?;
    let (identity, app, first) = (authorize(ctx, READ_ORDERS)?, app(ctx), page_size(first, EVENTS_OF_ORDER)?);
    let db = database(ctx).await;
    let versions = orders::versions(&*db, order.id).await?.into_iter().rev().take(first).collect();
    let entries = history::at_versions(&db, order.client, versions).await?.into_iter();
    entries.map(|entry| HistoryEntry::new(entry, identity, app.currency)).collect()
}

/// The history of a product.
pub async fn product_history(
    ctx: &Context<'_>,
    id: &ID,
    first: Option<i32>,
    after: Option<String>,
) -> Result<HistoryConnection, Error> {
    let identity = authorize(ctx, READ_PRODUCTS)?;
    let id = parse_id(id).unwrap_or_default();
    HistoryConnection::read(ctx, identity, Subject::Product(id), first, after).await
}
