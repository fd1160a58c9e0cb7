//! Creating, changing and withdrawing products.

use chrono::{DateTime, Utc};
use entity::event::{MAX_TOTAL, PRODUCT_CREATED, PRODUCT_UPDATED, is_sku};
use entity::{Change, Event, ProductChanged, Subject, order_event, product};
use sea_orm::sea_query::{Expr, ExprTrait, Func, LockType};
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect, SqlErr,
};
use uuid::Uuid;

use super::clock::{self, Timed, timed};
use super::database::begin;
use super::idempotency::{self, Done, Scope};
use super::{Commands, Origin, Outcome, Rejection, as_new, both, id_at, new_event, next_version, valid_name};

pub struct NewProduct {
    pub name: String,
    /// Minor units, `None` when it is not a valid amount.
    pub price: Option<i64>,
    pub available: bool,
    pub sku: Option<String>,
}

/// Changes of a product. `None` leaves an attribute as it is.
#[derive(Default)]
pub struct ProductUpdate {
    pub name: Option<String>,
    /// As in [`NewProduct`].
    pub price: Option<Option<i64>>,
    pub available: Option<bool>,
    pub sku: Option<String>,
}

impl Commands {
    pub async fn create_product(
        &self,
        new: NewProduct,
        key: Option<&str>,
        origin: Origin,
    ) -> Outcome<Done<product::Model>> {
        let NewProduct { name, price, available, sku } = new;
        let key = idempotency::key(&Scope::Caller(&origin), key, "createProduct");
        let sku = sku.map(valid_sku).transpose();
        let ((name, price), (sku, key)) = match both(both(valid_name(&name), valid_price(price)), both(sku, key)) {
            Ok(valid) => valid,
            Err(rejections) => return Ok(Err(rejections)),
        };
        let _turn = self.turn_of_key(&key).await;
        let transaction = begin(&self.db).await?;
        let time = clock::now(&transaction).await?;
        let event_id = id_at(time);
        let input = (&name, price, available, &sku);
        if let Some(earlier) = self.claim(&transaction, &key, &input, event_id).await? {
            let agrees = |product: &product::Model| {
                product.name == name && product.price == price && product.available == available && product.sku == sku
            };
            return Ok(earlier.replay(product_of, agrees));
        }
        let new = product::ActiveModel {
            id: ActiveValue::NotSet,
            name: ActiveValue::Set(name),
            price: ActiveValue::Set(price),
            available: ActiveValue::Set(available),
            sku: ActiveValue::Set(sku),
            version: ActiveValue::Set(1),
        };
        match product::Entity::insert(new).exec_with_returning(&transaction).await {
            Ok(product) => {
                self.commit(transaction, self.event(event_id, PRODUCT_CREATED, &product, time, origin)).await?;
                Ok(Ok(Done::now(product)))
            }
            Err(error) => sku_taken(error),
        }
    }

    /// An update that changes nothing writes no event. An `id` of `None` names no product.
    ///
    /// An order takes the price and the availability that it reads in its transaction. So an order that is sent after the update
    /// has returned sees it, and an order that runs at the same time may not. It does not wait for the update: a lock on the
    /// product, even a shared one, would make all orders write its row.
    pub async fn update_product(
        &self,
        id: Option<i64>,
        update: ProductUpdate,
        key: Option<&str>,
        origin: Origin,
    ) -> Outcome<Done<product::Model>> {
        let subject = Subject::Product(id.unwrap_or_default());
        let valid = both(update.valid(), idempotency::key(&Scope::Of(subject), key, "updateProduct"));
        let _turn = self.turn(&subject).await;
        let transaction = begin(&self.db).await?;
        let found = match id {
            // `FOR UPDATE` would make orders wait, because their items refer to the product.
            Some(id) => {
                let locking = product::Entity::find_by_id(id).lock(LockType::NoKeyUpdate);
                timed(&transaction, locking).one(&transaction).await?
            }
            None => None,
        };
        let not_found = Rejection::ProductNotFound { item: None };
        let (Timed { row: before, time }, (changes, key)) = match both(found.ok_or(not_found), valid) {
            Ok(valid) => valid,
            Err(rejections) => return Ok(Err(rejections)),
        };
        let event_id = id_at(time);
        let Changes { name, price, available, sku } = &changes;
        if let Some(earlier) = self.claim(&transaction, &key, &(name, price, available, sku), event_id).await? {
            return Ok(earlier.replay(product_of, |product| changes.made_to(product.clone()) == *product));
        }
        let mut product = changes.made_to(before.clone());
        if product == before {
            self.claim_unchanged(&transaction, &key, subject, product.version).await?;
            transaction.commit().await?;
            return Ok(Ok(Done::now(product)));
        }
        product.version = match next_version(product.version) {
            Ok(version) => version,
            Err(rejection) => return Ok(Err(vec![rejection])),
        };
        if product.sku != before.sku && is_taken(&transaction, &product).await? {
            return Ok(Err(vec![Rejection::SkuTaken]));
        }
        match as_new(product).update(&transaction).await {
            Ok(product) => {
                self.commit(transaction, self.event(event_id, PRODUCT_UPDATED, &product, time, origin)).await?;
                Ok(Ok(Done::now(product)))
            }
            Err(error) => sku_taken(error),
        }
    }

