//! Creating, changing and withdrawing products.

use entity::event::{MAX_TOTAL, PRODUCT_CREATED, PRODUCT_UPDATED, is_sku};
use entity::{ProductChanged, Subject, order_event, product};
use sea_orm::sea_query::LockType;
use sea_orm::{ActiveModelTrait, ActiveValue, DbErr, EntityTrait, QuerySelect, SqlErr};
use uuid::Uuid;

use super::database::begin;
use super::idempotency::Done;
use super::{Commands, Origin, Outcome, Rejection, as_new, new_event, next_version, valid_name};

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
    /// Not idempotent, except by its SKU.
    pub async fn create_product(&self, new: NewProduct, origin: Origin) -> Outcome<Done<product::Model>> {
        let NewProduct { name, price, available, sku } = new;
        let (name, price, sku) = match all(valid_name(&name), valid_price(price), sku.map(valid_sku).transpose()) {
            Ok(valid) => valid,
            Err(rejections) => return Ok(Err(rejections)),
        };
        let transaction = begin(&self.db).await?;
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
                self.commit(transaction, self.event(PRODUCT_CREATED, &product, origin)).await?;
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
        origin: Origin,
    ) -> Outcome<Done<product::Model>> {
        let ProductUpdate { name, price, available, sku } = update;
        let name = name.as_deref().map(valid_name).transpose();
        let valid = all(name, price.map(valid_price).transpose(), sku.map(valid_sku).transpose());
        let transaction = begin(&self.db).await?;
        let found = match id {
            // `FOR UPDATE` would make orders wait, because their items refer to the product.
            Some(id) => product::Entity::find_by_id(id).lock(LockType::NoKeyUpdate).one(&transaction).await?,
            None => None,
        };
        let (before, (name, price, sku)) = match (found, valid) {
            (Some(product), Ok(valid)) => (product, valid),
            (found, valid) => {
                let not_found = found.is_none().then_some(Rejection::ProductNotFound { item: None });
                return Ok(Err(not_found.into_iter().chain(valid.err().into_iter().flatten()).collect()));
            }
        };
        let mut product = product::Model {
            name: name.unwrap_or_else(|| before.name.clone()),
            price: price.unwrap_or(before.price),
            available: available.unwrap_or(before.available),
            sku: sku.or_else(|| before.sku.clone()),
            ..before
        };
        if product == before {
            return Ok(Ok(Done::now(product)));
        }
        product.version = match next_version(product.version) {
            Ok(version) => version,
            Err(rejection) => return Ok(Err(vec![rejection])),
        };
        match as_new(product).update(&transaction).await {
            Ok(product) => {
                self.commit(transaction, self.event(PRODUCT_UPDATED, &product, origin)).await?;
                Ok(Ok(Done::now(product)))
            }
            Err(error) => sku_taken(error),
        }
    }

    fn event(&self, r#type: &str, product: &product::Model, origin: Origin) -> order_event::Model {
        let data = ProductChanged {
            product_id: product.id,
            name: product.name.clone(),
            price: product.price,
            currency: self.currency.code().to_owned(),
            available: product.available,
            sku: product.sku.clone(),
        };
        new_event(Uuid::now_v7(), r#type, Subject::Product(product.id), product.version, &data, origin)
    }
}

/// All values, or every rejection.
fn all<A, B, C>(
    name: Result<A, Rejection>,
    price: Result<B, Rejection>,
    sku: Result<C, Rejection>,
) -> Result<(A, B, C), Vec<Rejection>> {
    match (name, price, sku) {
        (Ok(name), Ok(price), Ok(sku)) => Ok((name, price, sku)),
        (name, price, sku) => Err([name.err(), price.err(), sku.err()].into_iter().flatten().collect()),
    }
}

fn valid_price(price: Option<i64>) -> Result<i64, Rejection> {
    price.filter(|price| (0..=MAX_TOTAL).contains(price)).ok_or(Rejection::PriceOutOfRange)
}

/// Trims a SKU. It keeps its case, but another product cannot have it in another case.
fn valid_sku(sku: String) -> Result<String, Rejection> {
    let sku = sku.trim();
    if is_sku(sku) { Ok(sku.to_owned()) } else { Err(Rejection::InvalidSku) }
}

/// Maps a violation of the unique index of SKUs.
fn sku_taken<Row>(error: DbErr) -> Outcome<Row> {
    match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(what)) if what.contains("sku") => Ok(Err(vec![Rejection::SkuTaken])),
        _ => Err(error.into()),
    }
}
