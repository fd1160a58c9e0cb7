//! Events for readers of the write-ahead log, with the columns that the outbox event router of Debezium expects. The transaction that
//! inserts a row deletes it, so the table is always empty.

use sea_orm::entity::prelude::*;

use crate::order_event;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outbox_messages")]
pub struct Model {
    /// The event's id in `order_events`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// `client` or `product`.
    pub aggregatetype: String,
    /// The id of the client or product.
    pub aggregateid: String,
    /// CloudEvents `type`.
    pub r#type: String,
    /// The whole message, as the relay sends it.
    pub payload: String,
}

impl ActiveModelBehavior for ActiveModel {}

impl From<&order_event::Model> for Model {
    fn from(event: &order_event::Model) -> Model {
        let kind = if event.client_id.is_some() { "client" } else { "product" };
        Model {
            id: event.id,
            aggregatetype: kind.to_owned(),
            aggregateid: event.subject_id().to_string(),
            r#type: event.r#type.clone(),
            payload: event.message(),
        }
    }
}
