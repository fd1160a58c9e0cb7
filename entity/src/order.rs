use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "orders")]
pub struct Model {
    /// UUID v7: sorts by the time of placing.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub client_id: i64,
    /// The client's version after this order. With `client_id` it identifies the order's event, which holds the order exactly
    /// as it was placed.
    pub version: i32,
    pub placed_at: DateTimeUtc,
    /// Minor units.
    pub total: i64,
    pub cancelled_at: Option<DateTimeUtc>,
    pub cancel_reason: Option<String>,
    /// Minor units: the sum of its refunds and of its cancellation.
    pub refunded: i64,
}

impl ActiveModelBehavior for ActiveModel {}
