//! Registering and updating clients.

use chrono::{DateTime, Utc};
use email_address::{EmailAddress, Options};
use entity::event::{CLIENT_REGISTERED, CLIENT_UPDATED, ClientDetails, MAX_NAME};
use entity::{ClientChanged, Event, Subject, client, order_event};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ActiveValue, ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect,
    SqlErr,
};
use uuid::Uuid;

use super::clock::{self, Timed, timed};
use super::database::begin;
use super::idempotency::{self, Done, Scope};
use super::{Commands, Origin, Outcome, Rejection, both, id_at, new_event, next_version, valid_name};

impl Commands {
    pub async fn register_client(
        &self,
        name: &str,
        email: &str,
        key: Option<&str>,
        origin: Origin,
    ) -> Outcome<Done<client::Model>> {
        let key = idempotency::key(&Scope::Caller(&origin), key, "registerClient");
        let ((name, email), key) = match both(both(valid_name(name), valid_email(email)), key) {
            Ok(valid) => valid,
            Err(rejections) => return Ok(Err(rejections)),
        };
        let _turn = self.turn_of_key(&key).await;
        let transaction = begin(&self.db).await?;
        let time = clock::now(&transaction).await?;
        let event_id = id_at(time);
        if let Some(earlier) = self.claim(&transaction, &key, &(&name, &email), event_id).await? {
            return Ok(earlier.replay(client_of, |client| client.name == name && client.email == email));
        }
        let new = client::ActiveModel {
            id: ActiveValue::NotSet,
            name: ActiveValue::Set(name),
            email: ActiveValue::Set(email),
            version: ActiveValue::Set(1),
            forgotten_at: ActiveValue::Set(None),
        };
        // Without an error, because PostgreSQL would log it with the address.
        let unless_taken = OnConflict::column(client::Column::Email).do_nothing().to_owned();
        match client::Entity::insert(new).on_conflict(unless_taken).exec_with_returning(&transaction).await {
            Ok(client) => {
                self.commit(transaction, event(event_id, CLIENT_REGISTERED, &client, time, origin)).await?;
                Ok(Ok(Done::now(client)))
            }
            // No row was inserted.
            Err(DbErr::RecordNotFound(_)) => Ok(Err(vec![Rejection::EmailTaken])),
            Err(error) => Err(error.into()),
        }
    }

    /// `None` leaves a field as it is. An update that changes nothing writes no event. An `id` of `None` names no client.
    pub async fn update_client(
        &self,
        id: Option<i64>,
        name: Option<&str>,
        email: Option<&str>,
        key: Option<&str>,
        origin: Origin,
    ) -> Outcome<Done<client::Model>> {
        let subject = Subject::Client(id.unwrap_or_default());
        let key = idempotency::key(&Scope::Of(subject), key, "updateClient");
        let details = both(name.map(valid_name).transpose(), email.map(valid_email).transpose());
        let ((name, email), key) = match both(details, key) {
            Ok(valid) => valid,
            Err(rejections) => return Ok(Err(rejections)),
        };
        let Some(id) = id else { return Ok(Err(vec![Rejection::ClientNotFound])) };
        let _turn = self.turn(&subject).await;
        let transaction = begin(&self.db).await?;
        // Orders of the client wait for the lock, so that its versions have no gap.
        let locked = timed(&transaction, client::Entity::find_by_id(id).lock_exclusive()).one(&transaction).await?;
        let Some(Timed { row: mut client, time }) = locked else {
            return Ok(Err(vec![Rejection::ClientNotFound]));
        };
        let event_id = id_at(time);
        if let Some(earlier) = self.claim(&transaction, &key, &(&name, &email), event_id).await? {
            let agrees = |client: &client::Model| {
                name.as_ref().is_none_or(|name| *name == client.name)
                    && email.as_ref().is_none_or(|email| *email == client.email)
            };
            return Ok(earlier.replay(client_of, agrees));
        }
        if client.forgotten_at.is_some() {
            return Ok(Err(vec![Rejection::ClientForgotten]));
        }
        let before = client.clone();
        client.name = name.unwrap_or(client.name);
        client.email = email.unwrap_or(client.email);
        if client == before {
            self.claim_unchanged(&transaction, &key, subject, client.version).await?;
            transaction.commit().await?;
            return Ok(Ok(Done::now(client)));
        }
        client.version = match next_version(client.version) {
            Ok(version) => version,
            Err(rejection) => return Ok(Err(vec![rejection])),
        };
        if client.email != before.email && is_taken(&transaction, &client.email).await? {
            return Ok(Err(vec![Rejection::EmailTaken]));
        }
        match update_row(&transaction, &client).await {
            Ok(()) => {
                self.commit(transaction, event(event_id, CLIENT_UPDATED, &client, time, origin)).await?;
                Ok(Ok(Done::now(client)))
            }
            Err(error) => email_taken(error),
        }
    }
}

