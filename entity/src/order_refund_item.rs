use sea_orm::entity::prelude::*;

/// The part of a refund that is for one line of the order. A line of which nothing is refunded has no row.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "order_refund_items")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub refund_id: Uuid,
    /// Position in the order, from 0.
    #[sea_orm(primary_key, auto_increment = false)]
    pub line: i32,
    pub product_id: i64,
    /// The units of the line for a cancellation, 0 for a refund.
    pub quantity: i32,
    /// Minor units.
    pub amount: i64,
}

impl ActiveModelBehavior for ActiveModel {}
