//! The refunds of orders: a row for each cancellation and for each refund of a part, never updated or deleted.

use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "order_refunds")]
pub struct Model {
    /// The id of its event: UUID v7, begins with the time.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub order_id: Uuid,
    pub client_id: i64,
    /// The client's version after it. With `client_id` it identifies the event.
    pub version: i32,
    pub refunded_at: DateTimeUtc,
    /// Minor units: the sum over its items.
    pub amount: i64,
    /// Whether it is the cancellation of the order, which refunds all that is left of it.
    pub cancels: bool,
}

impl ActiveModelBehavior for ActiveModel {}
