//! Idempotency keys, for all mutations: a repeated request gets the result of the first one, and writes nothing.
//!
//! A key belongs to a [`Scope`]. [`Commands::claim`] looks it up and stores it in one statement. Call it before the rules that
//! depend on the state of the database, and
//! - behind the lock of the client or product, so that concurrent requests with the same key wait for the lock, or
//! - first in the transaction of a command that creates: concurrent requests with the same key wait for its row.
//!
//! If the command is rejected, its transaction is rolled back and the key is free again. The row names the event with the result. A
//! repeated request is the same if its input agrees with that event; so no input is stored twice. Orders are placed in batches, which
//! read and write the same table with statements of their own.
//!
//! ```ignore
//! if let Some(earlier) = self.claim(&transaction, &key, event_id).await? {
//!     return Ok(earlier.replay(|event| product_of(event).filter(|product| product.price == price)));
//! }
//! ```

use entity::{Event, Subject, idempotency_key, order_event};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, QueryFilter};
use uuid::Uuid;

use super::{Commands, Origin, Rejection, as_new};

pub const MAX_KEY_CHARACTERS: usize = 255;

/// Within what a key is unique.
pub enum Scope<'a> {
    /// For a command on a client and its orders, or on a product.
    Of(Subject),
    /// For a command that creates: the sender of the request, so that nobody sees the results of others.
    Caller(&'a Origin),
}

impl Scope<'_> {
    pub fn name(&self) -> String {
        match self {
            Scope::Of(subject) => subject.to_string(),
            Scope::Caller(origin) => format!("caller {}", origin.actor.as_deref().unwrap_or_default()),
        }
    }
}

/// The valid key of a request.
#[derive(Clone, Debug)]
pub struct Key {
    scope: String,
    key: String,
    command: &'static str,
}

impl Key {
    pub fn text(&self) -> &str {
        &self.key
    }
}

/// The key of a request for a command, if it has one.
pub fn key(scope: &Scope, key: Option<&str>, command: &'static str) -> Result<Option<Key>, Rejection> {
    match key {
        None => Ok(None),
        Some(key) if is_valid_key(key) => Ok(Some(Key { scope: scope.name(), key: key.to_owned(), command })),
        Some(_) => Err(Rejection::InvalidIdempotencyKey),
    }
}

/// Control characters are rejected because PostgreSQL cannot store all of them.
pub fn is_valid_key(key: &str) -> bool {
    (1..=MAX_KEY_CHARACTERS).contains(&key.chars().count()) && !key.chars().any(char::is_control)
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<Row> {
    pub row: Row,
    /// Whether it is the result of an earlier request with the same idempotency key. Nothing was written now.
    pub replayed: bool,
}

impl<Row> Done<Row> {
    pub fn now(row: Row) -> Done<Row> {
        Done { row, replayed: false }
    }
}

/// A request that used the key before.
pub struct Earlier {
    is_same_command: bool,
    event: Event,
}

impl Earlier {
    /// The result of the earlier request. `result` reads it from the event, and returns `None` if the input of this request is another.
    pub fn replay<Row>(self, result: impl FnOnce(&Event) -> Option<Row>) -> Result<Done<Row>, Vec<Rejection>> {
        match result(&self.event).filter(|_| self.is_same_command) {
            Some(row) => Ok(Done { row, replayed: true }),
            None => Err(vec![Rejection::IdempotencyKeyReused]),
        }
    }
}

impl Commands {
    /// Stores the key for the event that the command is about to write, unless an earlier request has used it.
    pub async fn claim(
        &self,
        db: &impl ConnectionTrait,
        key: &Option<Key>,
        event: Uuid,
    ) -> Result<Option<Earlier>, DbErr> {
        use idempotency_key::{Column, Entity, Model};
        let Some(Key { scope, key, command }) = key.clone() else { return Ok(None) };
        let damaged = |why: String| DbErr::Custom(format!("the result of an idempotency key in {scope}: {why}"));
        let claimed = Model { scope: scope.clone(), key: key.clone(), command: command.to_owned(), event_id: event };
        let conflict = OnConflict::columns([Column::Scope, Column::Key]).do_nothing().to_owned();
        let (mut earlier, mut attempts) = (None, 0);
        // A second time if the row was deleted between the two statements, because its client was forgotten.
        while earlier.is_none() && attempts < 2 {
            let insert = Entity::insert(as_new(claimed.clone())).on_conflict(conflict.clone());
            if insert.exec_without_returning(db).await? > 0 {
                return Ok(None);
            }
            earlier = Entity::find_by_id((scope.clone(), key.clone())).one(db).await?;
            attempts += 1;
        }
        let row = earlier.ok_or_else(|| damaged("no row".into()))?;
        let event = order_event::Entity::find_by_id(row.event_id).one(db).await?;
        let event = event.ok_or_else(|| damaged("no event".into()))?;
        let event = Event::from_row(event, self.currency.code()).map_err(|error| damaged(error.to_string()))?;
        Ok(Some(Earlier { is_same_command: row.command == command, event }))
    }

    /// Lets a claimed key name the event of a client or product at a version, for a command that changes nothing.
    pub async fn claim_unchanged(
        &self,
        db: &impl ConnectionTrait,
        key: &Option<Key>,
        subject: Subject,
        version: i32,
    ) -> Result<(), DbErr> {
        use idempotency_key::{Column, Entity};
        let Some(Key { scope, key, .. }) = key else { return Ok(()) };
        let of_key = Column::Scope.eq(scope).and(Column::Key.eq(key));
        let of_subject = match subject {
            Subject::Client(id) => order_event::Column::ClientId.eq(id),
            Subject::Product(id) => order_event::Column::ProductId.eq(id),
        };
        let of_version =
            order_event::Entity::find().filter(of_subject).filter(order_event::Column::Version.eq(version));
        match of_version.one(db).await? {
            Some(event) => {
                let rename = Entity::update_many().col_expr(Column::EventId, Expr::val(event.id));
                rename.filter(of_key).exec(db).await?;
            }
            None => {
                Entity::delete_many().filter(of_key).exec(db).await?;
            }
        }
        Ok(())
    }
}
