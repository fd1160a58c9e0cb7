//! Events that the queue refused. A row of the outbox moves here, so that the events behind it are not delayed. The row is
//! deleted when the queue accepts the event.

use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "refused_events")]
pub struct Model {
    /// The event's id in `order_events`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub event_id: Uuid,
    /// When the event was inserted into the outbox. All times are the database's.
    pub inserted_at: DateTimeUtc,
    /// When the queue first refused the event.
    pub refused_at: DateTimeUtc,
    /// When it is sent again.
    pub retry_at: DateTimeUtc,
    /// Why the queue refused it first.
    pub reason: String,
}

impl ActiveModelBehavior for ActiveModel {}
