//! Why orders that were accepted while the database was away were rejected later. The database sets the column `rejected_at`.

use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "rejected_orders")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub client_id: i64,
    /// The idempotency key of the order.
    #[sea_orm(primary_key, auto_increment = false)]
    pub key: String,
    /// Everything that is wrong with the order.
    #[sea_orm(column_type = "JsonBinary")]
    pub reasons: Json,
}

impl ActiveModelBehavior for ActiveModel {}
