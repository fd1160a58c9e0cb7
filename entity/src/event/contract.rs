//! The published contract of the events, generated from their types: a JSON Schema (2020-12) for each type, and one AsyncAPI 3
//! document with all of them. `events/` has a copy, which `api events --write events` writes.

use chrono::DateTime;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    CLIENT_FORGOTTEN, CLIENT_REGISTERED, CLIENT_UPDATED, ClientChanged, CloudEvent, Line, ORDER_CANCELLED,
    ORDER_PLACED, ORDER_REFUNDED, OrderPlaced, PRICE_CHANGED, PRODUCT_CREATED, PRODUCT_UPDATED, ProductChanged, Refund,
};
use crate::order_event;

/// The name of the file with [`asyncapi`].
const ASYNCAPI: &str = "asyncapi.json";

/// A type of events.
struct EventType {
    /// CloudEvents `type`.
    name: &'static str,
    summary: &'static str,
    schema: fn() -> Json,
    /// `data` of the example.
    data: fn() -> Json,
}

/// All types that this release publishes.
fn types() -> [EventType; 9] {
    let event = |name, summary, schema, data| EventType { name, summary, schema, data };
    [
        event(ORDER_PLACED, "A client has placed an order.", schema::<OrderPlaced>, || json!(order())),
        event(ORDER_CANCELLED, "An order was cancelled. What was left of it is refunded.", schema::<Refund>, || {
            json!(refund(290_000, vec![150_000, 140_000]))
        }),
        event(ORDER_REFUNDED, "A part of an order was refunded.", schema::<Refund>, || {
            json!(refund(10_000, vec![0, 10_000]))
        }),
        event(CLIENT_REGISTERED, "A client was registered.", schema::<ClientChanged>, || json!(client())),
        event(CLIENT_UPDATED, "The name or the address of a client has changed.", schema::<ClientChanged>, || {
            json!(ClientChanged { client_name: "Bob B. Bobson".into(), ..client() })
        }),
        event(
            CLIENT_FORGOTTEN,
            "The personal data of a client was erased, and `data` has the mask. Each reader must erase its copies.",
            schema::<ClientChanged>,
            || json!(forgotten()),
        ),
        event(PRODUCT_CREATED, "A product was created.", schema::<ProductChanged>, || json!(product())),
        event(
            PRICE_CHANGED,
            "The price of a product has changed, and perhaps other fields.",
            schema::<ProductChanged>,
            || json!(ProductChanged { price: 139_900, ..product() }),
        ),
        event(
            PRODUCT_UPDATED,
            "The name, SKU or availability of a product has changed, but not its price.",
            schema::<ProductChanged>,
            || json!(ProductChanged { available: false, ..product() }),
        ),
    ]
}

fn schema<Data: JsonSchema>() -> Json {
    // Without `$defs`, so that the schemas can be parts of another document.
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<CloudEvent<String, Data>>().to_value()
}

impl EventType {
    fn schema(&self) -> Json {
        let mut schema = (self.schema)();
        schema["title"] = json!(self.name);
        schema["properties"]["type"]["const"] = json!(self.name);
        schema["examples"] = json!([self.example()]);
        schema
    }

    /// A message as the api publishes it.
    fn example(&self) -> Json {
        let data = (self.data)();
        let id = |name| data.get(name).and_then(Json::as_i64);
        let row = order_event::Model {
            id: Uuid::from_u128(0x0193_6d2f_5b40_7c1e_9d2a_6f0b_4c8e_1a35),
            client_id: id("clientId"),
            product_id: id("productId"),
            version: 7,
            r#type: self.name.to_owned(),
            payload: data.clone(),
            occurred_at: DateTime::from_timestamp_millis(1_795_780_800_123).expect("a valid time"),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            actor: Some("bob@shop".into()),
            actor_is_client: Some(true),
        };
        serde_json::from_str(&row.message()).expect("a message is JSON")
    }
}

