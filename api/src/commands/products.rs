//! Creating products and changing their prices.

use entity::event::{MAX_TOTAL, PRICE_CHANGED, PRODUCT_CREATED};
use entity::{ProductChanged, Subject, order_event, product};
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveValue, ColumnTrait, EntityTrait, QueryFilter, QuerySelect};

use super::database::begin;
use super::{Commands, Outcome, Rejection, both, new_event, next_version, valid_name};

impl Commands {
    /// `price` is in minor units, `None` when it is not a valid amount. Not idempotent.
    pub async fn create_product(
        &self,
        name: &str,
        price: Option<i64>,
        traceparent: Option<String>,
    ) -> Outcome<product::Model> {
        let (name, price) = match both(valid_name(name), valid_price(price)) {
            Ok(valid) => valid,
            Err(rejections) => return Ok(Err(rejections)),
        };
        let transaction = begin(&self.db).await?;
        let new = product::ActiveModel {
            id: ActiveValue::NotSet,
            name: ActiveValue::Set(name),
            price: ActiveValue::Set(price),
            version: ActiveValue::Set(1),
        };
        let product = product::Entity::insert(new).exec_with_returning(&transaction).await?;
        self.commit(transaction, self.event(PRODUCT_CREATED, &product, traceparent)).await?;
        Ok(Ok(product))
    }

    /// `price` is in minor units, `None` when it is not a valid amount. The same price again writes no event. An `id` of
    /// `None` names no product.
    pub async fn change_price(
        &self,
        id: Option<i64>,
        price: Option<i64>,
        traceparent: Option<String>,
    ) -> Outcome<product::Model> {
        let transaction = begin(&self.db).await?;
        let found = match id {
            Some(id) => product::Entity::find_by_id(id).lock_exclusive().one(&transaction).await?,
            None => None,
        };
        let not_found = Rejection::ProductNotFound { item: None };
        let (mut product, price) = match both(found.ok_or(not_found), valid_price(price)) {
            Ok(valid) => valid,
            Err(rejections) => return Ok(Err(rejections)),
        };
        if product.price == price {
            return Ok(Ok(product));
        }
        product.price = price;
        product.version = match next_version(product.version) {
            Ok(version) => version,
            Err(rejection) => return Ok(Err(vec![rejection])),
        };
        product::Entity::update_many()
            .col_expr(product::Column::Price, Expr::val(product.price))
            .col_expr(product::Column::Version, Expr::val(product.version))
            .filter(product::Column::Id.eq(product.id))
            .exec(&transaction)
            .await?;
        self.commit(transaction, self.event(PRICE_CHANGED, &product, traceparent)).await?;
        Ok(Ok(product))
    }

    fn event(&self, r#type: &str, product: &product::Model, traceparent: Option<String>) -> order_event::Model {
        let data = ProductChanged {
            product_id: product.id,
            name: product.name.clone(),
            price: product.price,
            currency: self.currency.code().to_owned(),
            available: true,
            sku: None,
        };
        new_event(r#type, Subject::Product(product.id), product.version, &data, traceparent)
    }
}

fn valid_price(price: Option<i64>) -> Result<i64, Rejection> {
    price.filter(|price| (0..=MAX_TOTAL).contains(price)).ok_or(Rejection::PriceOutOfRange)
}
