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
use serde::{Deserialize, Serialize};

use crate::commands::database::begin;
use crate::commands::{Origin, Rejection};
use crate::outbox::log_tailing::Publication;
use crate::outbox::relay::Outgoing;
pub use sql::placed_with_key;

/// A request to place an order. An id of `None` names nothing that exists.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlaceOrder {
    pub client_id: Option<i64>,
    pub items: Vec<Item>,
    pub idempotency_key: Option<String>,
    pub origin: Origin,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// What a transaction does about the orders of a client that another transaction has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenLocked {
    /// Waits for the lock.
    Wait,
    /// Leaves them without an outcome.
    Skip,
}

/// The outcomes of the orders of one transaction.
#[derive(Debug)]
pub struct BatchOutcome<O = Outcome> {
    /// One for each order, in the same order.
    pub outcomes: Vec<O>,
    /// The events that were written, if the relay publishes them.
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
    place_all(db, currency, orders, None).await
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
    place_all(db, currency, orders, Some(time)).await
}

async fn place_all(
    db: &DatabaseConnection,
    currency: Currency,
    orders: &[PlaceOrder],
    time: Option<DateTime<Utc>>,
) -> Result<BatchOutcome, PlaceError> {
    let placed = place_by(db, currency, orders, WhenLocked::Wait, time, Publication::Relay).await?;
    let BatchOutcome { outcomes, outgoing } = placed;
    Ok(BatchOutcome { outcomes: outcomes.into_iter().flatten().collect(), outgoing })
}

/// `None` is the outcome of an order that was skipped.
async fn place_by(
    db: &DatabaseConnection,
    currency: Currency,
    orders: &[PlaceOrder],
    when_locked: WhenLocked,
    time: Option<DateTime<Utc>>,
    publication: Publication,
) -> Result<BatchOutcome<Option<Outcome>>, PlaceError> {
    let prepared = prepare(db, currency, orders, when_locked, time, publication).await;
    let (transaction, batch) = prepared.map_err(PlaceError::RolledBack)?;
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
    when_locked: WhenLocked,
    time: Option<DateTime<Utc>>,
    publication: Publication,
) -> Result<(DatabaseTransaction, BatchOutcome<Option<Outcome>>), DbErr> {
    let transaction = begin(db).await?;
    let (mut book, locked) = sql::open_book(&transaction, currency, orders, when_locked).await?;
    let time = time.map_or(book.now, |time| time.trunc_subsecs(3));
    let is_skipped = |order: &PlaceOrder| order.client_id.is_some_and(|client| locked.contains(&client));
    let outcomes = orders.iter().map(|order| (!is_skipped(order)).then(|| book.decide(order, time)));
    let outcomes: Vec<Option<Outcome>> = outcomes.collect();

    let new = orders.iter().zip(&outcomes).filter_map(|(order, outcome)| match outcome {
        Some(Outcome::Placed(event)) => Some((order, event)),
        Some(Outcome::Replayed(_) | Outcome::Rejected(_)) | None => None,
    });
    let outgoing = sql::write(&transaction, new.collect(), publication).await?;
    Ok((transaction, BatchOutcome { outcomes, outgoing }))
}
