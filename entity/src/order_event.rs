//! The event log. A row is inserted in the transaction of the change that it describes. It is never deleted, and
//! updated only to mask personal data when its client is forgotten.

use sea_orm::entity::prelude::*;

use crate::event::{CloudEvent, Event, InvalidEvent};

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "order_events")]
pub struct Model {
    /// UUID v7: sorts by the time of writing.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// The client of the event, or else…
    pub client_id: Option<i64>,
    /// …the product.
    pub product_id: Option<i64>,
    /// Counts the events of the client or product from 1, without gaps.
    pub version: i32,
    /// CloudEvents `type`, such as [`ORDER_PLACED`](crate::event::ORDER_PLACED).
    pub r#type: String,
    /// CloudEvents `data`.
    #[sea_orm(column_type = "JsonBinary")]
    pub payload: Json,
    pub occurred_at: DateTimeUtc,
    /// W3C trace context of the request that caused the event.
    pub traceparent: Option<String>,
    /// The subject of the token of that request.
    pub actor: Option<String>,
    /// Whether the token was limited to the client of the event. `None` stands for no.
    pub actor_is_client: Option<bool>,
}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// The id of the client or product.
    pub(crate) fn subject_id(&self) -> i64 {
        self.client_id.or(self.product_id).unwrap_or_default()
    }

    /// The message to publish for this row, the same each time.
    pub fn message(&self) -> String {
        let event = CloudEvent {
            specversion: "1.0",
            id: self.id,
            source: "/orders",
            r#type: &self.r#type,
            subject: &self.subject_id().to_string(),
            time: self.occurred_at,
            datacontenttype: Some("application/json"),
            sequence: &format!("{:010}", self.version),
            traceparent: self.traceparent.as_deref(),
            authtype: self
                .actor
                .as_ref()
                .map(|_| if self.actor_is_client == Some(true) { "app_user" } else { "unknown" }),
            authid: self.actor.as_deref(),
            data: &self.payload,
        };
        let message = serde_json::to_string(&event).expect("strings, numbers and JSON always serialise");
        // JSON allows these two characters inside strings, and SQS rejects them.
        message.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
    }
}

impl Event {
    /// Reads a row of the event log, as [`Event::parse`] reads its message.
    pub fn from_row(row: Model, currency: &str) -> Result<Event, InvalidEvent> {
        Event::from_parts(row.id, row.occurred_at, row.version, &row.r#type, row.payload, currency)
    }
}

/// The least id that an event of this time can have: ids begin with the milliseconds since 1970 (RFC 9562, version 7).
pub fn least_id_at(time: DateTimeUtc) -> Uuid {
    Uuid::from_u128((time.timestamp_millis().max(0) as u128) << 80)
}