/// The files of the contract: their names and contents.
pub fn files() -> Vec<(String, String)> {
    let text = |document: Json| format!("{document:#}\n");
    let schemas = types().map(|event| (format!("{}.schema.json", event.name), text(event.schema())));
    schemas.into_iter().chain([(ASYNCAPI.to_owned(), text(asyncapi()))]).collect()
}

/// The AsyncAPI document: <https://www.asyncapi.com/docs/reference/specification/v3.0.0>.
pub fn asyncapi() -> Json {
    let types = types();
    let names = types.each_ref().map(|event| event.name);
    let references = |place: &str| names.map(|name| json!({ "$ref": format!("#/{place}/messages/{name}") }));
    let map = |values: Vec<Json>| -> Json { names.iter().map(ToString::to_string).zip(values).collect() };
    let message = |event: &EventType| {
        let mut payload = event.schema();
        let payload_fields = payload.as_object_mut().expect("a schema is an object");
        payload_fields.remove("$schema");
        payload_fields.remove("examples");
        json!({
            "name": event.name,
            "title": event.name,
            "summary": event.summary,
            "contentType": "application/cloudevents+json",
            "payload": payload,
            "examples": [{ "payload": event.example() }],
        })
    };
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Events of the order service",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Each change of an order, client or product, as CloudEvents 1.0 in JSON, at least once and in any order. \
                            docs/events.md says how to read them.",
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {
            "orders": {
                "address": "orders",
                "title": "The SNS topic or the SQS queue",
                "messages": map(references("components").into()),
            },
        },
        "operations": {
            "publish": {
                "action": "send",
                "channel": { "$ref": "#/channels/orders" },
                "messages": references("channels/orders"),
            },
        },
        "components": { "messages": map(types.iter().map(message).collect()) },
    })
}

fn client() -> ClientChanged {
    ClientChanged { client_id: 1, client_name: "Bob".into(), client_email: "bob@anemailprovider.com".into() }
}

fn forgotten() -> ClientChanged {
    ClientChanged { client_id: 1, client_name: "Forgotten client".into(), client_email: "forgotten-1@invalid".into() }
}

fn product() -> ProductChanged {
    ProductChanged {
        product_id: 2,
        name: "Computer".into(),
        price: 150_000,
        currency: "USD".into(),
        available: true,
        sku: Some("PC-1".into()),
    }
}

fn order() -> OrderPlaced {
    let line =
        |product_id, name: &str, unit_price, quantity| Line { product_id, name: name.into(), unit_price, quantity };
    OrderPlaced {
        client_id: 1,
        client_name: "Bob".into(),
        client_email: "bob@anemailprovider.com".into(),
        order_id: Uuid::from_u128(0x0193_6d2f_5b3e_7a90_8e11_3b5d_2f7a_9c64),
        currency: "USD".into(),
        total: 300_000,
        lines: vec![line(2, "Computer", 150_000, 1), line(3, "Phone", 50_000, 3)],
    }
}

fn refund(amount: i64, amounts: Vec<i64>) -> Refund {
    Refund {
        order: order(),
        placed_at: DateTime::from_timestamp_millis(1_795_777_200_456).expect("a valid time"),
        placed_version: 3,
        reason: Some("Ordered by mistake".into()),
        amount,
        amounts,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::Event;
    use super::*;

    #[test]
    fn the_committed_contract_is_up_to_date() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events");
        let committed = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let committed = committed.map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        });
        let parse = |(name, text): (String, String)| (name, serde_json::from_str::<Json>(&text).unwrap());
        let committed: BTreeMap<String, Json> = committed.map(parse).collect();
        let generated: BTreeMap<String, Json> = files().into_iter().map(parse).collect();
        assert!(committed == generated, "events/ is out of date. Run: cargo run -p api -- events --write events");
    }

    #[test]
    fn the_projector_accepts_each_example() {
        for event in types() {
            let example = event.example();
            let sent_at = DateTime::from_timestamp_millis(1_795_780_801_000).unwrap();
            Event::parse(&example.to_string(), "USD", sent_at).unwrap();
        }
    }
}
