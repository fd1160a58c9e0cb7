//! Clients and products: registering and changing them, each in a transaction with its event.

use chrono::{SubsecRound, Utc};
use email_address::{EmailAddress, Options};
use entity::event::{CLIENT_REGISTERED, CLIENT_UPDATED, MAX_NAME, MAX_TOTAL, PRICE_CHANGED, PRODUCT_CREATED};
use entity::{ClientChanged, ProductChanged, Subject, client, order_event, outbox, product};
use iso_currency::Currency;
use runtime::{crash_point, crash_points};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveValue, ColumnTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect,
    SqlErr, TransactionTrait,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::commands::place_order::as_new;
use crate::graphql::error::Error;
use crate::outbox::relay::Outgoing;

/// Where clients and products are registered and changed.
#[derive(Clone)]
pub struct MasterData {
    db: DatabaseConnection,
    currency: Currency,
    /// Where events go that were committed.
    outgoing: mpsc::Sender<Outgoing>,
}

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    NotFound,
    InvalidName,
    InvalidEmail,
    EmailTaken,
    PriceOutOfRange,
}

type Outcome<Row> = Result<Result<Row, Vec<Fault>>, Error>;

impl MasterData {
    pub fn new(db: DatabaseConnection, currency: Currency, outgoing: mpsc::Sender<Outgoing>) -> MasterData {
        MasterData { db, currency, outgoing }
    }

    pub async fn register_client(
        &self,
        name: &str,
        email: &str,
        traceparent: Option<String>,
    ) -> Outcome<client::Model> {
        let (name, email) = match both(valid_name(name), valid_email(email)) {
            Ok(valid) => valid,
            Err(faults) => return Ok(Err(faults)),
        };
        let transaction = self.db.begin().await?;
        let new = client::ActiveModel {
            id: ActiveValue::NotSet,
            name: ActiveValue::Set(name),
            email: ActiveValue::Set(email),
            version: ActiveValue::Set(1),
        };
        match client::Entity::insert(new).exec_with_returning(&transaction).await {
            Ok(client) => {
                self.commit(transaction, event_of_client(CLIENT_REGISTERED, &client, traceparent)).await?;
                Ok(Ok(client))
            }
            Err(error) => is_taken(error),
        }
    }

    /// What is `None` stays. Where nothing changes there is no event.
    pub async fn update_client(
        &self,
        id: i64,
        name: Option<&str>,
        email: Option<&str>,
        traceparent: Option<String>,
    ) -> Outcome<client::Model> {
        let (name, email) = match both(name.map(valid_name).transpose(), email.map(valid_email).transpose()) {
            Ok(valid) => valid,
            Err(faults) => return Ok(Err(faults)),
        };
        let transaction = self.db.begin().await?;
        // Orders of the client wait: its versions have no gap.
        let Some(mut client) = client::Entity::find_by_id(id).lock_exclusive().one(&transaction).await? else {
            return Ok(Err(vec![Fault::NotFound]));
        };
        let before = client.clone();
        client.name = name.unwrap_or(client.name);
        client.email = email.unwrap_or(client.email);
        if client == before {
            return Ok(Ok(client));
        }
        client.version += 1;
        let update = client::Entity::update_many().filter(client::Column::Id.eq(id));
        let update = update.col_expr(client::Column::Name, Expr::val(client.name.clone()));
        let update = update.col_expr(client::Column::Email, Expr::val(client.email.clone()));
        match update.col_expr(client::Column::Version, Expr::val(client.version)).exec(&transaction).await {
            Ok(_) => {
                self.commit(transaction, event_of_client(CLIENT_UPDATED, &client, traceparent)).await?;
                Ok(Ok(client))
            }
            Err(error) => is_taken(error),
        }
    }

    /// `price` is in minor units, `None` when it could not be read.
    pub async fn create_product(
        &self,
        name: &str,
        price: Option<i64>,
        traceparent: Option<String>,
    ) -> Outcome<product::Model> {
        let (name, price) = match both(valid_name(name), valid_price(price)) {
            Ok(valid) => valid,
            Err(faults) => return Ok(Err(faults)),
        };
        let transaction = self.db.begin().await?;
        let new = product::ActiveModel {
            id: ActiveValue::NotSet,
            name: ActiveValue::Set(name),
            price: ActiveValue::Set(price),
            version: ActiveValue::Set(1),
        };
        let product = product::Entity::insert(new).exec_with_returning(&transaction).await?;
        self.commit(transaction, self.event_of_product(PRODUCT_CREATED, &product, traceparent)).await?;
        Ok(Ok(product))
    }

