//! Idempotency keys of requests that have changed something, or have found nothing to change. They are kept for ever, except
//! those of a forgotten client. The database sets
//! the column `created_at`.

use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "idempotency_keys")]
pub struct Model {
    /// `client N` or `product N`, or `caller` and the subject of a token for a command that creates.
    #[sea_orm(primary_key, auto_increment = false)]
    pub scope: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub key: String,
    /// The name of the mutation.
    pub command: String,
    /// The event in `order_events` that has the result of the request.
    pub event_id: Uuid,
}

impl ActiveModelBehavior for ActiveModel {}