    fn event(
        &self,
        id: Uuid,
        r#type: &str,
        product: &product::Model,
        time: DateTime<Utc>,
        origin: Origin,
    ) -> order_event::Model {
        let data = ProductChanged {
            product_id: product.id,
            name: product.name.clone(),
            price: product.price,
            currency: self.currency.code().to_owned(),
            available: product.available,
            sku: product.sku.clone(),
        };
        new_event(id, r#type, Subject::Product(product.id), product.version, &data, time, origin)
    }
}

/// Valid changes of a product. `None` leaves an attribute as it is.
struct Changes {
    name: Option<String>,
    price: Option<i64>,
    available: Option<bool>,
    sku: Option<String>,
}

impl ProductUpdate {
    fn valid(self) -> Result<Changes, Vec<Rejection>> {
        let ProductUpdate { name, price, available, sku } = self;
        let (name, price) = (name.as_deref().map(valid_name).transpose(), price.map(valid_price).transpose());
        let ((name, price), sku) = both(both(name, price), sku.map(valid_sku).transpose())?;
        Ok(Changes { name, price, available, sku })
    }
}

impl Changes {
    fn made_to(&self, product: product::Model) -> product::Model {
        product::Model {
            name: self.name.clone().unwrap_or(product.name),
            price: self.price.unwrap_or(product.price),
            available: self.available.unwrap_or(product.available),
            sku: self.sku.clone().or(product.sku),
            ..product
        }
    }
}

/// The product after one of its events.
fn product_of(event: &Event) -> Option<product::Model> {
    let Change::Product(product) = &event.data else { return None };
    let ProductChanged { product_id: id, name, price, available, sku, .. } = product.clone();
    Some(product::Model { id, name, price, available, sku, version: event.version })
}

fn valid_price(price: Option<i64>) -> Result<i64, Rejection> {
    price.filter(|price| (0..=MAX_TOTAL).contains(price)).ok_or(Rejection::PriceOutOfRange)
}

/// Trims a SKU. It keeps its case, but another product cannot have it in another case.
fn valid_sku(sku: String) -> Result<String, Rejection> {
    let sku = sku.trim();
    if is_sku(sku) { Ok(sku.to_owned()) } else { Err(Rejection::InvalidSku) }
}

/// Whether another product has the SKU. Without this question, two products that swap their SKUs at the same time would each wait for the
/// row of the other, and PostgreSQL would end one of the transactions after a second.
async fn is_taken(db: &impl ConnectionTrait, product: &product::Model) -> Result<bool, DbErr> {
    let Some(sku) = &product.sku else { return Ok(false) };
    let has_sku = Func::lower(Expr::col(product::Column::Sku)).eq(sku.to_ascii_lowercase());
    let others = product::Entity::find().select_only().column(product::Column::Id);
    let others = others.filter(has_sku).filter(product::Column::Id.ne(product.id));
    Ok(others.into_tuple::<i64>().one(db).await?.is_some())
}

/// Maps a violation of the unique index of SKUs.
fn sku_taken<Row>(error: DbErr) -> Outcome<Row> {
    match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(what)) if what.contains("sku") => Ok(Err(vec![Rejection::SkuTaken])),
        _ => Err(error.into()),
    }
}
