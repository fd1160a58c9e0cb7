//! Idempotency keys, for all mutations: a repeated request gets the result of the first one, and writes nothing.
//!
//! A key belongs to a [`Scope`]. [`Commands::claim`] looks it up and stores it in one statement. Call it before the rules that
//! depend on the state of the database, and
//! - behind the lock of the client or product, so that concurrent requests with the same key wait for the lock, or
//! - first in the transaction of a command that creates: concurrent requests with the same key wait for its row.
//!
//! If the command is rejected, its transaction is rolled back and the key is free again. The row names the event with the result, and
//! has a hash of the input: the event says what a client or product was then, but not what the request changed. Orders are placed in
//! batches, which read and write the same table with statements of their own. The event of an order has its input.
//!
//! ```ignore
//! if let Some(earlier) = self.claim(&transaction, &key, &price, event_id).await? {
//!     return Ok(earlier.replay(product_of, |product| product.price == price));
//! }
//! ```

use entity::{Event, Subject, idempotency_key, order_event, rejected_order};
use runtime::database::is_one_of;
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, QueryFilter, QuerySelect};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::{MutexGuard, OwnedSemaphorePermit};
use uuid::Uuid;

use super::{Commands, Origin, Rejection, as_new};

pub const MAX_KEY_CHARACTERS: usize = 255;
/// The name of the command in `idempotency_keys`.
pub const REFUND_ORDER: &str = "refundOrder";

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

    /// The key is part of it, so that nobody can find out the input by trying likely ones. The input of a command must keep its form,
    /// or requests that are repeated after an upgrade are refused.
    fn hash_of(&self, input: &impl Serialize) -> String {
        hash(&(&self.scope, &self.key, self.command, input))
    }
}

fn hash(value: &impl Serialize) -> String {
    format!("{:x}", Sha256::digest(serde_json::to_vec(value).expect("texts and numbers always serialise")))
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

    pub fn map<Other>(self, change: impl FnOnce(Row) -> Other) -> Done<Other> {
        Done { row: change(self.row), replayed: self.replayed }
    }
}

/// A request that used the key before.
pub struct Earlier {
    is_same_command: bool,
    /// `None` if no hash of its input is stored.
    is_same_input: Option<bool>,
    event: Event,
}

impl Earlier {
    /// The result of the earlier request, which `result` reads from its event. `agrees` says whether the input of this request agrees
    /// with the result, and is called if no hash of the earlier input is stored.
    pub fn replay<Row>(
        self,
        result: impl FnOnce(&Event) -> Option<Row>,
        agrees: impl FnOnce(&Row) -> bool,
    ) -> Result<Done<Row>, Vec<Rejection>> {
        let is_same = |row: &Row| self.is_same_command && self.is_same_input.unwrap_or_else(|| agrees(row));
        match result(&self.event).filter(is_same) {
            Some(row) => Ok(Done { row, replayed: true }),
            None => Err(vec![Rejection::IdempotencyKeyReused]),
        }
    }
}

impl Commands {
    /// As [`Commands::turn`], for a command that creates. It has a turn if it has a key.
    pub(super) async fn turn_of_key(&self, key: &Option<Key>) -> (Option<MutexGuard<'_, ()>>, OwnedSemaphorePermit) {
        let Some(key) = key else { return (None, self.connections.acquire().await) };
        let (turn, permit) = self.turn(&(&key.scope, &key.key)).await;
        (Some(turn), permit)
    }

