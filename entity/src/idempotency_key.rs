//! Idempotency keys of requests that have changed something, or have found nothing to change. They are kept for ever. Of a
//! forgotten client only those are kept whose requests could be executed again, as hashes. The database sets the column
//! `created_at`.

use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "idempotency_keys")]
pub struct Model {
    /// `client N` or `product N`, or `caller` and the subject of a token for a command that creates. `forgotten` for requests about
    /// a forgotten client: then the key is a hash of both.
    #[sea_orm(primary_key, auto_increment = false)]
    pub scope: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub key: String,
    /// The name of the mutation.
    pub command: String,
    /// The event in `order_events` that has the result of the request.
    pub event_id: Uuid,
    /// A hash of the input. Orders have none, nor rows of older releases: the event has the input.
    pub input_hash: Option<String>,
}

impl ActiveModelBehavior for ActiveModel {}
