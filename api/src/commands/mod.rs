//! Writes to the command database. Nothing here knows GraphQL or the read model.
//!
//! - [`place_order`]: orders, many in one transaction
//! - [`refunds`]: cancelling orders, and refunding parts of them
//! - [`clients`], [`products`]: registering and changing them, each in a transaction with its event
//! - [`forget_client`]: masking the personal data of a client
//! - [`idempotency`]: a repeated request gets the first result
//! - [`turns`]: commands that need the same lock wait without a connection
//! - [`clock`]: the time of an event
//! - [`database`]: opening the database, and the kinds of its errors

pub mod clients;
pub(crate) mod clock;
pub mod database;
pub mod forget_client;
pub mod idempotency;
pub mod place_order;
pub mod products;
pub mod refunds;
mod turns;

use std::hash::Hash;
use std::slice;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use entity::event::MAX_NAME;
use entity::text::{has_visible, is_noncharacter, is_printable};
use entity::{Subject, order_event, outbox};
use iso_currency::Currency;
use runtime::database::is_in_use;
use runtime::{crash_point, crash_points};
use sea_orm::{
    ActiveModelTrait, ConnAcquireErr, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel,
};
use tokio::sync::{MutexGuard, OwnedSemaphorePermit, mpsc};
use tracing::warn;
use uuid::{ContextV7, Timestamp, Uuid};

use crate::connections::ConnectionQuota;
use crate::metrics::DATABASE_TIMEOUTS;
use crate::outbox::log_tailing::{self, Publication};
use crate::outbox::relay::Outgoing;
use crate::outbox::spans;
use refunds::rules::RefundRejection;
use turns::Turns;

/// Where a command comes from. Its events say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// The subject of the token.
    pub actor: Option<String>,
    /// Whether the token is limited to one client.
    pub actor_is_client: bool,
}

impl Origin {
    /// Without the subject of a token that is limited to one client.
    fn without_client(self) -> Origin {
        let Origin { traceparent, actor, actor_is_client } = self;
        Origin { traceparent, actor: actor.filter(|_| !actor_is_client), actor_is_client }
    }
}

/// Why a command is rejected: a problem that its sender can fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    ClientNotFound,
    /// Its personal data were masked.
    ClientForgotten,
    /// `item` is the position in the order, from 0; `None` for a command about one product.
    ProductNotFound {
        item: Option<usize>,
    },
    /// The product is withdrawn. `item` counts from 0.
    ProductNotAvailable {
        item: usize,
    },
    EmptyOrder,
    TooManyItems,
    /// `item` counts from 0.
    QuantityOutOfRange {
        item: usize,
    },
    TotalOutOfRange,
    InvalidIdempotencyKey,
    IdempotencyKeyReused,
    InvalidName,
    InvalidEmail,
    EmailTaken,
    PriceOutOfRange,
    InvalidSku,
    SkuTaken,
    Refund(RefundRejection),
    /// The client or product has as many events as a version can count.
    VersionLimitReached,
}

impl From<Rejection> for Vec<Rejection> {
    fn from(rejection: Rejection) -> Vec<Rejection> {
        vec![rejection]
    }
}

/// Why a command has no outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Logged already. The command may have been committed.
    #[error("the command database is unavailable")]
    Unavailable,
    /// Too many others wait for the command database. Nothing was executed.
    #[error("the command database is busy")]
    Busy,
    /// Not logged yet.
    #[error("{0}")]
    Internal(String),
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Error {
        if matches!(error, DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)) {
            DATABASE_TIMEOUTS.add(1, &[]);
            if is_in_use() {
                warn!("all connections to the command database are in use; DATABASE_CONNECTIONS sets their number");
                return Error::Busy;
            }
        }
        if database::is_conflict(&error) {
            warn!("a transaction waited in vain for others: {error}");
            Error::Unavailable
        } else if database::is_outage(&error) {
            warn!("the command database is unavailable: {error}");
            Error::Unavailable
        } else {
            Error::Internal(error.to_string())
        }
    }
}

/// The result of a command, or everything that is wrong with the command.
pub type Outcome<T> = Result<Result<T, Vec<Rejection>>, Error>;

/// The commands for clients, products, cancellations and refunds.
#[derive(Clone)]
pub struct Commands {
    db: DatabaseConnection,
    currency: Currency,
    publication: Publication,
    /// The relay's fast path for committed events.
    outgoing: mpsc::Sender<Outgoing>,
    /// By client, product or idempotency key.
    turns: Arc<Turns>,
    /// Those of the caller.
    connections: ConnectionQuota,
}

impl Commands {
    pub fn new(
        db: DatabaseConnection,
        currency: Currency,
        publication: Publication,
        outgoing: mpsc::Sender<Outgoing>,
    ) -> Commands {
        Commands { db, currency, publication, outgoing, turns: Arc::default(), connections: ConnectionQuota::default() }
    }

    /// The commands of a caller who may use these connections.
    pub fn with_connections(&self, connections: ConnectionQuota) -> Commands {
        Commands { connections, ..self.clone() }
    }