/// After an event of an order of the client.
pub(super) async fn raise_version(db: &impl ConnectionTrait, client: i64, version: i32) -> Result<(), DbErr> {
    let raise = client::Entity::update_many().col_expr(client::Column::Version, Expr::val(version));
    raise.filter(client::Column::Id.eq(client)).exec(db).await.map(drop)
}

/// PostgreSQL logs the address if an update finds it taken, which happens only if another request takes it meanwhile.
async fn is_taken(db: &impl ConnectionTrait, email: &str) -> Result<bool, DbErr> {
    let owner = client::Entity::find().select_only().column(client::Column::Id);
    let owner = owner.filter(client::Column::Email.eq(email)).into_tuple::<i64>().one(db).await?;
    Ok(owner.is_some())
}

async fn update_row(transaction: &DatabaseTransaction, client: &client::Model) -> Result<(), DbErr> {
    let update = client::Entity::update_many().filter(client::Column::Id.eq(client.id));
    let update = update.col_expr(client::Column::Name, Expr::val(client.name.clone()));
    let update = update.col_expr(client::Column::Email, Expr::val(client.email.clone()));
    update.col_expr(client::Column::Version, Expr::val(client.version)).exec(transaction).await.map(drop)
}

fn event(id: Uuid, r#type: &str, client: &client::Model, time: DateTime<Utc>, origin: Origin) -> order_event::Model {
    let data =
        ClientChanged { client_id: client.id, client_name: client.name.clone(), client_email: client.email.clone() };
    new_event(id, r#type, Subject::Client(client.id), client.version, &data, time, origin)
}

/// The client after one of its events.
pub(super) fn client_of(event: &Event) -> Option<client::Model> {
    let ClientDetails { id, name, email } = event.client()?;
    let (name, email) = (name.to_owned(), email.to_owned());
    Some(client::Model { id, name, email, version: event.version, forgotten_at: None })
}

/// Trims an address and converts it to lower case: few servers distinguish `Bob@` from `bob@`, and many people do not. Only ASCII
/// is allowed, because other letters can look the same and have several spellings.
pub fn valid_email(email: &str) -> Result<String, Rejection> {
    let (email, options) = (email.trim().to_ascii_lowercase(), Options::default().without_display_text());
    let is_valid = email.len() <= MAX_NAME && email.is_ascii() && !email.contains(|c: char| c.is_ascii_control());
    let options = options.with_required_tld().without_domain_literal();
    match EmailAddress::parse_with_options(&email, options) {
        Ok(_) if is_valid => Ok(email),
        _ => Err(Rejection::InvalidEmail),
    }
}

/// Maps a violation of the unique index of e-mail addresses. The primary key can be violated too, by a sequence that was
/// reset: that is an error.
fn email_taken<Row>(error: DbErr) -> Outcome<Row> {
    match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(what)) if what.contains("email") => Ok(Err(vec![Rejection::EmailTaken])),
        _ => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_address_has_one_spelling() {
        assert_eq!(valid_email(" Bob.O'Neil+shop@Example.COM "), Ok("bob.o'neil+shop@example.com".into()));
        assert_eq!(valid_email("zoe@xn--exmple-cua.com"), Ok("zoe@xn--exmple-cua.com".into()));
        let long = format!("{}@example.com", "x".repeat(MAX_NAME));
        for email in ["", "bob", "bob@", "@example.com", "bob@localhost", "bob@[127.0.0.1]", "a b@example.com", &long] {
            assert_eq!(valid_email(email), Err(Rejection::InvalidEmail), "{email}");
        }
        for email in ["zoë@example.com", "zoe@exämple.com", "b\u{43e}b@example.com", "bob\u{200b}@example.com"] {
            assert_eq!(valid_email(email), Err(Rejection::InvalidEmail), "{email}");
        }
        for email in ["Bob <bob@example.com>", "bob@example.com\r\nBcc: x@example.com", "bob@exa\0mple.com"] {
            assert_eq!(valid_email(email), Err(Rejection::InvalidEmail), "{email}");
        }
    }
}
