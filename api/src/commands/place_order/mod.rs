//! Placing orders: the rules without I/O ([`rules`]), the statements ([`sql`]), the transaction around both ([`place`]), and
//! the batcher through which concurrent requests share a transaction ([`batcher`]).

pub mod batcher;
pub mod rules;
mod sql;

use chrono::{DateTime, SubsecRound, Utc};
use entity::{Event, OrderPlaced};
use iso_currency::Currency;
use runtime::{crash_point, crash_points};
use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr};

use crate::commands::database::begin;
use crate::commands::{Origin, Rejection};
use crate::outbox::relay::Outgoing;

/// A request to place an order. An id of `None` names nothing that exists.
#[derive(Clone, Debug)]
pub struct PlaceOrder {
    pub client_id: Option<i64>,
    pub items: Vec<Item>,
    pub idempotency_key: Option<String>,
    pub origin: Origin,
}

#[derive(Clone, Debug)]
pub struct Item {
    pub product_id: Option<i64>,
    pub quantity: i32,
}

/// The outcome of one order. The event holds the order as it was placed, and the client's version after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Placed(Event<OrderPlaced>),
    /// An earlier request with the same idempotency key placed the order; nothing was written now.
    Replayed(Event<OrderPlaced>),
    /// Everything that is wrong with the order.
    Rejected(Vec<Rejection>),
}

/// Why a transaction failed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No order was placed.
    #[error(transparent)]
    RolledBack(DbErr),
    /// The commit failed or got no response: the orders may have been placed.
    #[error(transparent)]
    CommitUnknown(DbErr),
}

/// The outcomes of the orders of one transaction.
#[derive(Debug)]
pub struct BatchOutcome {
    /// One for each order, in the same order.
    pub outcomes: Vec<Outcome>,
    /// The events that were written.
    pub outgoing: Vec<Outgoing>,
}

/// Places orders in one transaction and returns one outcome for each. Concurrent calls for the same client wait for each
/// other. So a client's versions are in the sequence of commits without gaps, and a repeated idempotency key is always seen.
///
/// # Errors
/// When the database fails.
pub async fn place(
    db: &DatabaseConnection,
    currency: Currency,
    orders: &[PlaceOrder],
) -> Result<BatchOutcome, PlaceError> {
    place_by(db, currency, orders, Utc::now).await
}

/// As [`place`], at this time.
///
/// # Errors
/// When the database fails.
pub async fn place_at(
    db: &DatabaseConnection,
    currency: Currency,
    orders: &[PlaceOrder],
    time: DateTime<Utc>,
) -> Result<BatchOutcome, PlaceError> {
    place_by(db, currency, orders, || time).await
}

async fn place_by(
    db: &DatabaseConnection,
    currency: Currency,
    orders: &[PlaceOrder],
    clock: impl Fn() -> DateTime<Utc>,
) -> Result<BatchOutcome, PlaceError> {
    let (transaction, batch) = prepare(db, currency, orders, clock).await.map_err(PlaceError::RolledBack)?;
    crash_point(crash_points::ORDER_BEFORE_COMMIT);
    transaction.commit().await.map_err(PlaceError::CommitUnknown)?;
    crash_point(crash_points::ORDER_AFTER_COMMIT);
    Ok(batch)
}

/// Everything except the commit.
async fn prepare(
    db: &DatabaseConnection,
    currency: Currency,
    orders: &[PlaceOrder],
    clock: impl Fn() -> DateTime<Utc>,
) -> Result<(DatabaseTransaction, BatchOutcome), DbErr> {
    let transaction = begin(db).await?;
    let mut book = sql::open_book(&transaction, currency, orders).await?;
    // After the wait for the locks, so that the times of a client's events are in the sequence of its versions.
    let time = clock().trunc_subsecs(3);
    let outcomes = orders.iter().map(|order| book.decide(order, time)).collect::<Vec<_>>();

    let new = orders.iter().zip(&outcomes).filter_map(|(order, outcome)| match outcome {
        Outcome::Placed(event) => Some((order, event)),
        Outcome::Replayed(_) | Outcome::Rejected(_) => None,
    });
    let outgoing = sql::write(&transaction, new.collect()).await?;
    Ok((transaction, BatchOutcome { outcomes, outgoing }))
}