    /// Stores the key for the event that the command is about to write, unless an earlier request has used it. Then nothing of the
    /// transaction may be committed.
    pub async fn claim(
        &self,
        db: &impl ConnectionTrait,
        key: &Option<Key>,
        input: &impl Serialize,
        event: Uuid,
    ) -> Result<Option<Earlier>, DbErr> {
        use idempotency_key::{Column, Entity, Model};
        let Some(key) = key else { return Ok(None) };
        let (input_hash, Key { scope, key, command }) = (Some(key.hash_of(input)), key.clone());
        let damaged = |why: String| DbErr::Custom(format!("the result of an idempotency key in {scope}: {why}"));
        let of_forgotten = forgotten_id(&scope, &key);
        let claimed = Model { scope: scope.clone(), key, command: command.to_owned(), event_id: event, input_hash };
        let conflict = OnConflict::columns([Column::Scope, Column::Key]).do_nothing().to_owned();
        let (mut earlier, mut attempts) = (None, 0);
        // A second time if the row was deleted between the two statements, because its client was forgotten.
        while earlier.is_none() && attempts < 2 {
            let insert = Entity::insert(as_new(claimed.clone())).on_conflict(conflict.clone());
            if insert.exec_without_returning(db).await? > 0 {
                earlier = Entity::find_by_id(of_forgotten.clone()).one(db).await?;
                if earlier.is_none() {
                    return Ok(None);
                }
            } else {
                earlier = Entity::find_by_id((scope.clone(), claimed.key.clone())).one(db).await?;
            }
            attempts += 1;
        }
        let row = earlier.ok_or_else(|| damaged("no row".into()))?;
        let is_same_input = row.input_hash.as_ref().map(|_| row.input_hash == claimed.input_hash);
        let event = order_event::Entity::find_by_id(row.event_id).one(db).await?;
        let event = event.ok_or_else(|| damaged("no event".into()))?;
        let event = Event::from_row(event, self.currency.code()).map_err(|error| damaged(error.to_string()))?;
        Ok(Some(Earlier { is_same_command: row.command == command, is_same_input, event }))
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

/// The scope of keys of forgotten clients.
const FORGOTTEN: &str = "forgotten";
/// Rows of one statement.
const ROWS_AT_ONCE: u64 = 1_000;

/// The primary key of a row after its client was forgotten.
fn forgotten_id(scope: &str, key: &str) -> (String, String) {
    (FORGOTTEN.to_owned(), hash(&(scope, key)))
}

/// Removes the idempotency keys of a client that is forgotten, except its `own`, because callers choose them. Keys of requests that
/// could be executed again, refunds and its registration, are replaced by hashes.
pub(super) async fn mask_keys(db: &impl ConnectionTrait, client: i64, own: &Option<Key>) -> Result<(), DbErr> {
    use idempotency_key::{Column, Entity};
    let scope = Scope::Of(Subject::Client(client)).name();
    let others = Column::Key.ne(own.as_ref().map(Key::text).unwrap_or_default());
    let of_client = Entity::find().filter(Column::Scope.eq(&scope)).filter(Column::Command.eq(REFUND_ORDER));
    loop {
        let refunds = of_client.clone().limit(ROWS_AT_ONCE).all(db).await?;
        if refunds.is_empty() {
            break;
        }
        let keys = refunds.iter().map(|row| row.key.clone());
        Entity::delete_many()
            .filter(Column::Scope.eq(&scope))
            .filter(is_one_of(db, Column::Key, keys))
            .exec(db)
            .await?;
        insert_masked(db, refunds).await?;
    }
    Entity::delete_many().filter(Column::Scope.eq(&scope)).filter(others).exec(db).await?;
    rejected_order::Entity::delete_many().filter(rejected_order::Column::ClientId.eq(client)).exec(db).await?;

    let first = order_event::Entity::find().select_only().column(order_event::Column::Id);
    let first = first.filter(order_event::Column::ClientId.eq(client)).filter(order_event::Column::Version.eq(1));
    if let Some(registration) = first.into_tuple::<Uuid>().one(db).await? {
        // As the partial index has it.
        let of_creation = Column::EventId.eq(registration).and(Expr::cust("substr(scope, 1, 7) = 'caller '"));
        let registrations = Entity::find().filter(of_creation.clone()).limit(ROWS_AT_ONCE).all(db).await?;
        Entity::delete_many().filter(of_creation).exec(db).await?;
        insert_masked(db, registrations).await?;
    }
    Ok(())
}

async fn insert_masked(db: &impl ConnectionTrait, rows: Vec<idempotency_key::Model>) -> Result<(), DbErr> {
    let masked = rows.into_iter().map(|row| {
        let (scope, key) = forgotten_id(&row.scope, &row.key);
        as_new(idempotency_key::Model { scope, key, ..row })
    });
    let masked: Vec<idempotency_key::ActiveModel> = masked.collect();
    if !masked.is_empty() {
        idempotency_key::Entity::insert_many(masked).exec_without_returning(db).await?;
    }
    Ok(())
}
