//! Reads of orders from the command database: each order can be read from its commit on.
//!
//! - here: an order by its id
//! - [`lists`]: pages of orders
//! - [`of_clients`]: the orders of each client of a list, read together

pub mod lists;
pub mod of_clients;

use std::fmt::Display;

use entity::{Change, Event, OrderPlaced, order, order_event};
use iso_currency::Currency;
use sea_orm::{ColumnTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter};
use uuid::Uuid;

/// An order as it was placed. `client` limits the read to orders of that client.
///
/// # Errors
/// When the database fails, or the order's event is damaged.
pub async fn order(
    db: &DatabaseConnection,
    id: Uuid,
    client: Option<i64>,
    currency: Currency,
) -> Result<Option<Event<OrderPlaced>>, DbErr> {
    let order = order::Entity::find_by_id(id).one(db).await?;
    let Some(order) = order.filter(|order| client.is_none_or(|client| client == order.client_id)) else {
        return Ok(None);
    };
    let event = order_event::Entity::find()
        .filter(order_event::Column::ClientId.eq(order.client_id))
        .filter(order_event::Column::Version.eq(order.version));
    let event = event.one(db).await?;
    event.map(|event| placed_event(event, currency)).transpose()
}

/// Reads the event of an order, which holds the names and prices at the time of the order.
pub(crate) fn placed_event(row: order_event::Model, currency: Currency) -> Result<Event<OrderPlaced>, DbErr> {
    let of_row = row.id;
    let damaged = |why: &dyn Display| DbErr::Custom(format!("event {of_row} of an order: {why}"));
    match Event::from_row(row, currency.code()) {
        Ok(Event { id, time, version, data: Change::OrderPlaced(data) }) => Ok(Event { id, time, version, data }),
        Ok(_) => Err(damaged(&"it is of another type")),
        Err(error) => Err(damaged(&error)),
    }
}
