//! Reads of orders from the command database: each order can be read from its commit on.
//!
//! - here: the status of an order, and an order with its event
//! - [`by_id`]: orders by their ids, read together
//! - [`client_reports`]: the clients that ordered in a range of days
//! - [`client_sales`]: the orders of one client over time
//! - [`lines`]: the lines of orders, read together
//! - [`lists`]: pages of orders
//! - [`of_clients`]: the orders of each client of a list, read together

pub mod by_id;
pub mod client_reports;
pub mod client_sales;
pub mod lines;
pub mod lists;
pub mod of_clients;

use std::fmt::Display;

use chrono::{DateTime, Utc};
use entity::{Change, Event, Line, OrderPlaced, order, order_event, order_refund};
use iso_currency::Currency;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, JoinType, QueryFilter, QueryOrder, QuerySelect, RelationDef,
};
use uuid::Uuid;

/// An order with its current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOrder {
    /// The order as it was placed.
    pub placed: Event<OrderPlaced>,
    pub cancelled_at: Option<DateTime<Utc>>,
    pub cancel_reason: Option<String>,
    /// Minor units: the sum of its refunds and of its cancellation.
    pub refunded: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Placed,
    Cancelled,
    PartiallyRefunded,
    Refunded,
}

impl StoredOrder {
    /// An order that has just been placed.
    pub fn new(placed: Event<OrderPlaced>) -> StoredOrder {
        StoredOrder { placed, cancelled_at: None, cancel_reason: None, refunded: 0 }
    }

    /// Its row and its lines.
    pub fn into_parts(self) -> (order::Model, Vec<Line>) {
        let StoredOrder { placed: Event { time, version, data, .. }, cancelled_at, cancel_reason, refunded } = self;
        let OrderPlaced { client_id, order_id, total, lines, .. } = data;
        let (id, placed_at) = (order_id, time);
        (order::Model { id, client_id, version, placed_at, total, cancelled_at, cancel_reason, refunded }, lines)
    }
}

impl Status {
    pub fn of(order: &order::Model) -> Status {
        match (order.cancelled_at, order.refunded) {
            (Some(_), _) => Status::Cancelled,
            (None, 0) => Status::Placed,
            (None, refunded) if refunded < order.total => Status::PartiallyRefunded,
            _ => Status::Refunded,
        }
    }

    /// Without parameters: PostgreSQL then sees that a partial index has these orders.
    fn condition(self) -> Expr {
        Expr::cust(match self {
            Status::Placed => "orders.cancelled_at IS NULL AND orders.refunded = 0",
            Status::Cancelled => "orders.cancelled_at IS NOT NULL",
            Status::PartiallyRefunded => {
                "orders.cancelled_at IS NULL AND orders.refunded > 0 AND orders.refunded < orders.total"
            }
            Status::Refunded => {
                "orders.cancelled_at IS NULL AND orders.refunded > 0 AND orders.refunded = orders.total"
            }
        })
    }
}

/// Reads an order with its event.
///
/// # Errors
/// When the database fails, or the order's event is damaged.
pub async fn order(db: &impl ConnectionTrait, id: Uuid, currency: Currency) -> Result<Option<StoredOrder>, DbErr> {
    let orders = order::Entity::find().join(JoinType::InnerJoin, placed_event_of_order());
    let row = orders.select_also(order_event::Entity).filter(order::Column::Id.eq(id)).one(db).await?;
    let Some((order, Some(event))) = row else { return Ok(None) };
    let order::Model { cancelled_at, cancel_reason, refunded, .. } = order;
    Ok(Some(StoredOrder { placed: placed_event(event, currency)?, cancelled_at, cancel_reason, refunded }))
}

/// The versions of the client at which an order was placed, refunded and cancelled, in their sequence. They identify the events of
/// the order. Empty if there is no such order.
///
/// # Errors
/// When the database fails.
pub async fn versions(db: &impl ConnectionTrait, id: Uuid) -> Result<Vec<i32>, DbErr> {
    let placed = order::Entity::find_by_id(id).select_only().column(order::Column::Version);
    let mut versions: Vec<i32> = placed.into_tuple().all(db).await?;
    let refunds = order_refund::Entity::find().filter(order_refund::Column::OrderId.eq(id));
    let refunds = refunds.select_only().column(order_refund::Column::Version);
    versions.extend(refunds.order_by_asc(order_refund::Column::Version).into_tuple::<i32>().all(db).await?);
    Ok(versions)
}

/// The event with which an order was placed. It holds the lines with their names and prices at that time.
fn placed_event_of_order() -> RelationDef {
    order::Entity::belongs_to(order_event::Entity)
        .from((order::Column::ClientId, order::Column::Version))
        .to((order_event::Column::ClientId, order_event::Column::Version))
        .into()
}

/// Reads the event of an order.
pub(crate) fn placed_event(row: order_event::Model, currency: Currency) -> Result<Event<OrderPlaced>, DbErr> {
    let of_row = row.id;
    let damaged = |why: &dyn Display| DbErr::Custom(format!("event {of_row} of an order: {why}"));
    match Event::from_row(row, currency.code()) {
        Ok(Event { id, time, version, data: Change::OrderPlaced(data) }) => Ok(Event { id, time, version, data }),
        Ok(_) => Err(damaged(&"it is of another type")),
        Err(error) => Err(damaged(&error)),
    }
}
