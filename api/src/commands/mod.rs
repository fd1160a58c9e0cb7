//! Writes to the command database. Nothing here knows GraphQL or the read model.
//!
//! - [`place_order`]: orders, many in one transaction
//! - [`clients`], [`products`]: registering and changing them, each in a transaction with its event
//! - [`database`]: opening the database, and the kinds of its errors

pub mod clients;
pub mod database;
pub mod place_order;
pub mod products;

use chrono::{SubsecRound, Utc};
use entity::event::MAX_NAME;
use entity::{Subject, order_event, outbox};
use iso_currency::Currency;
use runtime::{crash_point, crash_points};
use sea_orm::{ActiveModelTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel};
use tokio::sync::mpsc;
use tracing::warn;
use uuid::Uuid;

use crate::outbox::relay::Outgoing;

/// Why a command is rejected: a problem that its sender can fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    ClientNotFound,
    /// `item` is the position in the order, from 0; `None` for a command about one product.
    ProductNotFound {
        item: Option<usize>,
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
    /// The client or product has as many events as a version can count.
    VersionLimitReached,
}

/// Why a command has no outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Logged already. The command may have been committed.
    #[error("the command database is unavailable")]
    Unavailable,
    /// Not logged yet.
    #[error("{0}")]
    Internal(String),
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Error {
        if database::is_outage(&error) {
            warn!("the command database is unavailable: {error}");
            Error::Unavailable
        } else {
            Error::Internal(error.to_string())
        }
    }
}

/// The row after a command, or everything that is wrong with the command.
pub type Outcome<Row> = Result<Result<Row, Vec<Rejection>>, Error>;

/// The commands for clients and products.
#[derive(Clone)]
pub struct Commands {
    db: DatabaseConnection,
    currency: Currency,
    /// The relay's fast path for committed events.
    outgoing: mpsc::Sender<Outgoing>,
}

impl Commands {
    pub fn new(db: DatabaseConnection, currency: Currency, outgoing: mpsc::Sender<Outgoing>) -> Commands {
        Commands { db, currency, outgoing }
    }

    /// Writes the event and commits.
    async fn commit(&self, transaction: DatabaseTransaction, event: order_event::Model) -> Result<(), DbErr> {
        let (outgoing, pending) = (Outgoing::of(&event), outbox::Model { event_id: event.id });
        order_event::Entity::insert(as_new(event)).exec_without_returning(&transaction).await?;
        outbox::Entity::insert(as_new(pending)).exec_without_returning(&transaction).await?;
        crash_point(crash_points::CHANGE_BEFORE_COMMIT);
        transaction.commit().await?;
        // When the fast path is full, the relay's poll finds the event.
        let _ = self.outgoing.try_send(outgoing);
        Ok(())
    }
}

fn new_event(
    r#type: &str,
    subject: Subject,
    version: i32,
    data: &impl serde::Serialize,
    traceparent: Option<String>,
) -> order_event::Model {
    let (client_id, product_id) = match subject {
        Subject::Client(id) => (Some(id), None),
        Subject::Product(id) => (None, Some(id)),
    };
    order_event::Model {
        id: Uuid::now_v7(),
        client_id,
        product_id,
        version,
        r#type: r#type.to_owned(),
        payload: serde_json::to_value(data).expect("names and numbers always serialise"),
        occurred_at: Utc::now().trunc_subsecs(3),
        traceparent,
    }
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
fn both<A, B>(one: Result<A, Rejection>, other: Result<B, Rejection>) -> Result<(A, B), Vec<Rejection>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => Err(one.err().into_iter().chain(other.err()).collect()),
    }
}

/// Trims a name. Control characters are rejected because PostgreSQL cannot store all of them, and invisible ones because two
/// names that look the same, or a text whose direction is reversed, mislead people.
fn valid_name(name: &str) -> Result<String, Rejection> {
    let name = name.trim();
    let is_allowed = |character: char| !character.is_control() && !is_invisible(character);
    let has_visible = name.chars().any(|character| !is_variation_selector(character));
    let is_valid = name.chars().count() <= MAX_NAME && has_visible && name.chars().all(is_allowed);
    if is_valid { Ok(name.to_owned()) } else { Err(Rejection::InvalidName) }
}

/// Characters that show nothing: `Default_Ignorable_Code_Point` of Unicode without variation selectors, line separators,
/// annotations and the blank of Braille. Space is visible between others.
/// <https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt>
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Chooses the form of the character before it, as in many emoji.
fn is_variation_selector(character: char) -> bool {
    matches!(character, '\u{fe00}'..='\u{fe0f}')
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
        for name in ["Zoë", "Zoe\u{308}", "木村 花子", "Gift ❤\u{fe0f}", "O'Neil-Smith & Co. (№ 7)", "محمد", "★"]
        {
            assert_eq!(valid_name(name), Ok(name.into()), "{name:?}");
        }
        let invisible = "\u{ad}\u{34f}\u{61c}\u{115f}\u{180e}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{2028}\u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{206f}\u{2800}\u{3164}\u{feff}\u{ffa0}\u{fffb}\u{1d173}\u{e0001}\u{e0041}\u{85}\u{7f}";
        for character in invisible.chars() {
            for name in [format!("B{character}ob"), character.to_string()] {
                assert_eq!(valid_name(&name), Err(Rejection::InvalidName), "{name:?}");
            }
        }
        assert_eq!(valid_name("\u{fe0f}\u{fe0e}"), Err(Rejection::InvalidName), "nothing is visible");
    }
}