    /// Waits for the turn of a client, product or idempotency key, and for a connection of the caller. It never holds one while it waits
    /// for the other. Otherwise a caller without a free connection would block everybody who needs the same client, and a locked client
    /// would use up the connections of the caller.
    async fn turn(&self, of: &(impl Hash + ?Sized)) -> (MutexGuard<'_, ()>, OwnedSemaphorePermit) {
        loop {
            let turn = self.turns.take(of).await;
            if let Some(permit) = self.connections.try_acquire() {
                return (turn, permit);
            }
            drop(turn);
            let permit = self.connections.acquire().await;
            if let Some(turn) = self.turns.try_take(of) {
                return (turn, permit);
            }
        }
    }

    /// Writes the event and commits.
    async fn commit(&self, transaction: DatabaseTransaction, mut event: order_event::Model) -> Result<(), DbErr> {
        spans::create(&mut event);
        let outgoing = match self.publication {
            Publication::Relay => {
                let pending = outbox::Model { event_id: event.id };
                outbox::Entity::insert(as_new(pending)).exec_without_returning(&transaction).await?;
                Some(Outgoing::of(&event))
            }
            Publication::LogReader => {
                log_tailing::write(&transaction, slice::from_ref(&event)).await?;
                None
            }
        };
        order_event::Entity::insert(as_new(event)).exec_without_returning(&transaction).await?;
        crash_point(crash_points::CHANGE_BEFORE_COMMIT);
        transaction.commit().await?;
        crash_point(crash_points::CHANGE_AFTER_COMMIT);
        if let Some(event) = outgoing {
            // When the fast path is full, the relay's poll finds the event.
            let _ = self.outgoing.try_send(event);
        }
        Ok(())
    }
}

/// `id` is a UUID of version 7, and `time` that of the database.
fn new_event(
    id: Uuid,
    r#type: &str,
    subject: Subject,
    version: i32,
    data: &impl serde::Serialize,
    time: DateTime<Utc>,
    origin: Origin,
) -> order_event::Model {
    let (client_id, product_id) = match subject {
        Subject::Client(id) => (Some(id), None),
        Subject::Product(id) => (None, Some(id)),
    };
    order_event::Model {
        id,
        client_id,
        product_id,
        version,
        r#type: r#type.to_owned(),
        payload: serde_json::to_value(data).expect("names and numbers always serialise"),
        occurred_at: time,
        traceparent: origin.traceparent,
        actor: origin.actor,
        actor_is_client: origin.actor_is_client.then_some(true),
    }
}

/// A UUID of version 7 that begins with this time. Ids of one millisecond sort in the sequence of the calls.
fn id_at(time: DateTime<Utc>) -> Uuid {
    static IDS: Mutex<ContextV7> = Mutex::new(ContextV7::new());
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(&IDS, seconds, time.timestamp_subsec_nanos()))
}

/// The version after the next event of a client or product.
fn next_version(version: i32) -> Result<i32, Rejection> {
    version.checked_add(1).ok_or(Rejection::VersionLimitReached)
}

/// A row to insert with all its columns, keys included.
fn as_new<A: ActiveModelTrait>(model: impl IntoActiveModel<A>) -> A {
    model.into_active_model().reset_all()
}

/// Both values, or every rejection.
fn both<A, B>(
    one: Result<A, impl Into<Vec<Rejection>>>,
    other: Result<B, impl Into<Vec<Rejection>>>,
) -> Result<(A, B), Vec<Rejection>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => {
            let (one, other) = (one.err().map(Into::into), other.err().map(Into::into));
            Err(one.into_iter().chain(other).flatten().collect())
        }
    }
}

/// Trims a name, and rejects one with control or invisible characters.
fn valid_name(name: &str) -> Result<String, Rejection> {
    let name = name.trim();
    // Events may have noncharacters: they were accepted once.
    let is_text = is_printable(name) && !name.chars().any(is_noncharacter);
    let is_valid = name.chars().count() <= MAX_NAME && has_visible(name) && is_text;
    if is_valid { Ok(name.to_owned()) } else { Err(Rejection::InvalidName) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_200_characters() {
        assert_eq!(valid_name("  Bob \u{1f600} "), Ok("Bob \u{1f600}".into()));
        assert_eq!(valid_name(&"\u{e4}".repeat(MAX_NAME)), Ok("\u{e4}".repeat(MAX_NAME)));
        for name in ["", "   ", "a\0b", "a\nb", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(valid_name(name), Err(Rejection::InvalidName), "{name:?}");
        }
    }

    #[test]
    fn a_name_has_no_invisible_characters() {
        assert_eq!(valid_name("Gift ❤\u{fe0f}"), Ok("Gift ❤\u{fe0f}".into()));
        for name in
            ["B\u{200b}ob", "B\u{202e}ob", "\u{2060}", "\u{fe0f}\u{fe0e}", "B\u{fdd0}", "B\u{1fffe}", "B\u{10ffff}"]
        {
            assert_eq!(valid_name(name), Err(Rejection::InvalidName), "{name:?}");
        }
    }
}
