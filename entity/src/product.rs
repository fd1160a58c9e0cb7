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
    /// Whether it can be ordered.
    pub available: bool,
    /// Unique, whatever its case.
    pub sku: Option<String>,
    /// The version of the product's newest event.
    pub version: i32,
}

impl ActiveModelBehavior for ActiveModel {}
