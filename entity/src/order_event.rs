//! The event log. A row is inserted in the transaction of the change that it describes, and is never updated or deleted.

use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "order_events")]
pub struct Model {
    /// UUID v7: sorts by the time of writing.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Whose event it is: a client's…
    pub client_id: Option<i64>,
    /// …or a product's.
    pub product_id: Option<i64>,
    /// 1 for its first event, then one more each time, without gaps.
    pub version: i32,
    /// CloudEvents `type`, such as [`ORDER_PLACED`](crate::event::ORDER_PLACED).
    pub r#type: String,
    /// CloudEvents `data`.
    #[sea_orm(column_type = "JsonBinary")]
    pub payload: Json,
    pub occurred_at: DateTimeUtc,
    /// W3C trace context of the request that caused the event.
    pub traceparent: Option<String>,
}

impl ActiveModelBehavior for ActiveModel {}

/// The least id that an event of this time can have: ids begin with the milliseconds since 1970 (RFC 9562, version 7).
pub fn least_id_at(time: DateTimeUtc) -> Uuid {
    Uuid::from_u128((time.timestamp_millis().max(0) as u128) << 80)
}
