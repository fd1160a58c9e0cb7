use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "products")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub name: String,
    /// Minor units, 0 or more.
    pub price: i64,
    /// How many events this product has: the version of the newest one, 0 when there is none.
    pub version: i32,
}

impl ActiveModelBehavior for ActiveModel {}
