//! The transactional outbox: one row for each event of the log that is not published yet. A row is inserted in the
//! transaction of the change and deleted when the queue has accepted the event. The database sets the column `inserted_at`.

use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outbox")]
pub struct Model {
    /// The event's id in `order_events`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub event_id: Uuid,
}

impl ActiveModelBehavior for ActiveModel {}
