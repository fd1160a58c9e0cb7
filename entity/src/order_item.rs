use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "order_items")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub order_id: Uuid,
    /// Position in the order, from 0.
    #[sea_orm(primary_key, auto_increment = false)]
    pub line: i32,
    pub product_id: i64,
    /// Minor units, at the time of the order.
    pub unit_price: i64,
    pub quantity: i32,
}

impl ActiveModelBehavior for ActiveModel {}