    /// The same of `price`. Where nothing changes there is no event.
    pub async fn change_price(
        &self,
        id: i64,
        price: Option<i64>,
        traceparent: Option<String>,
    ) -> Outcome<product::Model> {
        let transaction = self.db.begin().await?;
        let found = product::Entity::find_by_id(id).lock_exclusive().one(&transaction).await?;
        let (mut product, price) = match both(found.ok_or(Fault::NotFound), valid_price(price)) {
            Ok(valid) => valid,
            Err(faults) => return Ok(Err(faults)),
        };
        if product.price == price {
            return Ok(Ok(product));
        }
        (product.price, product.version) = (price, product.version + 1);
        product::Entity::update_many()
            .col_expr(product::Column::Price, Expr::val(product.price))
            .col_expr(product::Column::Version, Expr::val(product.version))
            .filter(product::Column::Id.eq(id))
            .exec(&transaction)
            .await?;
        self.commit(transaction, self.event_of_product(PRICE_CHANGED, &product, traceparent)).await?;
        Ok(Ok(product))
    }

    async fn commit(&self, transaction: DatabaseTransaction, event: order_event::Model) -> Result<(), DbErr> {
        let outgoing = Outgoing::of(&event);
        let pending = outbox::Model { event_id: event.id };
        order_event::Entity::insert(as_new(event)).exec_without_returning(&transaction).await?;
        outbox::Entity::insert(as_new(pending)).exec_without_returning(&transaction).await?;
        crash_point(crash_points::CHANGE_BEFORE_COMMIT);
        transaction.commit().await?;
        // Where it does not fit, it is found in the outbox.
        let _ = self.outgoing.try_send(outgoing);
        Ok(())
    }

    fn event_of_product(
        &self,
        r#type: &str,
        product: &product::Model,
        traceparent: Option<String>,
    ) -> order_event::Model {
        let data = ProductChanged {
            product_id: product.id,
            name: product.name.clone(),
            price: product.price,
            currency: self.currency.code().to_owned(),
        };
        event(r#type, Subject::Product(product.id), product.version, &data, traceparent)
    }
}

fn event_of_client(r#type: &str, client: &client::Model, traceparent: Option<String>) -> order_event::Model {
    let data =
        ClientChanged { client_id: client.id, client_name: client.name.clone(), client_email: client.email.clone() };
    event(r#type, Subject::Client(client.id), client.version, &data, traceparent)
}

fn event(
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

fn both<A, B>(one: Result<A, Fault>, other: Result<B, Fault>) -> Result<(A, B), Vec<Fault>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => Err(one.err().into_iter().chain(other.err()).collect()),
    }
}

/// Control characters are refused because PostgreSQL cannot store all of them.
fn valid_name(name: &str) -> Result<String, Fault> {
    let name = name.trim();
    let is_valid = (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if is_valid { Ok(name.to_owned()) } else { Err(Fault::InvalidName) }
}

/// In small letters: servers that tell `Bob@` from `bob@` are rarer than people who do not.
fn valid_email(email: &str) -> Result<String, Fault> {
    let (email, options) = (email.trim().to_lowercase(), Options::default().without_display_text());
    let is_valid = email.chars().count() <= MAX_NAME && !email.chars().any(char::is_control);
    let options = options.with_required_tld().without_domain_literal();
    match EmailAddress::parse_with_options(&email, options) {
        Ok(_) if is_valid => Ok(email),
        _ => Err(Fault::InvalidEmail),
    }
}

fn valid_price(price: Option<i64>) -> Result<i64, Fault> {
    price.filter(|price| (0..=MAX_TOTAL).contains(price)).ok_or(Fault::PriceOutOfRange)
}

/// What the index of e-mail addresses says. Ids may be refused as well: where somebody has set the sequence back.
fn is_taken<Row>(error: DbErr) -> Outcome<Row> {
    match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(what)) if what.contains("email") => Ok(Err(vec![Fault::EmailTaken])),
        _ => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_address_has_one_spelling() {
        assert_eq!(valid_email(" Bob.O'Neil+shop@Example.COM "), Ok("bob.o'neil+shop@example.com".into()));
        assert_eq!(valid_email("zoë@exämple.com"), Ok("zoë@exämple.com".into()));
        let long = format!("{}@example.com", "x".repeat(MAX_NAME));
        for email in ["", "bob", "bob@", "@example.com", "bob@localhost", "bob@[127.0.0.1]", "a b@example.com", &long] {
            assert_eq!(valid_email(email), Err(Fault::InvalidEmail), "{email}");
        }
        for email in ["Bob <bob@example.com>", "bob@example.com\r\nBcc: x@example.com", "bob@exa\0mple.com"] {
            assert_eq!(valid_email(email), Err(Fault::InvalidEmail), "{email}");
        }
    }

    #[test]
    fn a_name_has_1_to_200_characters() {
        assert_eq!(valid_name("  Bob \u{1f600} "), Ok("Bob \u{1f600}".into()));
        assert_eq!(valid_name(&"\u{e4}".repeat(MAX_NAME)), Ok("\u{e4}".repeat(MAX_NAME)));
        for name in ["", "   ", "a\0b", "a\nb", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(valid_name(name), Err(Fault::InvalidName), "{name:?}");
        }
    }
}
